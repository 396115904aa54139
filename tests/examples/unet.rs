//! Writes a network with random weights: the 28x28 one of `core/docs/memory.md`, or with `row` one for signals of one dimension.
//! `cargo run -p mote-tests --example unet FILE [row]`.

use mote_core::plan::{self, Room};
use mote_tests::unet::{Constants, Network, ROW, SMALL};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, sizes) = match &arguments[..] {
        [path] => (path, SMALL),
        [path, row] if row == "row" => (path, ROW),
        _ => panic!("usage: unet FILE [row]"),
    };
    let constants = Constants::new(1);
    let mut net = Network::new(&sizes, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    std::fs::write(path, net.file())
}
