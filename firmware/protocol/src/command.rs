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
    /// Begins to draw a sample. Answered by `Done`; its [`State`](crate::State) follows each row.
    Draw(Job),
    /// Ends the job in progress, if there is one, before its next layer. Answered by `Done`.
    Cancel,
    /// Reads a part of the drawn sample. Answered by [`Reply::Data`](crate::Reply::Data).
    ReadSample {
        /// How its values are to be written.
        form: Form,
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

/// What a job needs besides its numbers, in the board's memory. Inputs lie there one after the other, in this order: writing one
/// from its beginning forgets those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The values that a sample starts from, height x width x channels.
    Start,
    /// The values that are known, height x width x channels.
    Known,
    /// Which values are known: a byte for each pixel, or for each value.
    Mask,
}

impl Input {
    /// All, in the order in which they lie in memory.
    pub const ALL: [Input; 3] = [Input::Start, Input::Known, Input::Mask];
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// A byte each: 0 is -1 and 255 is +1.
    Pixels,
    /// Two bytes each, the lower first: 4096 is 1.0.
    Q12,
}

/// A sample to draw: mote-core's [`Request`](mote_core::Request), whose values are [`Input`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Class, below the model's number of classes.
    pub class: u16,
    /// Key of the noise, and which sample of it.
    pub noise: Noise,
    /// The row to begin with, below the model's number of rows; 0 for a whole sample.
    pub first_row: u16,
    /// What the sample starts from.
    pub start: Start,
    /// The values that the sample has to have, if some are known.
    pub known: Option<Known>,
    /// What is wanted.
    pub aim: Aim,
}

/// A stream of noise: mote-core's [`Stream`](mote_core::Stream).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noise {
    /// Key of the noise.
    pub seed: u64,
    /// Which sample of this seed.
    pub sample: u64,
}

/// What a sample starts from: mote-core's [`Start`](mote_core::Start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Noise.
    #[default]
    Noise,
    /// [`Input::Start`], noised to the first row's level.
    Noised(Form),
    /// [`Input::Start`], which has the noise of the first row's level already.
    Noisy(Form),
    /// A mixture of two noises.
    Mixed {
        /// Both ends.
        ends: [Noise; 2],
        /// How far from the first to the second, 0 to 65536.
        fraction: u32,
    },
}

/// Values that the sample has to have, [`Input::Known`] where [`Input::Mask`] is not 0: mote-core's
/// [`Known`](mote_core::Known).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How the values are written.
    pub form: Form,
    /// Rows that each turn goes back.
    pub jump: u16,
    /// Times that each stretch of rows is walked.
    pub resamples: u16,
}

/// What is wanted: mote-core's [`Aim`](mote_core::Aim).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// A likely sample.
    #[default]
    Sample,
    /// The mean of all samples that the start may have come from, in one pass.
    Mean,
}
