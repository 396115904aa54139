//! Why a board refuses a command.

use mote_core::RequestError;
use serde::{Deserialize, Serialize};

/// Why a board refuses a command. Variants keep their numbers: new ones are added at the end.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// The frame is of another version of the protocol.
    Version {
        /// The version that the board speaks.
        supported: u8,
    },
    /// The frame's session is not the board's: it restarted, or another client identified itself.
    Session,
    /// The frame came whole, but holds no command that this firmware knows.
    Command,
    /// This firmware leaves this command out.
    Unsupported,
    /// A job is in progress.
    Busy,
    /// There is no usable model.
    NoModel,
    /// A class that the model does not have.
    Class {
        /// The class asked for.
        class: u16,
        /// How many there are.
        classes: u16,
    },
    /// A row that the model does not have.
    Row {
        /// The row asked for.
        row: u16,
        /// How many there are.
        rows: u16,
    },
    /// Other values were written than the model's samples have, or none.
    Values {
        /// Values written.
        len: u32,
        /// Values needed.
        needed: u32,
    },
    /// A mask that has neither a byte for each pixel nor one for each value, or none.
    Mask {
        /// Bytes written.
        len: u32,
        /// Pixels of a sample.
        pixels: u32,
        /// Values of a sample.
        values: u32,
    },
    /// A mixture beyond its second end.
    Fraction {
        /// The fraction asked for.
        fraction: u32,
    },
    /// Rows that cannot be walked again so.
    Resampling {
        /// The jump asked for.
        jump: u16,
        /// The resamples asked for.
        resamples: u16,
        /// Rows from the first one on.
        rows: u16,
    },
    /// Rows to be walked again by a sampler that remembers the row before.
    Memory,
    /// More moves between rows than noise is numbered for.
    Moves {
        /// Moves that the job takes.
        moves: u64,
    },
    /// There is no finished sample.
    NoSample,
    /// Nothing to do: a benchmark of 0 samples.
    Nothing,
    /// A part does not begin where the one before it ended.
    Offset {
        /// Where it must begin.
        expected: u32,
    },
    /// More bytes than there is room for.
    TooLong {
        /// Bytes that there would be.
        len: u32,
        /// Bytes that there is room for.
        room: u32,
    },
    /// A slot that does not exist, or holds no model.
    Slot,
    /// No update was begun.
    NoUpdate,
    /// The new model's bytes do not have the checksum that was announced.
    Checksum {
        /// CRC-32 of what was written.
        found: u32,
    },
    /// The firmware has a key, and the new model no signature that it accepts.
    Signature,
    /// The new model is no `.mote` file that this firmware reads.
    Unreadable,
    /// The new model needs more arena than there is.
    Arena {
        /// Bytes needed.
        needed: u32,
        /// Bytes that there are.
        len: u32,
    },
    /// The flash cannot be erased, written or read.
    Flash,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Error::Version { supported } => {
                write!(f, "the board speaks version {supported} of the protocol, not {}: update one", crate::VERSION)
            }
            Error::Session => f.write_str("the board is in another session: it restarted, or another program uses it"),
            Error::Command => f.write_str("the board does not know this command: update its firmware"),
            Error::Unsupported => f.write_str("the board's firmware leaves this command out"),
            Error::Busy => f.write_str("the board is busy: wait for its job or cancel it"),
            Error::NoModel => f.write_str("the board has no usable model: write one"),
            Error::Class { class, classes } => RequestError::Class { class, classes }.fmt(f),
            Error::Row { row, rows } => RequestError::Row { row, rows }.fmt(f),
            Error::Values { len, needed } => RequestError::Values { len: len as usize, needed: needed as usize }.fmt(f),
            Error::Mask { len, pixels, values } => {
                let [len, pixels, values] = [len, pixels, values].map(|count| count as usize);
                RequestError::Mask { len, pixels, values }.fmt(f)
            }
            Error::Fraction { fraction } => RequestError::Fraction { fraction }.fmt(f),
            Error::Resampling { jump, resamples, rows } => RequestError::Resampling { jump, resamples, rows }.fmt(f),
            Error::Memory => RequestError::Memory.fmt(f),
            Error::Moves { moves } => RequestError::Moves { moves }.fmt(f),
            Error::NoSample => f.write_str("the board has no finished sample: draw one"),
            Error::Nothing => f.write_str("nothing to measure: ask for at least one sample"),
            Error::Offset { expected } => write!(f, "the next part must begin at byte {expected}"),
            Error::TooLong { len, room } => write!(f, "{len} bytes, but there is room for {room}"),
            Error::Slot => f.write_str("this slot does not exist or holds no model"),
            Error::NoUpdate => f.write_str("no update was begun, or the board restarted since: begin again"),
            Error::Checksum { found } => write!(f, "the new model arrived with checksum {found:08x}: write it again"),
            Error::Signature => {
                f.write_str("the board accepts only signed models, and this one's signature is not good")
            }
            Error::Unreadable => f.write_str("the new model is no .mote file that the board's firmware reads"),
            Error::Arena { needed, len } => {
                write!(f, "the new model needs {needed} bytes of arena, but the board has {len}")
            }
            Error::Flash => f.write_str("the board's flash cannot be erased, written or read"),
        }
    }
}

impl core::error::Error for Error {}
