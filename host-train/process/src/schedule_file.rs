//! Variances of a schedule from a file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Why a file gives no schedule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleFileError {
    /// It cannot be read.
    #[error("cannot read the schedule {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is not what its extension says.
    #[error("{} is no schedule: {cause}; give `betas = [...]` or `alpha_bars = [...]`", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        cause: Box<toml::de::Error>,
    },
    /// A word that is not a number.
    #[error("{}, line {line}: {word:?} is not a number; give one variance after the other, by commas or line ends", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        word: String,
    },
}

/// Either list, one number a timestep.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Lists {
    Betas { betas: Vec<f64> },
    AlphaBars { alpha_bars: Vec<f64> },
}

/// The variance of each step from `path`: a `.toml` file with `betas = [...]` or `alpha_bars = [...]`, or text with one
/// beta after the other, separated by commas, spaces or line ends, `#` before a comment. Whether they make a schedule,
/// [`mote_core::schedule::Schedule::fill_betas`] says.
///
/// # Errors
/// [`ScheduleFileError`]
pub fn read_betas(path: &Path) -> Result<Vec<f64>, ScheduleFileError> {
    let unreadable = |cause| ScheduleFileError::Unreadable { path: path.to_owned(), cause };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    if path.extension().is_some_and(|extension| extension == "toml") {
        let lists = toml::from_str(&text)
            .map_err(|cause| ScheduleFileError::Toml { path: path.to_owned(), cause: Box::new(cause) })?;
        return Ok(match lists {
            Lists::Betas { betas } => betas,
            Lists::AlphaBars { alpha_bars } => betas(&alpha_bars),
        });
    }
    let mut betas = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let numbers = line.split('#').next().unwrap_or_default();
        for word in numbers.split([',', ';', ' ', '\t']).filter(|word| !word.is_empty()) {
            let number = || ScheduleFileError::Number { path: path.to_owned(), line: index + 1, word: word.to_owned() };
            betas.push(word.parse().map_err(|_| number())?);
        }
    }
    Ok(betas)
}

/// The variances whose products of `1 - beta` are `alpha_bars`.
fn betas(alpha_bars: &[f64]) -> Vec<f64> {
    let before = [1.0].into_iter().chain(alpha_bars.iter().copied());
    alpha_bars.iter().zip(before).map(|(now, before)| mote_core::schedule::jump_variance(*now, before)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<f64>, ScheduleFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_betas(&path)
    }

    #[test]
    fn text_and_toml_give_the_same_variances() {
        let expected = [0.1, 0.25, 0.5];
        assert_eq!(read("a.csv", "# mine\n0.1,0.25\n\n0.5 # last\n").unwrap(), expected);
        assert_eq!(read("a.toml", "betas = [0.1, 0.25, 0.5]").unwrap(), expected);
        let products = read("a.toml", "alpha_bars = [0.9, 0.675, 0.3375]").unwrap();
        assert!(products.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = read("a.csv", "0.1\n0.2 x\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("\"x\""), "{error}");
        assert!(read("a.toml", "beta = [0.1]").unwrap_err().to_string().contains("`betas = [...]`"));
        assert!(read_betas(Path::new("nowhere.csv")).unwrap_err().to_string().contains("nowhere.csv"));
    }
}
