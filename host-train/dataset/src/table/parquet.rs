//! Apache Parquet: flat tables, as pandas, Polars, DuckDB and Arrow write them.
//!
//! Source: the Apache Parquet format specification (`README.md`, `Encodings.md`, `parquet.thrift`). What is read: columns
//! that are required or optional; boolean, int32, int64, float, double and text; plain and dictionary encoding; data
//! pages of versions 1 and 2; no compression, Snappy or gzip. A column that nobody asks for may be anything.

mod thrift;

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use super::{Cell, DatasetError, Rows};
use thrift::{Reader, Struct};

const MAGIC: &[u8] = b"PAR1";
/// A damaged file must not ask for more.
const MAX_ROWS: usize = 1 << 27;
const MAX_PAGE: u64 = 1 << 31;

/// Field numbers of `parquet.thrift`.
mod field {
    pub(super) mod file {
        pub(crate) const SCHEMA: i64 = 2;
        pub(crate) const ROWS: i64 = 3;
        pub(crate) const ROW_GROUPS: i64 = 4;
    }
    pub(super) mod schema {
        pub(crate) const REPETITION: i64 = 3;
        pub(crate) const NAME: i64 = 4;
        pub(crate) const CHILDREN: i64 = 5;
        pub(crate) const CONVERTED: i64 = 6;
    }
    pub(super) mod group {
        pub(crate) const COLUMNS: i64 = 1;
        pub(crate) const ROWS: i64 = 3;
    }
    pub(super) mod chunk {
        pub(crate) const META: i64 = 3;
        pub(crate) const TYPE: i64 = 1;
        pub(crate) const CODEC: i64 = 4;
        pub(crate) const COMPRESSED: i64 = 7;
        pub(crate) const DATA_AT: i64 = 9;
        pub(crate) const DICTIONARY_AT: i64 = 11;
    }
    pub(super) mod page {
        pub(crate) const TYPE: i64 = 1;
        pub(crate) const COMPRESSED: i64 = 3;
        pub(crate) const DATA: i64 = 5;
        pub(crate) const DICTIONARY: i64 = 7;
        pub(crate) const DATA_2: i64 = 8;
        /// Of each of the three headers inside.
        pub(crate) const VALUES: i64 = 1;
        pub(crate) const ENCODING: i64 = 2;
        pub(crate) const ENCODING_2: i64 = 4;
        pub(crate) const DEFINITION_LENGTH_2: i64 = 5;
        pub(crate) const REPETITION_LENGTH_2: i64 = 6;
        pub(crate) const IS_COMPRESSED_2: i64 = 7;
    }
}

type Result<T> = std::result::Result<T, String>;

pub(super) fn read(path: &Path, rows: &mut Rows<'_>) -> std::result::Result<(), DatasetError> {
    let file = std::fs::read(path).map_err(DatasetError::read(path))?;
    let broken = |what: String| {
        let fix = "write it as a flat table, without compression or with Snappy or gzip";
        DatasetError::refused(path, what, fix)
    };
    let table = Table::parse(&file).map_err(broken)?;
    rows.begin_file(path, &table.names)?;
    let used = rows.roles.used();
    for group in &table.groups {
        let columns = (0..table.names.len()).map(|column| {
            if !used.contains(&column) {
                return Ok(Vec::new());
            }
            group
                .column(&file, column, table.optional[column])
                .map_err(|what| format!("column {}: {what}", table.names[column]))
        });
        let columns = columns.collect::<Result<Vec<_>>>().map_err(broken)?;
        for row in 0..group.rows {
            let cell = |column: usize| columns[column].get(row).map_or(Cell::Missing, Value::cell);
            rows.push(&format!("row {}", group.first_row + row), cell)?;
        }
    }
    Ok(())
}

/// What the footer says.
struct Table {
    names: Vec<String>,
    /// Whether a column may have missing values.
    optional: Vec<bool>,
    groups: Vec<Group>,
}

/// Some consecutive rows.
struct Group {
    first_row: usize,
    rows: usize,
    chunks: Vec<Chunk>,
}

/// One column of a group.
#[derive(Clone, Copy)]
struct Chunk {
    kind: i64,
    codec: i64,
    begin: usize,
    length: usize,
    unsigned: bool,
    decimal: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Missing,
    Number(f64),
    Text(String),
}

impl Value {
    fn cell(&self) -> Cell<'_> {
        match self {
            Self::Missing => Cell::Missing,
            Self::Number(value) => Cell::Number(*value),
            Self::Text(text) => Cell::Text(text),
        }
    }
}

impl Table {
    fn parse(file: &[u8]) -> Result<Self> {
        let damaged = || "it is no whole Parquet file".to_owned();
        let rest = file.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix(MAGIC)).ok_or_else(damaged)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(damaged)?;
        let begin = rest.len().checked_sub(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        let meta = Reader::new(&rest[begin..]).structure()?;
        let schema = meta.list(field::file::SCHEMA)?;
        let leaves = schema.get(1..).ok_or_else(damaged)?;
        if leaves.iter().any(|leaf| leaf.int(field::schema::CHILDREN).is_some_and(|children| children > 0)) {
            return Err("it has columns inside of columns".to_owned());
        }
        let names = leaves.iter().map(|leaf| leaf.text(field::schema::NAME)).collect::<Result<Vec<_>>>()?;
        let repetition = |leaf: &Struct<'_>| leaf.int(field::schema::REPETITION).unwrap_or(0);
        if let Some(leaf) = leaves.iter().find(|leaf| repetition(leaf) > 1) {
            return Err(format!("column {} holds lists", leaf.text(field::schema::NAME)?));
        }
        let optional = leaves.iter().map(|leaf| repetition(leaf) == 1).collect();
        let mut groups = Vec::new();
        let mut first_row = 0;
        for group in meta.list(field::file::ROW_GROUPS)? {
            let rows = group.size(field::group::ROWS)?;
            let columns = group.list(field::group::COLUMNS)?;
            if columns.len() != names.len() || rows > MAX_ROWS {
                return Err(damaged());
            }
            let chunks =
                columns.iter().zip(leaves).map(|(chunk, leaf)| Chunk::parse(chunk, leaf)).collect::<Result<_>>()?;
            groups.push(Group { first_row, rows, chunks });
            first_row += rows;
        }
        if first_row != meta.size(field::file::ROWS)? {
            return Err(damaged());
        }
        Ok(Self { names, optional, groups })
    }
}

impl Chunk {
    fn parse(chunk: &Struct<'_>, leaf: &Struct<'_>) -> Result<Self> {
        let meta = chunk.structure(field::chunk::META)?;
        let data = meta.size(field::chunk::DATA_AT)?;
        // Some writers say 0 where there is no dictionary.
        let dictionary = meta.size(field::chunk::DICTIONARY_AT).ok().filter(|&at| at > 0);
        let converted = leaf.int(field::schema::CONVERTED);
        Ok(Self {
            kind: meta.int(field::chunk::TYPE).ok_or("it has no type")?,
            codec: meta.int(field::chunk::CODEC).ok_or("it has no codec")?,
            begin: dictionary.map_or(data, |dictionary| dictionary.min(data)),
            length: meta.size(field::chunk::COMPRESSED)?,
            unsigned: converted.is_some_and(|kind| (11..=14).contains(&kind)),
            decimal: converted == Some(5),
        })
    }
}

impl Group {
    /// The values of a column, one a row.
    fn column(&self, file: &[u8], column: usize, optional: bool) -> Result<Vec<Value>> {
        let chunk = self.chunks[column];
        if chunk.decimal {
            return Err("decimals cannot be read; write it as float".to_owned());
        }
        let end = chunk.begin.checked_add(chunk.length).filter(|&end| end <= file.len());
        let mut reader = Reader::new(&file[..end.ok_or("it is outside of the file")?][chunk.begin..]);
        let mut dictionary = Vec::new();
        let mut values = Vec::new();
        while values.len() < self.rows {
            let header = reader.structure()?;
            let page = reader.take(header.size(field::page::COMPRESSED)?)?;
            match header.int(field::page::TYPE) {
                Some(0) => {
                    let head = header.structure(field::page::DATA)?;
                    let body = decompress(chunk.codec, page)?;
                    let mut body = Reader::new(&body);
                    let count = head.size(field::page::VALUES)?.min(self.rows - values.len());
                    let present = if optional {
                        let length = body.u32()?;
                        Levels::Read(body.take(length)?)
                    } else {
                        Levels::All
                    };
                    let encoding = head.int(field::page::ENCODING).ok_or("a page has no encoding")?;
                    values.extend(chunk.page(present, body.rest(), count, encoding, &dictionary)?);
                }
                Some(2) => {
                    let head = header.structure(field::page::DICTIONARY)?;
                    let body = decompress(chunk.codec, page)?;
                    let count = head.size(field::page::VALUES)?.min(body.len() + 1);
                    dictionary = chunk.plain(&body, count)?;
                }
                Some(3) => {
                    let head = header.structure(field::page::DATA_2)?;
                    let mut body = Reader::new(page);
                    body.take(head.size(field::page::REPETITION_LENGTH_2).unwrap_or(0))?;
                    let levels = body.take(head.size(field::page::DEFINITION_LENGTH_2).unwrap_or(0))?;
                    let is_compressed = head.bool(field::page::IS_COMPRESSED_2).unwrap_or(true);
                    let body = decompress(if is_compressed { chunk.codec } else { 0 }, body.rest())?;
                    let count = head.size(field::page::VALUES)?.min(self.rows - values.len());
                    let present = if optional { Levels::Read(levels) } else { Levels::All };
                    let encoding = head.int(field::page::ENCODING_2).ok_or("a page has no encoding")?;
                    values.extend(chunk.page(present, &body, count, encoding, &dictionary)?);
                }
                _ => {}
            }
        }
        Ok(values)
    }
}

/// Which values of a page are present: definition levels of one bit.
enum Levels<'a> {
    All,
    Read(&'a [u8]),
}

impl Chunk {
    /// `count` values of a data page, missing ones included.
    fn page(
        &self,
        levels: Levels<'_>,
        body: &[u8],
        count: usize,
        encoding: i64,
        dictionary: &[Value],
    ) -> Result<Vec<Value>> {
        let present = match levels {
            Levels::All => None,
            Levels::Read(levels) => Some(hybrid(levels, 1, count)?),
        };
        let stored = present.as_ref().map_or(count, |present| present.iter().filter(|&&level| level == 1).count());
        let stored: Vec<Value> = match encoding {
            0 => self.plain(body, stored)?,
            2 | 8 if stored > 0 => {
                let (&width, indices) = body.split_first().ok_or("a page ends early")?;
                let value =
                    |index: u32| dictionary.get(index as usize).cloned().ok_or("a value is not in its dictionary");
                hybrid(indices, width, stored)?.into_iter().map(value).collect::<std::result::Result<_, _>>()?
            }
            2 | 8 => Vec::new(),
            3 if self.kind == 0 => {
                let bits = hybrid(body.get(4..).ok_or("a page ends early")?, 1, stored)?;
                bits.into_iter().map(|bit| Value::Number(bit.into())).collect()
            }
            _ => {
                return Err(format!(
                    "its encoding {encoding} cannot be read; write it with plain or dictionary encoding"
                ));
            }
        };
        let Some(present) = present else { return Ok(stored) };
        let mut stored = stored.into_iter();
        Ok(present
            .iter()
            .map(|&level| if level == 1 { stored.next() } else { None }.unwrap_or(Value::Missing))
            .collect())
    }

    /// `count` values one after the other.
    fn plain(&self, body: &[u8], count: usize) -> Result<Vec<Value>> {
        fn each<const N: usize>(body: &[u8], count: usize, value: impl Fn([u8; N]) -> f64) -> Result<Vec<Value>> {
            let values = body.as_chunks::<N>().0.get(..count).ok_or("a page ends early")?;
            Ok(values.iter().map(|&bytes| Value::Number(value(bytes))).collect())
        }
        match self.kind {
            0 => {
                let bits = (0..count).map(|at| body.get(at / 8).map(|byte| f64::from(byte >> (at % 8) & 1)));
                bits.map(|bit| bit.map(Value::Number).ok_or_else(|| "a page ends early".to_owned())).collect()
            }
            1 if self.unsigned => each(body, count, |bytes| u32::from_le_bytes(bytes).into()),
            1 => each(body, count, |bytes| i32::from_le_bytes(bytes).into()),
            2 if self.unsigned => each(body, count, |bytes| u64::from_le_bytes(bytes) as f64),
            2 => each(body, count, |bytes| i64::from_le_bytes(bytes) as f64),
            4 => each(body, count, |bytes| f32::from_le_bytes(bytes).into()),
            5 => each(body, count, f64::from_le_bytes),
            6 => {
                let mut reader = Reader::new(body);
                let mut text = || {
                    let length = reader.u32()?;
                    Ok(Value::Text(String::from_utf8_lossy(reader.take(length)?).into_owned()))
                };
                (0..count).map(|_| text()).collect()
            }
            kind => Err(format!("its type {kind} cannot be read; write it as numbers or text, or leave it out")),
        }
    }
}

/// Numbers of `width` bits in runs: of one number, or of numbers packed from the lowest bit on.
fn hybrid(body: &[u8], width: u8, count: usize) -> Result<Vec<u32>> {
    if width > 32 {
        return Err("a bit width is above 32".to_owned());
    }
    let width = usize::from(width);
    let mut reader = Reader::new(body);
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let header = reader.varint()?;
        let run = usize::try_from(header >> 1).unwrap_or(usize::MAX);
        let left = count - numbers.len();
        if header & 1 == 0 {
            let bytes = reader.take(width.div_ceil(8))?;
            let number = bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte));
            if run == 0 {
                return Err("a run is empty".to_owned());
            }
            numbers.extend(std::iter::repeat_n(number, run.min(left)));
        } else {
            let packed = reader.take(run.checked_mul(width).ok_or("a run is too long")?)?;
            let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
            let number = |index: usize| (0..width).fold(0, |number, at| number | bit(index * width + at) << at);
            if run == 0 {
                return Err("a run is empty".to_owned());
            }
            numbers.extend((0..run.saturating_mul(8).min(left)).map(number));
        }
    }
    Ok(numbers)
}

fn decompress(codec: i64, page: &[u8]) -> Result<Cow<'_, [u8]>> {
    match codec {
        0 => Ok(Cow::Borrowed(page)),
        1 => {
            let plain = snap::raw::Decoder::new().decompress_vec(page);
            plain.map(Cow::Owned).map_err(|cause| format!("its Snappy stream is damaged ({cause})"))
        }
        2 => {
            let mut plain = Vec::new();
            let read = flate2::read::MultiGzDecoder::new(page).take(MAX_PAGE).read_to_end(&mut plain);
            read.map(|_| Cow::Owned(plain)).map_err(|_| "its gzip stream is damaged".to_owned())
        }
        _ => {
            let name =
                ["", "", "", "LZO", "Brotli", "LZ4", "Zstandard", "LZ4"].get(codec as usize).copied().unwrap_or("?");
            Err(format!("it is compressed with {name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TableOptions, load_parquet};
    use super::*;

    /// Files and what is in them: `tests/parquet/make.py`.
    const FILES: [(&str, &[u8]); 4] = [
        ("snappy", include_bytes!("../../tests/parquet/snappy.parquet")),
        ("gzip2", include_bytes!("../../tests/parquet/gzip2.parquet")),
        ("plain", include_bytes!("../../tests/parquet/plain.parquet")),
        ("zstd", include_bytes!("../../tests/parquet/zstd.parquet")),
    ];

    fn load(name: &str, options: &TableOptions) -> std::result::Result<crate::Dataset, DatasetError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.parquet");
        let file = FILES.iter().find(|(known, _)| *known == name).unwrap().1;
        std::fs::write(&path, file).unwrap();
        load_parquet(&path, options)
    }

    fn columns(names: &[&str]) -> TableOptions {
        TableOptions { columns: names.iter().map(|&name| name.to_owned()).collect(), ..TableOptions::default() }
    }

    #[test]
    fn every_layout_gives_the_same_table() {
        for name in ["snappy", "gzip2", "plain"] {
            let all = ["double", "float", "int32", "int64", "uint8", "bool"];
            let options = TableOptions { label: Some("text".to_owned()), ..columns(&all) };
            let set = load(name, &options).unwrap();
            assert_eq!(
                (set.len(), set.shape, &set.channel_names[..]),
                (300, crate::SampleShape::vector(6), &all.map(str::to_owned)[..])
            );
            assert_eq!(set.class_names, ["ant", "bee", "cat"]);
            for row in 0..300usize {
                let expected = [
                    row as f32 / 8.0,
                    -(row as f32) / 4.0,
                    -(row as f32),
                    row as f32 * 1e9,
                    (row % 256) as f32,
                    (row % 3 == 0) as u8 as f32,
                ];
                assert_eq!(set.natural(row), Some(&expected[..]), "{name}, row {row}");
                assert_eq!(set.labels[row], (row / 7 % 3) as u16);
            }
        }
    }

    #[test]
    fn missing_values_are_found_where_they_are() {
        for name in ["snappy", "gzip2", "plain"] {
            let message = load(name, &columns(&["gaps"])).unwrap_err().to_string();
            assert!(message.contains("row 11, column gaps: the value is missing"), "{message}");
            let options = TableOptions { drop_bad_rows: true, ..columns(&["gaps"]) };
            let set = load(name, &options).unwrap();
            assert_eq!((set.len(), set.natural(11)), (272, Some(&[12.0][..])));
            assert!(set.notes[0].contains("28 of 300 rows"), "{:?}", set.notes);
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let message = load("zstd", &columns(&["double"])).unwrap_err().to_string();
        assert!(
            message.contains("column double: it is compressed with Zstandard") && message.contains("Snappy"),
            "{message}"
        );
    }

    #[test]
    fn truncated_and_changed_files_never_panic() {
        for (_, file) in &FILES[..3] {
            for length in (0..file.len()).step_by(7) {
                assert!(Table::parse(&file[..length]).is_err());
            }
            for at in (0..file.len()).step_by(11) {
                let mut file = file.to_vec();
                file[at] ^= 1;
                if let Ok(table) = Table::parse(&file) {
                    for group in table.groups.iter().filter(|group| group.rows < 1000) {
                        (0..group.chunks.len())
                            .for_each(|column| _ = group.column(&file, column, table.optional[column]));
                    }
                }
            }
        }
    }
}
