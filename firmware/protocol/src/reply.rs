//! What the board answers and tells.

use crate::Error;
use serde::{Deserialize, Serialize};

/// What the board sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBoard<'a> {
    /// The answer to the command with the same sequence number.
    #[serde(borrow)]
    Reply(Reply<'a>),
    /// How the job is, unasked: after each row and at the end. The sequence number is that of the command that began it.
    /// It may be lost: ask with [`Command::Status`](crate::Command::Status).
    Event(State),
}

/// The answer to a command. Variants keep their numbers: new ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// It is done, or begun where the command begins a job.
    Done,
    /// It is not done, and nothing has changed; but a job that is refused has cost the sample that was drawn before.
    Refused(Error),
    /// Who answers.
    #[serde(borrow)]
    Identity(Identity<'a>),
    /// How the last job is.
    Status(Status),
    /// A part of what was asked for.
    Data {
        /// Bytes before this part.
        offset: u32,
        /// At most [`DATA_LEN`](crate::DATA_LEN) bytes; none at or past the end.
        data: &'a [u8],
    },
    /// A model slot.
    Slot(SlotInfo),
}

/// Firmware, memory, model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity<'a> {
    /// The board's name, as on the command line of `cargo xtask`.
    pub board: &'a str,
    /// The firmware's version.
    pub firmware: &'a str,
    /// The version of the `.mote` format that it reads.
    pub format: u16,
    /// Bytes of working memory for models.
    pub arena_len: u32,
    /// Bytes for [`Input`](crate::Input)s.
    pub input_len: u32,
    /// Ticks of the board's clock in a second.
    pub clock_hz: u32,
    /// Model slots; 0 if this firmware has a fixed model.
    pub slots: u8,
    /// Most bytes of a model in a slot.
    pub slot_len: u32,
    /// The model in use.
    #[serde(borrow)]
    pub model: Loaded<'a>,
}

/// The model in use, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loaded<'a> {
    /// No slot holds a whole model.
    Nothing,
    /// The newest model is no `.mote` file that this firmware reads.
    Unreadable,
    /// The newest model needs more arena than there is.
    TooLarge {
        /// Bytes of arena that it needs.
        arena_len: u32,
    },
    /// It can draw.
    #[serde(borrow)]
    Model(ModelIdentity<'a>),
}

/// A model that can draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity<'a> {
    /// The name given when the file was made.
    pub name: &'a str,
    /// [`Model::checksum`](mote_core::Model::checksum).
    pub checksum: u32,
    /// Bytes of the file.
    pub len: u32,
    /// Height of a sample.
    pub height: u16,
    /// Width of a sample.
    pub width: u16,
    /// Channels of a sample.
    pub channels: u16,
    /// Number of classes; 1 for an unconditional model.
    pub classes: u16,
    /// Network passes for a sample.
    pub rows: u16,
    /// Bytes of arena that it needs.
    pub arena_len: u32,
    /// The slot that it lies in, if this firmware has slots.
    pub slot: Option<u8>,
}

impl ModelIdentity<'_> {
    /// Values of one sample: height x width x channels.
    pub fn sample_len(&self) -> usize {
        usize::from(self.height) * usize::from(self.width) * usize::from(self.channels)
    }
}

/// The last job and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Sequence number of the command that began the job.
    pub job: u16,
    /// How it is.
    pub state: State,
}

/// How a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// None was begun since the board started or loaded a model.
    Idle,
    /// A sample is being drawn.
    Drawing {
        /// Network passes that are done.
        done: u32,
        /// Network passes of the whole sample.
        passes: u32,
    },
    /// The sample can be read.
    Drawn {
        /// CRC-32 of its pixels.
        checksum: u32,
    },
    /// Cancelled: there is no sample.
    Cancelled,
    /// Samples are being drawn and measured.
    Benchmarking {
        /// Samples that are done.
        done: u16,
        /// Samples to draw.
        samples: u16,
    },
    /// Samples were measured.
    Benchmarked {
        /// How many.
        samples: u16,
        /// Ticks of the board's clock while the sampler ran, messages apart.
        ticks: u64,
        /// Ticks of the longest turn, one layer: how long a command waits at most.
        longest: u32,
    },
    /// The self-test runs; the board answers when it is over.
    Testing,
    /// The self-test passed: the hash that every target gives.
    Passed {
        /// CRC-32 of the self-test's samples.
        hash: u32,
    },
    /// The self-test failed.
    Failed {
        /// What differs from other targets.
        part: SelftestPart,
        /// The hash that was found, or the number of the kernel's case.
        found: u32,
    },
}

impl State {
    /// Whether a job runs.
    pub fn is_running(self) -> bool {
        matches!(self, State::Drawing { .. } | State::Benchmarking { .. } | State::Testing)
    }
}

/// A part of the self-test: mote-core's [`SelftestError`](mote_core::selftest::SelftestError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelftestPart {
    /// The generator of random bits.
    Philox,
    /// The normal noise.
    Normals,
    /// A kernel of this target.
    Kernel,
    /// The small model was not written or did not start.
    Model,
    /// The small model's samples.
    Samples,
}

/// A model slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// What it holds.
    pub state: SlotState,
    /// Whether the model in use lies in it.
    pub in_use: bool,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// Nothing, or an update that was cut off.
    Empty,
    /// An update that is under way.
    Updating {
        /// Bytes written so far.
        written: u32,
        /// Bytes of the new model.
        len: u32,
    },
    /// A whole model.
    Whole {
        /// The larger, the newer.
        sequence: u32,
        /// Bytes of the file.
        len: u32,
        /// CRC-32 of the whole file.
        checksum: u32,
        /// Whether its signature was checked.
        signed: bool,
    },
}
