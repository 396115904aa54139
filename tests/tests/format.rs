//! The format under attack: whatever the bytes, parsing ends in a model that runs or in an error that says why.

use mote_core::format::{self, header, op};
use mote_core::kernel::WeightBits;
use mote_core::model::{Fault, Op};
use mote_core::plan::{self, Room};
use mote_core::{
    Arena, ArenaError, Generator, Model, ParseError, Request, RequestError, Start, Values, aligned, noise, selftest,
};
use mote_tests::unet::{Constants, Network, ROW};

/// The self-test's model: every kind of record in 4 kB.
fn small_file() -> Vec<u8> {
    let mut buffer = [0; 8192];
    selftest::write_model(&mut buffer).unwrap().bytes().to_vec()
}

/// A checksum that fits, so that the other checks are reached.
fn seal(file: &mut [u8]) {
    let sum = format::checksum(&file[format::CHECKED_FROM..]);
    file[header::CHECKSUM..][..4].copy_from_slice(&sum.to_le_bytes());
}

/// Parses, and draws if that succeeds: an accepted file must run. Returns whether it was accepted.
fn parse_and_draw(file: &[u8]) -> bool {
    let Ok(model) = Model::parse(file) else { return false };
    // A flipped offset may claim a large arena; that is legal, so give what is asked for.
    let mut memory = vec![0u64; model.arena_len().div_ceil(8)];
    let arena = bytes_of(&mut memory);
    let mut generator = Generator::new(&model, arena).unwrap();
    for class in 0..model.classes().min(2) {
        generator.start(Request { class, ..Request::default() }).unwrap();
        generator.step();
        assert_eq!(generator.pixels().count(), model.sample_len());
    }
    true
}

#[test]
fn two_thousand_flips_of_a_file_with_weights_of_4_bits_never_panic() {
    let constants = Constants::small(1, WeightBits::Four);
    let mut net = Network::new(&ROW, &constants);
    plan::place(&mut net.tensors, &mut net.ops, None, Room::Usual);
    let file = net.file();
    assert!(parse_and_draw(&file));
    let mut accepted = 0;
    for (index, [at, value, ..]) in random_words(2_000, 5).enumerate() {
        let mut flipped = file.clone();
        let span = if index % 4 == 0 { file.len() } else { 1000 };
        flipped[at as usize % span] ^= (value % 255 + 1) as u8;
        seal(&mut flipped);
        accepted += usize::from(parse_and_draw(&flipped));
    }
    assert!((100..1900).contains(&accepted), "accepted {accepted}: the flips test too little");
}

fn bytes_of(memory: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(memory)
}

#[test]
fn every_prefix_is_refused() {
    let file = small_file();
    for len in 0..file.len() {
        assert!(Model::parse(&file[..len]).is_err(), "{len} bytes were accepted");
        let mut prefix = file[..len].to_vec();
        if len >= format::HEADER_LEN {
            prefix[header::FILE_LEN..][..4].copy_from_slice(&(len as u32).to_le_bytes());
            seal(&mut prefix);
            parse_and_draw(&prefix);
        }
    }
}

#[test]
fn ten_thousand_flips_are_caught_by_the_checksum() {
    let file = small_file();
    for [at, value, ..] in random_words(10_000, 1) {
        let mut flipped = file.clone();
        let at = at as usize % file.len();
        flipped[at] ^= (value % 255 + 1) as u8;
        assert!(Model::parse(&flipped).is_err(), "a flip at byte {at} was accepted");
    }
}

#[test]
fn ten_thousand_flips_behind_a_valid_checksum_never_panic() {
    let file = small_file();
    let (mut accepted, mut refused) = (0, 0);
    for (index, [at, value, second, other]) in random_words(10_000, 2).enumerate() {
        let mut flipped = file.clone();
        // Records first, where the structure is; every fourth flip anywhere.
        let span = if index % 4 == 0 { file.len() } else { 1000 };
        flipped[at as usize % span] ^= (value % 255 + 1) as u8;
        if index % 3 == 0 {
            flipped[second as usize % span] = other as u8;
        }
        seal(&mut flipped);
        if parse_and_draw(&flipped) { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 1000 && refused > 1000, "accepted {accepted}, refused {refused}: the flips test too little");
}

fn random_words(count: u32, seed: u32) -> impl Iterator<Item = [u32; 4]> {
    (0..count).map(move |index| noise::philox4x32_10([index, 0, 0, 0], [seed, 0]))
}

/// The self-test's model writes an output over the skip that it reads; moving that output must end in a file that draws the
/// same, or in an error.
#[test]
fn an_output_in_its_inputs_place_never_overtakes_it() {
    let file = small_file();
    let draw = |file: &[u8]| -> Vec<u8> {
        let model = Model::parse(file).unwrap();
        let mut memory = vec![0u64; model.arena_len().div_ceil(8)];
        let mut generator = Generator::new(&model, bytes_of(&mut memory)).unwrap();
        generator.start(Request::default()).unwrap();
        generator.finish();
        generator.pixels().collect()
    };
    let model = Model::parse(&file).unwrap();
    let expected = draw(&file);
    let in_place = |op: &Op<'_>| op.inputs().any(|input| model.tensor(input).overlaps(&model.tensor(op.output())));
    let outputs: Vec<u16> = (0..model.ops()).map(|i| model.op(i)).filter(in_place).map(|op| op.output()).collect();
    assert!(!outputs.is_empty(), "no operation of the model is in place");
    let (mut refused, mut accepted) = (0, 0);
    for output in outputs {
        let record = u32::from_le_bytes(file[header::TENSORS_AT..][..4].try_into().unwrap()) as usize
            + output as usize * format::TENSOR_LEN;
        for offset in (0..model.arena_len() as u32).step_by(4) {
            let mut moved = file.clone();
            moved[record..][..4].copy_from_slice(&offset.to_le_bytes());
            seal(&mut moved);
            match Model::parse(&moved) {
                Ok(_) => {
                    assert_eq!(draw(&moved), expected, "tensor {output} at {offset}");
                    accepted += 1;
                }
                Err(ParseError::Op { fault: Fault::OutputOvertakesInput, .. }) => refused += 1,
                Err(_) => {}
            }
        }
    }
    assert!(refused > 10 && accepted > 10, "refused {refused}, accepted {accepted}");
}

#[test]
fn a_newer_version_is_named() {
    let mut file = small_file();
    file[header::VERSION] = 3;
    seal(&mut file);
    let error = Model::parse(&file).unwrap_err();
    assert_eq!(error, ParseError::Version { found: 3 });
    assert!(error.to_string().contains("update Mote"), "{error}");
}

/// Units of the self-test's one channel at the end of its file, or where `at` says.
fn with_units(unit: [f32; 2], at: Option<u32>) -> Vec<u8> {
    let mut file = small_file();
    file.resize(file.len().next_multiple_of(4), 0);
    let end = file.len() as u32;
    file.extend(unit.iter().flat_map(|value| value.to_le_bytes()));
    let len = file.len() as u32;
    file[header::FILE_LEN..][..4].copy_from_slice(&len.to_le_bytes());
    file[header::UNITS_AT..][..4].copy_from_slice(&at.unwrap_or(end).to_le_bytes());
    seal(&mut file);
    file
}

#[test]
fn units_are_read_back_and_bad_ones_are_refused() {
    assert_eq!(Model::parse(&small_file()).unwrap().unit(0), None);
    let file = with_units([20.5, 0.25], None);
    let model = Model::parse(&file).unwrap();
    assert_eq!((model.unit(0), model.unit(1)), (Some([20.5, 0.25]), None));
    for unit in [[f32::NAN, 1.0], [0.0, f32::INFINITY], [0.0, 0.0], [0.0, -1.0]] {
        let file = with_units(unit, None);
        assert!(matches!(Model::parse(&file), Err(ParseError::Header { field: "units", .. })), "{unit:?}");
    }
    let end = with_units([0.0, 1.0], None).len() as u32;
    for at in [8, end - 6, end - 4, u32::MAX - 3] {
        let file = with_units([0.0, 1.0], Some(at));
        assert!(matches!(Model::parse(&file), Err(ParseError::Header { field: "units", .. })), "{at}");
    }
}

#[test]
fn an_arena_one_byte_too_small_is_refused_and_the_exact_one_serves() {
    let file = small_file();
    let model = Model::parse(&file).unwrap();
    let needed = model.arena_len();
    let mut arena = Arena::<8192>::new();
    let error = Generator::new(&model, &mut arena.0[..needed - 1]).unwrap_err();
    assert_eq!(error, ArenaError::TooSmall { len: needed - 1, needed });
    assert_eq!(Generator::new(&model, &mut arena.0[1..]).unwrap_err(), ArenaError::Misaligned);
    for skipped in 0..4 {
        let memory = &mut arena.0[skipped..skipped + needed + 3];
        assert!(Generator::new(&model, aligned(memory)).is_ok(), "memory {skipped} bytes past a multiple of 4");
    }
    assert!(aligned(&mut arena.0[1..2]).is_empty());
    let mut generator = Generator::new(&model, &mut arena.0[..needed]).unwrap();
    generator.start(Request::default()).unwrap();
    generator.finish();
}

#[test]
fn kernels_other_than_the_three_are_refused() {
    let file = small_file();
    let ops_at = u32::from_le_bytes(file[header::OPS_AT..][..4].try_into().unwrap()) as usize;
    for code in (0..=u8::MAX).filter(|code| ![1, 3, op::ROW].contains(code)) {
        let mut other = file.clone();
        other[ops_at + op::KERNEL] = code;
        seal(&mut other);
        assert_eq!(Model::parse(&other).unwrap_err(), ParseError::Op { index: 0, fault: Fault::Kernel }, "{code}");
    }
}

#[test]
fn requests_outside_the_model_are_refused_and_harm_nothing() {
    let file = small_file();
    let model = Model::parse(&file).unwrap();
    let mut arena = Arena::<8192>::new();
    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    generator.start(Request::default()).unwrap();
    generator.step();
    let before = generator.state().to_vec();
    let request = Request { class: 2, ..Request::default() };
    assert_eq!(generator.start(request), Err(RequestError::Class { class: 2, classes: 2 }));
    let request = Request { first_row: 2, ..Request::default() };
    assert_eq!(generator.start(request), Err(RequestError::Row { row: 2, rows: 2 }));
    let start = Start::Noised(Values::Pixels(&[0; 35]));
    let error = RequestError::Values { len: 35, needed: 36 };
    assert_eq!(generator.start(Request { start, ..Request::default() }), Err(error));
    assert_eq!(generator.state(), before);
}

/// A clean picture at the last row comes back through `x0`; the earlier the row, the more the network has its way.
#[test]
fn image_to_image_begins_at_the_picture() {
    let file = small_file();
    let model = Model::parse(&file).unwrap();
    let picture: Vec<u8> = (0..36).map(|i| i * 7).collect();
    let mut arena = Arena::<8192>::new();
    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    let start = Start::Noised(Values::Pixels(&picture));
    generator.start(Request { first_row: 1, start, ..Request::default() }).unwrap();
    // This model's rows have signal 1 and noise 0.
    assert_eq!(generator.pixels().collect::<Vec<u8>>(), picture);
}
