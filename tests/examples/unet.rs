//! Writes the 28x28 network of `core/docs/memory.md`, with random weights: `cargo run -p mote-tests --example unet FILE`.

use mote_core::plan::{self, Room};
use mote_tests::unet::{Constants, Network, SMALL};

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).expect("name the file to write");
    let constants = Constants::new(1);
    let mut net = Network::new(&SMALL, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    std::fs::write(path, net.file())
}
