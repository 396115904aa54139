//! What the server needs of a board.

use mote_core::{Generator, Progress};

/// What the server needs of a board, besides memory and a transport.
pub trait Board {
    /// The board's name, as on the command line of `cargo xtask`; at most [`mote_protocol::TEXT_LEN`] bytes of it are told.
    const NAME: &'static str;
    /// Ticks of [`Board::ticks`] in a second.
    const CLOCK_HZ: u32;
    /// Whether the firmware holds mote-core's self-test, which takes 32 kB of stack.
    const SELFTEST: bool = true;

    /// A clock that goes on while the processor computes, wrapping.
    fn ticks(&mut self) -> u32;

    /// Goes on with a sample by at least one layer. A board with two cores may run a row with
    /// [`Generator::step_on`]; commands are then answered a row later at most.
    fn step(&mut self, generator: &mut Generator<'_, '_>) -> Progress {
        generator.step_layer()
    }
}
