//! The released demo model draws what an independent interpreter of the documented format draws.

use mote_core::{Generator, Model, Request};

const MODEL: &[u8] = include_bytes!("../../firmware/models/demo.mote");
/// Made by `tests/golden/reference.py`; its first lines say how.
const GOLDEN: &str = include_str!("../golden/demo.txt");

#[test]
fn the_demo_model_draws_the_reference_pixels() {
    let model = Model::parse(MODEL).unwrap();
    let mut arena = vec![0u64; model.arena_len().div_ceil(8)];
    let mut generator = Generator::new(&model, bytemuck::cast_slice_mut(&mut arena)).unwrap();
    let mut lines = 0;
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let request = Request {
            class: fields[0].parse().unwrap(),
            seed: fields[1].parse().unwrap(),
            sample: fields[2].parse().unwrap(),
            first_row: 0,
        };
        generator.start(request).unwrap();
        generator.finish();
        let pixels: String = generator.pixels().map(|pixel| format!("{pixel:02x}")).collect();
        assert_eq!(pixels, fields[3], "{request:?}");
        lines += 1;
    }
    assert!(lines >= 3, "the golden file has {lines} samples");
}
