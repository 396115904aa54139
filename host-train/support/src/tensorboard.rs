//! Event files for TensorBoard: scalars and images over steps.
//!
//! A file is a sequence of TFRecords: the data's length (u64), its masked CRC-32C, the data, its masked CRC-32C; all
//! little-endian (TensorFlow, `tensorflow/core/lib/io/record_writer.h`). The data is a protobuf `Event`
//! (`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`), here with the fields that are used.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use prost::Message;

/// `SessionLog.SessionStatus.START`: events of this and later steps in earlier files do not count.
const START: i32 = 1;

/// `Event`
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `SessionLog`
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `Summary`
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `Summary.Value`
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

/// `Summary.Image`
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 1 gray, 3 RGB, 4 RGBA.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// An event file being written.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
}

impl EventWriter {
    /// Begins a new file in `folder`, which is made if it is not there. What earlier files there say of step `step` and
    /// later ones does not count any more.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn create(folder: &Path, step: u64) -> anyhow::Result<Self> {
        crate::files::make_folder(folder)?;
        let seconds = now() as u64;
        let name = |number: u32| folder.join(format!("events.out.tfevents.{seconds:010}.{number:06}.mote"));
        let path = (0..).map(name).find(|path| !path.exists()).expect("not every name is taken");
        let file = File::create_new(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut writer = Self { file: BufWriter::new(file) };
        writer.write(Event { file_version: Some("brain.Event:2".to_owned()), ..Event::default() })?;
        writer.write(Event {
            step: step as i64,
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        })?;
        Ok(writer)
    }

    /// Numbers at a step, each with its tag.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> anyhow::Result<()> {
        let value =
            |&(tag, value): &(&str, f64)| Value { tag: tag.to_owned(), simple_value: Some(value as f32), image: None };
        self.summary(step, values.iter().map(value).collect())
    }

    /// A PNG picture of `(width, height)` pixels at a step.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn image(&mut self, step: u64, tag: &str, (width, height): (u32, u32), png: &[u8]) -> anyhow::Result<()> {
        let (width, height) = (width as i32, height as i32);
        let image = Image { height, width, colorspace: 3, encoded_image_string: png.to_vec() };
        self.summary(step, vec![Value { tag: tag.to_owned(), simple_value: None, image: Some(image) }])
    }

    /// Brings the events to the file.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().context("cannot write the TensorBoard events")
    }

    fn summary(&mut self, step: u64, value: Vec<Value>) -> anyhow::Result<()> {
        self.write(Event { step: step as i64, summary: Some(Summary { value }), ..Event::default() })
    }

    fn write(&mut self, event: Event) -> anyhow::Result<()> {
        let record = record(&Event { wall_time: now(), ..event }.encode_to_vec());
        self.file.write_all(&record).context("cannot write the TensorBoard events")
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// The CRC-32C, rotated right by 15 bits, plus a constant: so that a checksum of data with checksums in it stays sound.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), bits reflected.
fn crc32c(data: &[u8]) -> u32 {
    let byte = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !data.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    /// Reads records back, checking lengths and checksums.
    fn read(mut file: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !file.is_empty() {
            let (length, rest) = file.split_at(8);
            let (length_crc, rest) = rest.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (data_crc, rest) = rest.split_at(4);
            assert_eq!(data_crc, masked_crc(data).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            file = rest;
        }
        events
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 40).unwrap();
        writer.scalars(41, &[("train/loss", 0.25), ("train/rate", 1e-3)]).unwrap();
        writer.image(42, "samples", (2, 1), b"a PNG file").unwrap();
        writer.flush().unwrap();
        EventWriter::create(folder.path(), 41).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2, "a second file does not overwrite the first: {files:?}");
        let events = read(&std::fs::read(&files[0]).unwrap());
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, &events[1].session_log), (40, &Some(SessionLog { status: START })));
        let scalars: Vec<_> = events[2]
            .summary
            .iter()
            .flat_map(|summary| &summary.value)
            .map(|v| (v.tag.as_str(), v.simple_value))
            .collect();
        assert_eq!((events[2].step, scalars), (41, vec![("train/loss", Some(0.25)), ("train/rate", Some(1e-3))]));
        let image = events[3].summary.as_ref().unwrap().value[0].image.as_ref().unwrap();
        assert_eq!((image.width, image.height, &image.encoded_image_string[..]), (2, 1, &b"a PNG file"[..]));
        assert!(events.iter().all(|event| event.wall_time > 1.7e9));
    }
}
