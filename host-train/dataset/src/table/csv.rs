//! Comma-separated values (RFC 4180): the first line names the columns. Semicolons and tabs separate too.

use std::borrow::Cow;
use std::path::Path;

use super::{Cell, DatasetError, Rows};

pub(super) fn read(path: &Path, rows: &mut Rows<'_>) -> Result<(), DatasetError> {
    let bytes = std::fs::read(path).map_err(DatasetError::read(path))?;
    let refused = |what: String, fix: &str| DatasetError::refused(path, what, fix);
    let text = std::str::from_utf8(&bytes).map_err(|cause| refused(cause.to_string(), "save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().next().unwrap_or_default();
    let delimiter = [',', ';', '\t'].into_iter().find(|&delimiter| first.contains(delimiter)).unwrap_or(',');
    let mut records = Records { rest: text, delimiter, line: 1, cells: Vec::new() };
    let unclosed =
        |line| refused(format!("line {line}: a quote is not closed"), "close it, or double quotes inside a cell");
    if !records.next().map_err(unclosed)? {
        return Err(refused("it is empty".to_owned(), "give a line of column names and lines of numbers"));
    }
    let header: Vec<String> = records.cells.iter().map(|cell| cell.trim().to_owned()).collect();
    if header.iter().any(|name| name.parse::<f64>().is_ok()) {
        let what = format!("its first line ({}) is no line of column names", header.join(", "));
        return Err(refused(what, "add one"));
    }
    rows.begin_file(path, &header)?;
    loop {
        let line = records.line;
        if !records.next().map_err(unclosed)? {
            return Ok(());
        }
        let cells = &records.cells;
        if cells.len() != header.len() {
            let what = format!("line {line} has {} cells, the first line {}", cells.len(), header.len());
            return Err(refused(what, "give every line as many"));
        }
        let cell = |column: usize| {
            Some(cells[column].trim()).filter(|cell| !cell.is_empty()).map_or(Cell::Missing, Cell::Text)
        };
        rows.push(&format!("line {line}"), cell)?;
    }
}

/// The records of a text, one after the other.
struct Records<'a> {
    rest: &'a str,
    delimiter: char,
    /// Number of the next record's first line, from 1.
    line: usize,
    /// Of the record read last.
    cells: Vec<Cow<'a, str>>,
}

impl Records<'_> {
    /// Reads a record into `cells`, passing over empty lines; false at the end.
    ///
    /// # Errors
    /// The line where a quote is opened and never closed.
    fn next(&mut self) -> Result<bool, usize> {
        loop {
            self.cells.clear();
            if self.rest.is_empty() {
                return Ok(false);
            }
            while self.cell()? {}
            if self.cells.len() > 1 || !self.cells[0].is_empty() {
                return Ok(true);
            }
        }
    }

    /// Takes a cell and what ends it; true where the record has more.
    fn cell(&mut self) -> Result<bool, usize> {
        let delimiter = self.delimiter;
        let ends = |text: &str| text.find([delimiter, '\n']).unwrap_or(text.len());
        let cell = match self.rest.strip_prefix('"') {
            None => {
                let (cell, rest) = self.rest.split_at(ends(self.rest));
                self.rest = rest;
                Cow::Borrowed(cell.trim_end_matches('\r'))
            }
            Some(mut rest) => {
                let begun = self.line;
                let mut cell = String::new();
                loop {
                    let (part, after) = rest.split_once('"').ok_or(begun)?;
                    cell.push_str(part);
                    self.line += part.matches('\n').count();
                    match after.strip_prefix('"') {
                        Some(after) => {
                            cell.push('"');
                            rest = after;
                        }
                        None => {
                            // What stands between the quote and the cell's end is a carriage return, if anything.
                            self.rest = &after[ends(after)..];
                            break Cow::Owned(cell);
                        }
                    }
                }
            }
        };
        self.cells.push(cell);
        if let Some(rest) = self.rest.strip_prefix(delimiter) {
            self.rest = rest;
            return Ok(true);
        }
        self.line += 1;
        self.rest = self.rest.strip_prefix('\n').unwrap_or("");
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<(usize, Vec<String>)> {
        let mut records = Records { rest: text, delimiter: ',', line: 1, cells: Vec::new() };
        let mut all = Vec::new();
        loop {
            let line = records.line;
            if !records.next().unwrap() {
                return all;
            }
            all.push((line, records.cells.iter().map(|cell| cell.to_string()).collect()));
        }
    }

    #[test]
    fn cells_may_be_quoted_and_lines_may_end_in_two_ways() {
        let text = "a,\"b,\"\"c\"\"\r\nd\",\r\n\r\n,2\n\"\",";
        assert_eq!(
            records(text),
            [
                (1, vec!["a".into(), "b,\"c\"\r\nd".into(), String::new()]),
                (3, vec![String::new(), "2".into()]),
                (5, vec![String::new(), String::new()])
            ]
        );
    }

    #[test]
    fn an_open_quote_is_refused_with_its_line() {
        let mut records = Records { rest: "a\n\"b\n", delimiter: ',', line: 1, cells: Vec::new() };
        assert_eq!((records.next(), records.next()), (Ok(true), Err(2)));
    }
}
