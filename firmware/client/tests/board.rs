//! What a board answers over a good line.

mod desk;

use desk::{ARENA, Desk, INPUT, Link, TIMING, client, drawn_here, model, request};
use mote_client::{Client, ClientError};
use mote_core::format::checksum;
use mote_core::{Aim, Known, Mix, Request, Resampling, Start, Stream, Values, selftest};
use mote_device::{Board, FixedModel, Store, Stored, Update};
use mote_protocol::{Error, Loaded, SlotState, State};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Error {
    match result {
        Err(ClientError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_board_says_what_it_is_and_what_it_draws() {
    let model = model();
    let mut client = client(FixedModel(model.bytes()));
    let identity = client.identify().unwrap();
    assert_eq!((identity.board, identity.clock_hz), (Desk::NAME, Desk::CLOCK_HZ));
    assert_eq!((identity.arena_len, identity.input_len, identity.slots), (ARENA as u32, INPUT as u32, 0));
    let Loaded::Model(found) = identity.model else { panic!("{identity:?}") };
    assert_eq!((found.name, found.checksum, found.len), (model.name(), model.checksum(), model.bytes().len() as u32));
    assert_eq!(found.sample_len(), model.sample_len());
    assert_eq!((found.classes, found.rows, found.arena_len), (2, 2, model.arena_len() as u32));
}

#[test]
fn a_board_draws_the_hosts_pixels_and_tells_each_row() {
    let mut client = client(FixedModel(model().bytes()));
    for seed in 0..3 {
        let request = request(seed as u16 % 2, seed);
        let (values, pixels) = drawn_here(&request);
        let mut states = Vec::new();
        assert_eq!(client.draw(&request, |state| states.push(state)).unwrap(), pixels);
        assert_eq!(client.read_values().unwrap(), values);
        assert_eq!(states, [State::Drawing { done: 1, passes: 2 }, State::Drawn { checksum: checksum(&pixels) }]);
    }
    assert_eq!(client.resent(), 0);
}

/// Every kind of request, with values as pixels and as Q12, longer than a message's data where the sample is.
#[test]
fn a_board_serves_every_request_that_the_host_does() {
    let pixels: Vec<u8> = (0..36).map(|i| 7 * i).collect();
    let q12: Vec<i16> = (0..36).map(|i| 200 * i - 3600).collect();
    let mask: Vec<u8> = (0..36).map(|i| i % 2).collect();
    let known = |values| Known { values, mask: &mask, resampling: Resampling::default() };
    let ends = [(3, 1), (4, 2)].map(|(seed, sample)| Stream { seed, sample });
    let plain = request(1, 5);
    let requests = [
        Request { first_row: 1, start: Start::Noised(Values::Pixels(&pixels)), ..plain },
        Request { first_row: 1, start: Start::Noised(Values::Q12(&q12)), ..plain },
        Request { first_row: 1, start: Start::Noisy(Values::Q12(&q12)), aim: Aim::Mean, ..plain },
        Request { start: Start::Mixed(Mix { ends, fraction: Mix::WHOLE / 3 }), ..plain },
        Request { known: Some(known(Values::Pixels(&pixels))), ..plain },
        Request { known: Some(known(Values::Q12(&q12))), start: Start::Noised(Values::Pixels(&pixels)), ..plain },
    ];
    let mut client = client(FixedModel(model().bytes()));
    let mut all = Vec::new();
    for request in requests {
        all.push(client.draw(&request, |_| ()).unwrap());
        assert_eq!(all.last(), Some(&drawn_here(&request).1), "{request:?}");
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), requests.len(), "each draws something else");
}

#[test]
fn a_job_that_the_model_cannot_do_is_refused() {
    let mut client = client(FixedModel(model().bytes()));
    assert_eq!(refused(client.draw(&request(2, 0), |_| ())), Error::Class { class: 2, classes: 2 });
    let plain = request(0, 0);
    let late = Request { first_row: 2, ..plain };
    assert_eq!(refused(client.draw(&late, |_| ())), Error::Row { row: 2, rows: 2 });
    let values = |values| Request { start: Start::Noised(values), ..plain };
    assert_eq!(refused(client.draw(&values(Values::Pixels(&[])), |_| ())), Error::Values { len: 0, needed: 36 });
    assert_eq!(refused(client.draw(&values(Values::Q12(&[1; 35])), |_| ())), Error::Values { len: 35, needed: 36 });
    let long = [0; INPUT + 1];
    let error = refused(client.draw(&values(Values::Pixels(&long)), |_| ()));
    assert_eq!(error, Error::TooLong { len: INPUT as u32 + 1, room: INPUT as u32 });
    let known = Known { values: Values::Pixels(&[0; 36]), mask: &[1; 3], resampling: Resampling::default() };
    let error = refused(client.draw(&Request { known: Some(known), ..plain }, |_| ()));
    assert_eq!(error, Error::Mask { len: 3, pixels: 36, values: 36 });
    let known = Known { mask: &[1; 36], resampling: Resampling { jump: 9, resamples: 2 }, ..known };
    let error = refused(client.draw(&Request { known: Some(known), ..plain }, |_| ()));
    assert_eq!(error, Error::Resampling { jump: 9, resamples: 2, rows: 2 });
    assert_eq!(refused(client.benchmark(0, |_| ())), Error::Nothing);
    assert_eq!(refused(client.slot(0)), Error::Slot);
    assert_eq!(refused(client.update(&[1], &[], |_| ())), Error::Unsupported);
}

#[test]
fn a_cancelled_sample_is_gone_within_a_layer() {
    let mut client = client(FixedModel(model().bytes()));
    client.begin_draw(&request(0, 1)).unwrap();
    assert!(client.status().unwrap().state.is_running());
    assert_eq!(refused(client.begin_draw(&request(0, 2))), Error::Busy);
    let before = client.transport().turns.get();
    client.cancel().unwrap();
    // A turn is one layer at most, and the answer came in the one that took the command.
    assert_eq!(client.transport().turns.get() - before, 1);
    assert_eq!(client.status().unwrap().state, State::Cancelled);
    assert!(matches!(client.finish_draw(|_| ()), Err(ClientError::Cancelled)));
    assert_eq!(client.draw(&request(0, 2), |_| ()).unwrap(), drawn_here(&request(0, 2)).1);
    client.cancel().unwrap();
    assert!(matches!(client.status().unwrap().state, State::Drawn { .. }), "what is done cannot be cancelled");
}

#[test]
fn a_benchmark_counts_every_layer_by_the_boards_clock() {
    let mut client = client(FixedModel(model().bytes()));
    let mut states = Vec::new();
    let measured = client.benchmark(3, |state| states.push(state)).unwrap();
    // The clock advances by one tick between two looks, a millisecond each.
    let layers = f64::from(model().ops() * model().rows());
    assert_eq!((measured.samples, measured.longest_layer), (3, 0.001));
    assert!((measured.seconds_per_sample - layers / 1000.0).abs() < 1e-12);
    assert_eq!(states[..2], [1, 2].map(|done| State::Benchmarking { done, samples: 3 }));
}

#[test]
fn a_board_tests_itself() {
    assert_eq!(client(FixedModel(model().bytes())).selftest().unwrap(), selftest::EXPECTED);
}

#[test]
fn a_board_without_a_model_says_so_and_still_tests_itself() {
    for (file, expected) in [(&[0xFF; 100][..], Loaded::Nothing), (&model().bytes()[..900], Loaded::Unreadable)] {
        let mut client = client(FixedModel(file));
        assert_eq!(client.identify().unwrap().model, expected);
        assert_eq!(refused(client.draw(&request(0, 0), |_| ())), Error::NoModel);
        assert_eq!(client.selftest().unwrap(), selftest::EXPECTED);
    }
}

#[test]
fn a_silent_board_and_an_ended_line_are_told_apart() {
    let timing = mote_client::Timing { attempts: 3, ..TIMING };
    let silent = std::io::empty();
    assert!(matches!(Client::connect(Ended(silent), timing), Err(ClientError::Ended)));
    let dead = desk::Faults { lost: 255, ..Default::default() };
    let error = Client::connect(Link::new(FixedModel(&[]), dead, 0), timing).err().unwrap();
    assert!(matches!(error, ClientError::Silent { attempts: 3, .. }), "{error}");
}

struct Ended(std::io::Empty);

impl std::io::Read for Ended {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl std::io::Write for Ended {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Two models in memory.
#[derive(Default)]
struct Pair {
    slots: [Option<(u32, &'static [u8])>; 2],
    update: Option<(usize, u32, Vec<u8>)>,
}

impl Store for Pair {
    fn newest(&mut self) -> Option<Stored> {
        let slots = self.slots.iter().zip(0..).filter_map(|(slot, index)| Some((slot.as_ref()?, index)));
        let ((_, file), slot) = slots.max_by_key(|((sequence, _), _)| *sequence)?;
        Some(Stored { file, slot: Some(slot) })
    }

    fn slots(&self) -> u8 {
        2
    }

    fn slot_len(&self) -> u32 {
        8192
    }

    fn slot(&mut self, slot: u8) -> Result<SlotState, Error> {
        Ok(match self.slots.get(usize::from(slot)).ok_or(Error::Slot)? {
            None => SlotState::Empty,
            Some((sequence, file)) => SlotState::Whole {
                sequence: *sequence,
                len: file.len() as u32,
                checksum: checksum(file),
                signed: false,
            },
        })
    }

    fn read(&mut self, slot: u8, offset: u32, into: &mut [u8]) -> Result<usize, Error> {
        let (_, file) = self.slots.get(usize::from(slot)).copied().flatten().ok_or(Error::Slot)?;
        let rest = file.get(offset as usize..).unwrap_or_default();
        into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(into.len().min(rest.len()))
    }

    fn begin(&mut self, update: Update<'_>) -> Result<(), Error> {
        if update.len > self.slot_len() {
            return Err(Error::TooLong { len: update.len, room: self.slot_len() });
        }
        let slot = usize::from(update.in_use == Some(0));
        self.update = Some((slot, update.checksum, Vec::new()));
        Ok(())
    }

    fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), Error> {
        let (_, _, file) = self.update.as_mut().ok_or(Error::NoUpdate)?;
        let expected = file.len() as u32;
        if offset != expected {
            return Err(Error::Offset { expected });
        }
        file.extend(data);
        Ok(())
    }

    fn check(&mut self) -> Result<&[u8], Error> {
        let (_, expected, file) = self.update.as_ref().ok_or(Error::NoUpdate)?;
        let found = checksum(file);
        if found == *expected { Ok(file) } else { Err(Error::Checksum { found }) }
    }

    fn commit(&mut self) -> Result<(), Error> {
        let (slot, _, file) = self.update.take().ok_or(Error::NoUpdate)?;
        let sequence = self.slots.iter().flatten().map(|(sequence, _)| sequence + 1).max().unwrap_or(0);
        self.slots[slot] = Some((sequence, file.leak()));
        Ok(())
    }
}

#[test]
fn a_model_is_written_while_another_one_draws_and_used_when_it_is_loaded() {
    let mut client = client(Pair::default());
    assert_eq!(client.identify().unwrap().model, Loaded::Nothing);
    assert_eq!(refused(client.read_slot(0)), Error::Slot);
    let file = model().bytes();
    let mut written = 0;
    client.update(file, &[], |bytes| written = bytes).unwrap();
    assert_eq!(written as usize, file.len());
    assert_eq!(client.identify().unwrap().model, Loaded::Nothing, "until it is loaded");
    client.load().unwrap();
    let Loaded::Model(first) = client.identify().unwrap().model else { panic!("no model") };
    assert_eq!((first.slot, first.len), (Some(0), file.len() as u32));

    client.begin_draw(&request(1, 9)).unwrap();
    assert_eq!(refused(client.load()), Error::Busy);
    client.update(file, &[], |_| ()).unwrap();
    assert_eq!(client.finish_draw(|_| ()).unwrap(), drawn_here(&request(1, 9)).1);
    client.load().unwrap();
    let Loaded::Model(second) = client.identify().unwrap().model else { panic!("no model") };
    assert_eq!(second.slot, Some(1));
    assert_eq!([0, 1].map(|slot| client.slot(slot).unwrap().in_use), [false, true]);
    assert_eq!(client.read_slot(0).unwrap(), file);
    assert_eq!(client.draw(&request(0, 2), |_| ()).unwrap(), drawn_here(&request(0, 2)).1);
}

#[test]
fn a_new_model_that_cannot_draw_is_refused_and_the_old_one_stays() {
    let file = model().bytes();
    let mut client = client(Pair { slots: [Some((4, file)), None], update: None });
    assert_eq!(refused(client.update(&file[..900], &[], |_| ())), Error::Unreadable);
    assert_eq!(refused(client.update(&[0; 9000], &[], |_| ())), Error::TooLong { len: 9000, room: 8192 });
    client.load().unwrap();
    let Loaded::Model(found) = client.identify().unwrap().model else { panic!("no model") };
    assert_eq!(found.slot, Some(0));
}
