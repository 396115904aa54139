//! The messages between a board that draws and its host.
//!
//! The host sends a [`Command`] and gets one [`Reply`] with the same sequence number; while a job runs, the board sends its
//! [`Status`] unasked. Messages are encoded by [postcard](https://postcard.jamesmunns.com/wire-format) and travel in
//! [`frame`]s. `firmware/README.md` is the specification, byte by byte; `mote-device` is the board's side and `mote-client`
//! the host's.
//!
//! ```
//! use mote_protocol::{Command, Header, Receiver, encode};
//!
//! let header = Header { session: 7, sequence: 1 };
//! let frame = encode(header, &Command::Identify).unwrap();
//!
//! let mut receiver = Receiver::new();
//! let complete = frame.as_bytes().iter().filter(|&&byte| receiver.push(byte)).count();
//! assert_eq!(complete, 1);
//! let received = receiver.frame().unwrap();
//! assert_eq!((received.header, received.message()), (header, Ok(Command::Identify)));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod command;
mod error;
pub mod frame;
mod reply;
mod request;

pub use command::{Aim, Command, Form, Input, Job, Known, Noise, Start};
pub use error::Error;
pub use frame::{BODY_LEN, Encoded, Frame, FrameError, Header, Receiver, UnknownMessage, VERSION, encode};
pub use reply::{FromBoard, Identity, Loaded, ModelIdentity, Reply, SelftestPart, SlotInfo, SlotState, State, Status};
pub use request::values;

/// Most bytes of a picture, a model or an input in one message.
pub const DATA_LEN: usize = 256;

/// Most bytes of a text (a name, a version) in a message; longer ones are cut where a character ends.
pub const TEXT_LEN: usize = 48;

/// The beginning of a text, at most [`TEXT_LEN`] bytes.
pub fn cut(text: &str) -> &str {
    let end = (0..=TEXT_LEN.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        assert_eq!(cut("demo"), "demo");
        let long = "a\u{e9}".repeat(TEXT_LEN);
        assert_eq!(cut(&long), &long[..TEXT_LEN]);
        let shifted = "aa\u{e9}".repeat(TEXT_LEN);
        assert!(cut(&shifted).len() <= TEXT_LEN && shifted.starts_with(cut(&shifted)));
    }

    extern crate std;
}
