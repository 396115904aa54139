//! Lines that lose, damage, repeat, delay and invent frames.

mod desk;

use desk::{Faults, Link, TIMING, drawn_here, model, request};
use mote_client::Client;
use mote_core::noise::Philox;
use mote_core::{Request, Start, Values};
use mote_device::FixedModel;
use mote_protocol::{Command, Error, FromBoard, Header, Receiver, Reply, State, encode};
use rand_core::Rng;
use std::io::{Read, Write};

/// Whatever the line does, what arrives is what the host draws; and it did something.
fn survives(faults: Faults) {
    let model = model();
    let picture: Vec<u8> = (0..36).map(|i| 255 - 5 * i).collect();
    let (mut count, mut resent) = (0, 0);
    for seed in 0..6 {
        let link = Link::new(FixedModel(model.bytes()), faults, seed);
        let lanes = [link.to_board.clone(), link.from_board.clone()];
        let mut client = Client::connect(link, TIMING).unwrap();
        for class in 0..2 {
            let plain = request(class, seed);
            assert_eq!(client.draw(&plain, |_| ()).unwrap(), drawn_here(&plain).1, "seed {seed}");
            let from = Request { start: Start::Noised(Values::Pixels(&picture)), first_row: 1, ..plain };
            assert_eq!(client.draw(&from, |_| ()).unwrap(), drawn_here(&from).1, "seed {seed}");
        }
        client.begin_draw(&request(0, seed)).unwrap();
        client.cancel().unwrap();
        assert!(!client.status().unwrap().state.is_running());
        count += lanes.iter().map(|lane| lane.borrow().count).sum::<u32>();
        resent += client.resent();
    }
    assert!(count > 10, "{count} faults");
    assert!(resent > 0 || (faults.lost, faults.damaged, faults.late) == (0, 0, 0), "nothing was sent again");
}

#[test]
fn lost_frames_are_survived() {
    survives(Faults { lost: 64, ..Faults::default() });
}

#[test]
fn damaged_frames_are_survived() {
    survives(Faults { damaged: 64, ..Faults::default() });
}

#[test]
fn repeated_frames_are_survived() {
    survives(Faults { repeated: 128, ..Faults::default() });
}

#[test]
fn late_frames_are_survived() {
    survives(Faults { late: 64, ..Faults::default() });
}

#[test]
fn noise_and_oversized_frames_are_survived() {
    survives(Faults { noise: 64, ..Faults::default() });
}

#[test]
fn all_faults_at_once_are_survived() {
    survives(Faults { lost: 32, damaged: 32, repeated: 32, late: 32, noise: 32 });
}

/// Sends a frame to the board and returns what it says to it.
fn say(link: &mut Link, header: Header, command: &Command<'_>) -> Option<String> {
    link.write_all(encode(header, command).unwrap().as_bytes()).unwrap();
    heard(link, header)
}

fn heard(link: &mut Link, header: Header) -> Option<String> {
    let (mut receiver, mut bytes) = (Receiver::new(), [0; 1024]);
    for _ in 0..10 {
        let len = link.read(&mut bytes).unwrap_or(0);
        for &byte in &bytes[..len] {
            if receiver.push(byte)
                && let Ok(frame) = receiver.frame()
                && frame.header == header
                && let Ok(FromBoard::Reply(reply)) = frame.message()
            {
                return Some(format!("{reply:?}"));
            }
        }
    }
    None
}

#[test]
fn a_command_that_comes_twice_is_done_once_and_one_that_was_overtaken_is_not_done() {
    let mut link = Link::new(FixedModel(model().bytes()), Faults::default(), 0);
    let header = |sequence| Header { session: 5, sequence };
    let done = Some(format!("{:?}", Reply::Done));
    assert!(say(&mut link, header(u16::MAX), &Command::Identify).is_some());
    assert_eq!(say(&mut link, header(0), &Command::Draw((&request(1, 1)).into())), done);
    assert_eq!(say(&mut link, header(1), &Command::Cancel), done);
    assert_eq!(say(&mut link, header(0), &Command::Draw((&request(1, 1)).into())), None);
    assert_eq!(
        say(&mut link, header(1), &Command::Draw((&request(1, 1)).into())),
        done,
        "the answer to command 1 again"
    );
    let status = format!("{:?}", mote_protocol::Status { job: 0, state: State::Cancelled });
    assert_eq!(say(&mut link, header(2), &Command::Status), Some(format!("Status({status})")));
}

#[test]
fn strange_frames_are_refused_by_name_and_damaged_ones_pass_in_silence() {
    let mut link = Link::new(FixedModel(model().bytes()), Faults::default(), 0);
    let (mine, other) = (Header { session: 5, sequence: 1 }, Header { session: 6, sequence: 1 });
    let refused = |error| Some(format!("{:?}", Reply::Refused(error)));
    assert_eq!(say(&mut link, mine, &Command::Status), refused(Error::Session));
    assert!(say(&mut link, mine, &Command::Identify).is_some());
    assert_eq!(say(&mut link, other, &Command::Status), refused(Error::Session));
    let unknown = Header { sequence: 2, ..mine };
    link.write_all(encode(unknown, &200u8).unwrap().as_bytes()).unwrap();
    assert_eq!(heard(&mut link, unknown), refused(Error::Command));
    let left_over = Header { sequence: 3, ..mine };
    link.write_all(encode(left_over, &(Command::Status, 1u8)).unwrap().as_bytes()).unwrap();
    assert_eq!(heard(&mut link, left_over), refused(Error::Command));
    link.write_all(&[7; 5000]).unwrap();
    link.write_all(&[0]).unwrap();
    assert!(say(&mut link, Header { sequence: 4, ..mine }, &Command::Identify).is_some());
}

/// Any bytes, and whole frames of any content: no answer is wrong enough to panic, and the board still draws.
#[test]
fn nothing_that_comes_stops_a_board() {
    let mut random = Philox::new(11);
    let mut link = Link::new(FixedModel(model().bytes()), Faults::default(), 0);
    say(&mut link, Header { session: 5, sequence: 0 }, &Command::Identify);
    for sequence in 1..3000 {
        let len = random.next_u32() as usize % 40;
        // Small numbers, so that most begin as a command does.
        let body: Vec<u8> = (0..len).map(|_| (random.next_u32() & random.next_u32()) as u8 & 0x8F).collect();
        let frame = encode(Header { session: 5, sequence }, &Raw(&body)).unwrap();
        link.write_all(frame.as_bytes()).unwrap();
        link.write_all(&body).unwrap();
        let mut answer = [0; 1024];
        (0..3).for_each(|_| drop(link.read(&mut answer)));
    }
    let mut client = Client::connect(link, TIMING).unwrap();
    client.cancel().unwrap();
    assert_eq!(client.draw(&request(1, 4), |_| ()).unwrap(), drawn_here(&request(1, 4)).1);
}

/// A body as it is.
struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}
