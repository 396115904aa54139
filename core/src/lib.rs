//! Diffusion models on microcontrollers: everything that decides a bit.
//!
//! A `.mote` file holds a quantized U-Net and the table of its sampling steps. [`Model::parse`] checks the file once;
//! [`Generator`] then draws samples in the caller's memory, the same bytes on every target. The host side uses
//! [`schedule`] and [`step_table`] to make the table and [`format::emit`] to write the file.
//!
//! ```
//! # fn draw(file: &[u8]) -> Result<(), Box<dyn core::error::Error>> {
//! use mote_core::{Arena, Generator, Model, Request};
//!
//! let model = Model::parse(file)?;
//! let mut arena = Arena::<65536>::new();
//! let mut generator = Generator::new(&model, &mut arena.0)?;
//! generator.start(Request { class: 9, seed: 1, ..Request::default() })?;
//! generator.finish();
//! for pixel in generator.pixels() {
//!     // height x width x channels, 0 to 255
//!     # let _ = pixel;
//! }
//! # Ok(())
//! # }
//! ```
#![no_std]
#![deny(unsafe_code)]

pub mod anomaly;
pub mod format;
mod generator;
pub mod kernel;
mod message;
mod mix;
pub mod model;
pub mod network;
pub mod noise;
#[cfg(feature = "embedded-graphics")]
mod picture;
pub mod pixels;
pub mod plan;
pub mod quant;
pub mod request;
pub mod schedule;
pub mod selftest;
pub mod step_table;
pub mod view;
mod walk;

pub use generator::{Arena, ArenaError, Generator, InTurns, Pace, Progress, aligned};
pub use model::{Model, ParseError};
pub use network::{Cores, SecondCore};
pub use noise::Stream;
#[cfg(feature = "embedded-graphics")]
pub use picture::Picture;
pub use request::{Aim, Known, Mix, Request, RequestError, Resampling, Start, Values};
