//! Writes a network with random weights: the 28x28 one of `core/docs/memory.md`, or with `row` or `signal` one for signals of one dimension,
//! of two steps or of six, with `nibbles` that of two steps with weights of 4 bits.
//! `cargo run -p mote-tests --example unet FILE [row|signal|nibbles]`.

use mote_core::kernel::WeightBits;
use mote_core::plan::{self, Room};
use mote_tests::unet::{Constants, Network, ROW, SMALL};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (path, sizes, constants) = match words[..] {
        [path] => (path, SMALL, Constants::new(1)),
        [path, "row" | "signal"] => (path, ROW, Constants::new(1)),
        [path, "nibbles"] => (path, ROW, Constants::small(1, WeightBits::Four)),
        _ => panic!("usage: unet FILE [row|signal|nibbles]"),
    };
    let mut net = Network::new(&sizes, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    std::fs::write(path, if words.last() == Some(&"signal") { net.signal_file() } else { net.file() })
}
