//! Models draw what an independent interpreter of the documented format draws, `tests/golden/reference.py`. The first lines of
//! its files say how they were made.

use mote_core::format::OpSpec;
use mote_core::kernel::WeightBits;
use mote_core::plan::{self, Room};
use mote_core::{Generator, Model, Request};
use mote_tests::unet::{Constants, Network, ROW};

#[test]
fn the_demo_model_draws_the_reference_pixels() {
    assert_draws(include_bytes!("../../firmware/models/demo.mote"), include_str!("../golden/demo.txt"));
}

/// Kernels of one row: down, up, normalized, in the place of their input.
#[test]
fn a_network_of_signals_draws_the_reference_values() {
    let constants = Constants::new(1);
    let mut net = Network::new(&ROW, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    assert_draws(&net.file(), include_str!("../golden/row.txt"));
}

/// Half the bytes of weights, the same values: those that bytes give and those of the reference.
#[test]
fn weights_of_4_bits_draw_what_the_same_weights_of_8_bits_draw() {
    let file = |bits| {
        let constants = Constants::small(1, bits);
        let mut net = Network::new(&ROW, &constants);
        plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
        let weights = net.ops.iter().map(|op| if let OpSpec::Conv(conv) = op { conv.weights.len() } else { 0 });
        (net.file(), weights.sum::<usize>())
    };
    let [(nibbles, _), (bytes, weights)] = [WeightBits::Four, WeightBits::Eight].map(file);
    let saved = bytes.len() - nibbles.len();
    assert!(saved >= weights / 2, "{saved} bytes saved of {weights} weights");
    let golden = include_str!("../golden/nibbles.txt");
    assert_draws(&nibbles, golden);
    assert_draws(&bytes, golden);
}

fn assert_draws(file: &[u8], golden: &str) {
    let model = Model::parse(file).unwrap();
    let mut arena = vec![0u64; model.arena_len().div_ceil(8)];
    let mut generator = Generator::new(&model, bytemuck::cast_slice_mut(&mut arena)).unwrap();
    let mut lines = 0;
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let request = Request {
            class: fields[0].parse().unwrap(),
            seed: fields[1].parse().unwrap(),
            sample: fields[2].parse().unwrap(),
            ..Request::default()
        };
        generator.start(request).unwrap();
        generator.finish();
        let pixels: String = generator.pixels().map(|pixel| format!("{pixel:02x}")).collect();
        assert_eq!(pixels, fields[3], "{request:?}");
        lines += 1;
    }
    assert!(lines >= 3, "the golden file has {lines} samples");
}
