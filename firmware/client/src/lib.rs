//! The host's side of a board that draws.
//!
//! A [`Client`] speaks `mote-protocol` over anything that reads and writes: a serial port (`serial`, behind the feature of that
//! name), a TCP connection to an emulator, memory in tests. It asks again when an answer does not come, so what it returns was
//! received whole, or is an error that says why not.
//!
//! ```no_run
//! use mote_client::{Client, Timing};
//! use mote_core::Request;
//! use std::net::TcpStream;
//! use std::time::Duration;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let transport = TcpStream::connect("127.0.0.1:5555")?;
//! transport.set_read_timeout(Some(Duration::from_millis(20)))?;
//! let mut client = Client::connect(transport, Timing::default())?;
//! println!("{:?}", client.identify()?);
//! let request = Request { class: 9, seed: 1, ..Request::default() };
//! let pixels = client.draw(&request, |state| println!("{state:?}"))?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod error;
#[cfg(feature = "serial")]
pub mod serial;

pub use client::{Benchmark, Client, Timing};
pub use error::ClientError;
pub use mote_protocol as protocol;
