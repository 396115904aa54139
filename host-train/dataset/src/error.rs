//! Why data cannot be used.

use std::path::{Path, PathBuf};

use super::SampleShape;

/// Why a data set cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The system refuses a file or folder.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file or folder is not what its loader needs.
    #[error("{}: {what}; {fix}", path.display())]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and where inside it.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// An option was given that does not apply to this kind of data, or its value makes no sense.
    #[error("{0}")]
    Option(String),
    /// There is no such file, folder or data set.
    #[error("{0}")]
    Missing(String),
    /// Something that works on pixels was given a signal or a table.
    #[error("this needs images of one byte a value; the data are {0} numbers a sample (height x width x channels)")]
    NotImages(SampleShape),
    /// A packed file (`data/fashion14.md`) is damaged.
    #[error("damaged data set file: {0}")]
    Packed(&'static str),
}

impl DatasetError {
    pub(crate) fn refused(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), what: what.into(), fix: fix.into() }
    }

    /// For `map_err`.
    pub(crate) fn read(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |cause| Self::Read { path: path.to_owned(), cause }
    }
}
