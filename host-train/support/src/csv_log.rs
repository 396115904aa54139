//! A CSV log that grows with training and can go back to a step.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::files;

/// A file with a header and rows whose first cell is the step they belong to.
#[derive(Debug)]
pub struct CsvLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl CsvLog {
    /// Opens the log to go on after `step` steps: rows of later steps are removed, and all of them where the header is
    /// another one. The folder is made if it is not there.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn open(path: &Path, header: &str, step: u64) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            files::make_folder(folder)?;
        }
        let mut text = format!("{header}\n");
        for (row_step, row) in rows(path, header)? {
            if row_step <= step {
                text.push_str(&row);
                text.push('\n');
            }
        }
        files::write_atomically(path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn row(&mut self, cells: &[String]) -> anyhow::Result<()> {
        writeln!(self.file, "{}", cells.join(",")).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Brings the rows to the file.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The whole rows of a log and their steps; none where the file is missing or has another header.
///
/// # Errors
/// If the file cannot be read.
pub fn rows(path: &Path, header: &str) -> anyhow::Result<Vec<(u64, String)>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&files::read(path)?).into_owned();
    let Some(text) = text.strip_prefix(header).and_then(|rest| rest.strip_prefix('\n')) else {
        return Ok(Vec::new());
    };
    let columns = header.split(',').count();
    // A row that was cut when the program was killed has no end or too few cells.
    let whole = text.split_inclusive('\n').filter_map(|row| row.strip_suffix('\n'));
    let whole = whole.filter(|row| row.split(',').count() == columns);
    Ok(whole.filter_map(|row| Some((row.split(',').next()?.parse().ok()?, row.to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_back_to_the_step_that_training_goes_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/train.csv");
        let header = "step,loss";
        let mut log = CsvLog::open(&path, header, 0).unwrap();
        for step in 1..=5 {
            log.row(&[step.to_string(), format!("0.{step}")]).unwrap();
        }
        drop(log);
        let cut = std::fs::read_to_string(&path).unwrap() + "6,0";
        std::fs::write(&path, cut).unwrap();
        let mut log = CsvLog::open(&path, header, 3).unwrap();
        log.row(&["4".to_owned(), "again".to_owned()]).unwrap();
        log.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "step,loss\n1,0.1\n2,0.2\n3,0.3\n4,again\n");
        assert_eq!(rows(&path, header).unwrap().len(), 4);
        CsvLog::open(&path, "step,loss,norm", 9).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "step,loss,norm\n");
    }
}
