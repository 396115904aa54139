//! Why a board did not do what it was asked.

use mote_protocol::{Error, SelftestPart};
use std::io;
use std::time::Duration;

/// Why a board did not do what it was asked.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The transport failed.
    #[error("cannot talk to the board")]
    Io(#[from] io::Error),
    /// The transport ended.
    #[error("the connection to the board ended: it was unplugged, or its emulator stopped")]
    Ended,
    /// No answer came.
    #[error("the board did not answer {attempts} times within {}: check the port, the baud rate and the firmware", seconds(*.wait))]
    Silent {
        /// How often it was asked.
        attempts: u32,
        /// How long each answer was waited for.
        wait: Duration,
    },
    /// The board speaks another version.
    #[error("the board speaks version {found} of the protocol, this program {}: update one", mote_protocol::VERSION)]
    Version {
        /// The board's.
        found: u8,
    },
    /// The board refused.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The answer is whole, but not to this command: the board's firmware is wrong.
    #[error("the board gave an answer of another kind to {0}: its firmware is broken")]
    Unexpected(&'static str),
    /// A job did not go on.
    #[error("the board's job did not go on for {}: cancel it, or allow more time", seconds(*.0))]
    Stuck(Duration),
    /// Another job, or a restart, took the job's place.
    #[error("the board lost the job: it restarted, or another program uses it")]
    Lost,
    /// The job was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// What was read is not what the board drew.
    #[error("the sample arrived with checksum {found:08x} instead of {expected:08x}: draw it again")]
    Checksum {
        /// The board's.
        expected: u32,
        /// Of what was read.
        found: u32,
    },
    /// The self-test failed.
    #[error("the board's self-test FAILED: {part:?} gives {found:08x}; its arithmetic or its memory is broken")]
    Selftest {
        /// What differs from other targets.
        part: SelftestPart,
        /// What it gives.
        found: u32,
    },
    /// More than a message can say.
    #[error("{0} is too long for a message")]
    TooLong(&'static str),
}

fn seconds(wait: Duration) -> String {
    format!("{:.1} s", wait.as_secs_f64())
}
