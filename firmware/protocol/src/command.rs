//! What the host asks.

use serde::{Deserialize, Serialize};

/// What the host asks; each has one [`Reply`](crate::Reply). Variants keep their numbers: new ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Begins a session, which every other command needs: the header's session becomes the board's. A job in progress goes
    /// on. Answered by [`Reply::Identity`](crate::Reply::Identity).
    Identify,
    /// Asks how the last job is. Answered by [`Reply::Status`](crate::Reply::Status), in the middle of a job too.
    Status,
    /// Puts a part of an input into the board's memory, before the job that uses it. Answered by `Done`.
    WriteInput {
        /// Which input.
        input: Input,
        /// Bytes before this part.
        offset: u32,
        /// At most [`DATA_LEN`](crate::DATA_LEN) bytes.
        data: &'a [u8],
    },
    /// Begins to draw a sample. Answered by `Done`; its [`Status`](crate::Status) follows each row.
    Draw(Job),
    /// Ends the job in progress, if there is one, before its next layer. Answered by `Done`.
    Cancel,
    /// Reads a part of the drawn sample's pixels. Answered by [`Reply::Data`](crate::Reply::Data).
    ReadSample {
        /// Bytes before this part.
        offset: u32,
        /// Bytes wanted, at most [`DATA_LEN`](crate::DATA_LEN); fewer come at the end.
        len: u16,
    },
    /// Begins to draw so many samples and to measure them with the board's clock. Answered by `Done`.
    Benchmark {
        /// How many, at least 1.
        samples: u16,
    },
    /// Begins mote-core's self-test. Answered by `Done`.
    Selftest,
    /// Asks for a model slot. Answered by [`Reply::Slot`](crate::Reply::Slot).
    Slot {
        /// Which, below [`Identity::slots`](crate::Identity::slots).
        slot: u8,
    },
    /// Reads a part of a slot's model. Answered by [`Reply::Data`](crate::Reply::Data).
    ReadSlot {
        /// Which, below [`Identity::slots`](crate::Identity::slots).
        slot: u8,
        /// Bytes of the model before this part.
        offset: u32,
        /// Bytes wanted, at most [`DATA_LEN`](crate::DATA_LEN); fewer come at the end.
        len: u16,
    },
    /// Begins to replace the model that is not in use. Answered by `Done`; what was written before is forgotten.
    BeginUpdate {
        /// Bytes of the new model's file.
        len: u32,
        /// Its CRC-32, as [`mote_core::format::checksum`] of the whole file.
        checksum: u32,
        /// Its ed25519 signature of 64 bytes, or nothing.
        signature: &'a [u8],
    },
    /// Writes the next part of the new model. Answered by `Done`.
    WriteUpdate {
        /// Bytes of the file before this part: where the part before ended.
        offset: u32,
        /// At most [`DATA_LEN`](crate::DATA_LEN) bytes; only the last part may be shorter.
        data: &'a [u8],
    },
    /// Checks the new model and makes it the newest: the one in use after [`Command::Load`] or the next start. Answered by
    /// `Done`.
    FinishUpdate,
    /// Forgets an update that was begun. Answered by `Done`.
    AbortUpdate,
    /// Loads the newest model, between jobs; what was drawn is lost. Answered by `Done`.
    Load,
}

/// What a job needs besides its numbers, in the board's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A picture, height x width x channels bytes.
    Picture,
}

/// A sample to draw: mote-core's [`Request`](mote_core::Request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Class, below the model's number of classes.
    pub class: u16,
    /// Key of the noise.
    pub seed: u64,
    /// Which sample of this seed.
    pub sample: u64,
    /// The row to begin with, below the model's number of rows; 0 for a whole sample.
    pub first_row: u16,
    /// What the sample begins with.
    pub start: Start,
}

/// What a sample begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Noise.
    Noise,
    /// The noised [`Input::Picture`] (image-to-image).
    Picture,
}

impl Job {
    /// The request with this input.
    pub fn request(self, input: &[u8]) -> mote_core::Request<'_> {
        let Job { class, seed, sample, first_row, start } = self;
        let start = match start {
            Start::Noise => mote_core::Start::Noise,
            Start::Picture => mote_core::Start::Noised(mote_core::Values::Pixels(input)),
        };
        mote_core::Request { class, seed, sample, first_row, start, ..mote_core::Request::default() }
    }
}

impl From<mote_core::Request<'_>> for Job {
    fn from(request: mote_core::Request<'_>) -> Self {
        let mote_core::Request { class, seed, sample, first_row, .. } = request;
        Job { class, seed, sample, first_row, start: Start::Noise }
    }
}
