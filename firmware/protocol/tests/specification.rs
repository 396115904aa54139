//! `firmware/README.md`, section "Protocol", is what the code does: every message's number and bytes.

use mote_protocol::{
    Aim, BODY_LEN, Command, DATA_LEN, Encoded, Error, Form, FromBoard, Header, Identity, Input, Job, Known, Loaded,
    ModelIdentity, Noise, Receiver, Reply, SelftestPart, SlotInfo, SlotState, Start, State, Status, TEXT_LEN, encode,
};
use serde::Serialize;
use std::fmt::Debug;

const PAGE: &str = include_str!("../../README.md");
const HEADER: Header = Header { session: 7, sequence: 1 };

/// The frame that a wire's bytes hold: no delimiters, no COBS.
fn frame(encoded: &Encoded) -> Vec<u8> {
    let stuffed = &encoded.as_bytes()[1..encoded.as_bytes().len() - 1];
    let mut frame = vec![0; stuffed.len()];
    let len = cobs::decode(stuffed, &mut frame).unwrap();
    frame.truncate(len);
    frame
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// A message's body.
fn body(message: &impl Serialize) -> Vec<u8> {
    let frame = frame(&encode(HEADER, message).unwrap());
    frame[7..frame.len() - 4].to_vec()
}

/// The page has a row `| number | name | ... | example |` of a message; `before` bytes precede its number.
fn has_row(before: usize, message: &(impl Serialize + Debug)) {
    let bytes = body(message);
    let text = format!("{message:?}");
    let text = text.trim_start_matches("Reply(");
    let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
    let (begin, end) = (format!("| {} | `{name}` |", bytes[before]), format!("| `{}` |", hex(&bytes)));
    assert!(PAGE.lines().any(|line| line.starts_with(&begin) && line.ends_with(&end)), "no row {begin} ... {end}");
}

#[test]
fn every_command_is_in_the_table() {
    let job = Job {
        class: 9,
        noise: Noise { seed: 300, sample: 1 },
        first_row: 2,
        start: Start::Noised(Form::Q12),
        known: Some(Known { form: Form::Pixels, jump: 1, resamples: 10 }),
        aim: Aim::Mean,
    };
    let commands = [
        Command::Identify,
        Command::Status,
        Command::WriteInput { input: Input::Mask, offset: 300, data: &[1, 0, 255] },
        Command::Draw(job),
        Command::Cancel,
        Command::ReadSample { form: Form::Pixels, offset: 256, len: 256 },
        Command::Benchmark { samples: 10 },
        Command::Selftest,
        Command::Slot { slot: 1 },
        Command::ReadSlot { slot: 1, offset: 0, len: 256 },
        Command::BeginUpdate { len: 1000, checksum: 0xDEAD_BEEF, signature: &[] },
        Command::WriteUpdate { offset: 256, data: &[1, 2] },
        Command::FinishUpdate,
        Command::AbortUpdate,
        Command::Load,
    ];
    for (number, command) in (0..).zip(&commands) {
        assert_eq!(body(command)[0], number);
        has_row(0, command);
    }
}

fn identity<'a>(text: &'a str, model: Loaded<'a>, max: u32) -> Identity<'a> {
    Identity {
        board: text,
        firmware: if max == 0 { "0.1.0" } else { text },
        format: 2,
        arena_len: 131_072.max(max),
        input_len: 65_536.max(max),
        clock_hz: 25_000_000.max(max),
        slots: 2,
        slot_len: 4096.max(max),
        model,
    }
}

#[test]
fn every_reply_and_every_state_is_in_a_table() {
    let model = ModelIdentity {
        name: "demo",
        checksum: 0xDEAD_BEEF,
        len: 1000,
        height: 14,
        width: 14,
        channels: 1,
        classes: 10,
        rows: 4,
        arena_len: 22_000,
        slot: Some(0),
    };
    let whole = SlotState::Whole { sequence: 3, len: 1000, checksum: 0xDEAD_BEEF, signed: true };
    let replies = [
        Reply::Done,
        Reply::Refused(Error::Row { row: 4, rows: 4 }),
        Reply::Identity(identity("desk", Loaded::Model(model), 0)),
        Reply::Status(Status { job: 300, state: State::Cancelled }),
        Reply::Data { offset: 256, data: &[1, 2] },
        Reply::Slot(SlotInfo { state: whole, in_use: true }),
    ];
    for (number, reply) in (0..).zip(replies) {
        assert_eq!(body(&FromBoard::Reply(reply))[..2], [0, number]);
        has_row(1, &FromBoard::Reply(reply));
    }
    let states = [
        State::Idle,
        State::Drawing { done: 3, passes: 300 },
        State::Drawn { checksum: 0xDEAD_BEEF },
        State::Cancelled,
        State::Benchmarking { done: 1, samples: 10 },
        State::Benchmarked { samples: 10, ticks: 1 << 40, longest: 300 },
        State::Testing,
        State::Passed { hash: 0xDEAD_BEEF },
        State::Failed { part: SelftestPart::Kernel, found: 17 },
    ];
    for (number, state) in (0..).zip(states) {
        assert_eq!(body(&FromBoard::Event(state))[..2], [1, number]);
        has_row(0, &state);
    }
}

#[test]
fn every_error_is_in_the_table_with_its_fields() {
    let errors = [
        Error::Version { supported: 1 },
        Error::Session,
        Error::Command,
        Error::Unsupported,
        Error::Busy,
        Error::NoModel,
        Error::Class { class: 1, classes: 1 },
        Error::Row { row: 1, rows: 1 },
        Error::Values { len: 1, needed: 1 },
        Error::Mask { len: 1, pixels: 1, values: 1 },
        Error::Fraction { fraction: 1 },
        Error::Resampling { jump: 1, resamples: 1, rows: 1 },
        Error::Memory,
        Error::Moves { moves: 1 },
        Error::NoSample,
        Error::Nothing,
        Error::Offset { expected: 1 },
        Error::TooLong { len: 1, room: 1 },
        Error::Slot,
        Error::NoUpdate,
        Error::Checksum { found: 1 },
        Error::Signature,
        Error::Unreadable,
        Error::Arena { needed: 1, len: 1 },
        Error::Flash,
    ];
    for (number, error) in (0..).zip(errors) {
        let bytes = body(&error);
        assert_eq!(bytes[0], number);
        let text = format!("{error:?}");
        let (name, fields) = text.split_once(" {").unwrap_or((&text, ""));
        let begin = format!("| {number} | `{name}` |");
        let row = PAGE.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no row {begin}"));
        let written = row.split('|').nth(3).unwrap();
        let names = |text: &str, split: char| -> Vec<String> {
            let fields = text.split(',').filter_map(|field| field.trim().split(split).next().map(str::to_owned));
            fields.filter(|name| !name.is_empty()).collect()
        };
        assert_eq!(names(written, ' '), names(fields, ':'), "{name}");
        assert_eq!(bytes.len() - 1, names(written, ' ').len(), "each of these fields takes a byte");
    }
}

#[test]
fn a_whole_frame_is_as_the_page_has_it() {
    let encoded = encode(HEADER, &Command::Identify).unwrap();
    assert!(PAGE.contains(&format!("| frame | `{}` |", hex(&frame(&encoded)))));
    assert!(PAGE.contains(&format!("| wire | `{}` |", hex(encoded.as_bytes()))));
    assert!(PAGE.contains(&format!("at most {BODY_LEN} bytes")));
    assert!(PAGE.contains(&format!("Data have at most {DATA_LEN} bytes, texts {TEXT_LEN}")));
    assert!(PAGE.contains(&format!("A frame has at most {} bytes", 7 + BODY_LEN + 4)));
}

/// The longest messages still fit, and come back as they were.
#[test]
fn the_longest_messages_arrive() {
    let (data, text) = ([0xFF; DATA_LEN], "x".repeat(TEXT_LEN));
    let (all, word) = (u32::MAX, u16::MAX);
    let model = ModelIdentity {
        name: &text,
        checksum: all,
        len: all,
        height: word,
        width: word,
        channels: word,
        classes: word,
        rows: word,
        arena_len: all,
        slot: Some(255),
    };
    for reply in [Reply::Identity(identity(&text, Loaded::Model(model), all)), Reply::Data { offset: all, data: &data }]
    {
        let message = FromBoard::Reply(reply);
        let mut receiver = Receiver::new();
        let encoded = encode(HEADER, &message).expect("it fits");
        assert_eq!(encoded.as_bytes().iter().filter(|&&byte| receiver.push(byte)).count(), 1);
        assert_eq!(receiver.frame().unwrap().message(), Ok(message));
    }
    let noise = Noise { seed: u64::MAX, sample: u64::MAX };
    let job = Job {
        class: word,
        noise,
        first_row: word,
        start: Start::Mixed { ends: [noise; 2], fraction: all },
        known: Some(Known { form: Form::Q12, jump: word, resamples: word }),
        aim: Aim::Mean,
    };
    for command in [
        Command::Draw(job),
        Command::WriteInput { input: Input::Mask, offset: all, data: &data },
        Command::WriteUpdate { offset: all, data: &data },
        Command::BeginUpdate { len: all, checksum: all, signature: &[0xFF; 64] },
    ] {
        assert!(encode(HEADER, &command).is_some(), "{command:?}");
    }
    assert!(encode(HEADER, &[0u8; BODY_LEN].as_slice()).is_none(), "too long, with its length before it");
}
