//! What answers on a board: draws, measures, tests itself and keeps models, for any transport.
//!
//! [`Server`] does no input or output itself: bytes go in with [`Server::receive`] and come out of [`Server::outgoing`], and
//! [`Server::poll`] does a bounded piece of work, one layer of the network at most. So a blocking loop and an async task
//! drive it alike, and a command is answered within a layer while a sample is being drawn. A board implements [`Board`], and
//! [`Store`] says where its models lie.
//!
//! ```
//! use mote_core::{Arena, Generator};
//! use mote_device::{Board, FixedModel, Server, Turn};
//!
//! struct Desk;
//!
//! impl Board for Desk {
//!     const NAME: &'static str = "desk";
//!     const CLOCK_HZ: u32 = 1_000_000;
//!     fn ticks(&mut self) -> u32 {
//!         0
//!     }
//! }
//!
//! fn serve(file: &'static [u8], uart: &mut (impl std::io::Read + std::io::Write)) -> std::io::Result<()> {
//!     let (mut arena, mut input) = (Arena::<65536>::new(), [0; 1024]);
//!     let mut server = Server::new(Desk, FixedModel(file), &mut input);
//!     loop {
//!         let model = server.load(arena.0.len());
//!         let mut generator = model.as_ref().and_then(|model| Generator::new(model, &mut arena.0).ok());
//!         while server.poll(generator.as_mut()) != Turn::Load {
//!             let sent = uart.write(server.outgoing())?;
//!             server.sent(sent);
//!             let mut byte = [0];
//!             if server.can_receive() && uart.read(&mut byte)? == 1 {
//!                 server.receive(byte[0]);
//!             }
//!         }
//!     }
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod board;
mod line;
mod server;
mod store;
mod worker;

pub use board::Board;
pub use server::{Server, Turn};
pub use store::{FixedModel, Store, Stored, Update};
