//! The host's side of a board that draws.
//!
//! A [`Client`] speaks `mote-protocol` over anything that reads and writes: a serial port (`serial`), a pipe to an emulator
//! ([`Pipe`]), memory in tests. It asks again when an answer does not come, so what it returns was received whole, or is an
//! error that says why not.
//!
//! ```no_run
//! use mote_client::{Client, Pipe, Timing};
//! use mote_protocol::{Job, Start};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut emulator = std::process::Command::new("qemu-system-arm").spawn()?;
//! # let (from_board, to_board) = (emulator.stdout.take().unwrap(), emulator.stdin.take().unwrap());
//! let mut client = Client::connect(Pipe::new(from_board, to_board), Timing::default())?;
//! println!("{:?}", client.identify()?);
//! let job = Job { class: 9, seed: 1, sample: 0, first_row: 0, start: Start::Noise };
//! let pixels = client.draw(job, &[], |state| println!("{state:?}"))?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod error;
mod pipe;
#[cfg(feature = "serial")]
pub mod serial;

pub use client::{Benchmark, Client, Timing};
pub use error::ClientError;
pub use mote_protocol as protocol;
pub use pipe::Pipe;
