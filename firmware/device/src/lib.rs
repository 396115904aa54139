//! What answers on a board: draws, measures, tests itself and keeps models, for any transport.
//!
//! [`serve`] is a future. Polled, it takes what came, does one layer of the network at most and sends what it can, so a command
//! is answered within a layer while a sample is being drawn. An executor such as embassy runs it beside other tasks; a board
//! without one calls [`block_on`]. A board implements [`Board`]; [`Store`] says where its models lie: usually in two slots of
//! flash, [`FlashStore`].
//!
//! ```
//! use embedded_io_async::{Read, Write};
//! use mote_core::Arena;
//! use mote_device::{Board, FixedModel, Memory, block_on, serve};
//!
//! struct Desk;
//!
//! impl Board for Desk {
//!     const NAME: &'static str = "desk";
//!     const CLOCK_HZ: u32 = 1_000_000;
//!     fn ticks(&mut self) -> u32 {
//!         0 // a microsecond timer
//!     }
//! }
//!
//! fn run<R: Read, W: Write<Error = R::Error>>(file: &'static [u8], receive: R, send: W) -> Option<R::Error> {
//!     let (mut arena, mut input) = (Arena::<65536>::new(), Arena::<1024>::new());
//!     let memory = Memory { arena: &mut arena.0, input: &mut input.0 };
//!     block_on(serve(Desk, FixedModel(file), memory, receive, send))
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod board;
mod flash_store;
mod inputs;
mod line;
mod serve;
mod session;
mod store;
mod verdict;
mod wire;
mod worker;

pub use board::Board;
pub use flash_store::FlashStore;
pub use serve::{Memory, block_on, serve};
pub use store::{FixedModel, Store, Stored, Update};
pub use verdict::{SELFTEST_LINE, selftest_line};
