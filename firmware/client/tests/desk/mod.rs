//! A board in memory, and a line to it that can be bad.
#![allow(dead_code, reason = "each test program uses a part")]

use mote_client::{Client, Timing};
use mote_core::{Arena, Generator, Model, Request, selftest};
use mote_device::{Board, Memory, Store, serve};
use rand_core::Rng;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes of the board's memory for models and for inputs.
pub(crate) const ARENA: usize = 8192;
pub(crate) const INPUT: usize = 192;

/// Short, for a board that answers at once or never.
pub(crate) const TIMING: Timing =
    Timing { answer: Duration::from_millis(3), attempts: 100, job: Duration::from_secs(20) };

/// Its clock counts how often it is looked at.
pub(crate) struct Desk(pub(crate) u32);

impl Board for Desk {
    const NAME: &'static str = "desk";
    const CLOCK_HZ: u32 = 1_000;
    fn ticks(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

/// The self-test's model, for as long as the test runs.
pub(crate) fn model() -> Model<'static> {
    let file = Box::leak(Box::new([0; 8192]));
    let model = selftest::write_model(file).expect("there is room");
    Model::parse(model.bytes().to_vec().leak()).expect("it is a model")
}

/// A sample from noise.
pub(crate) fn request(class: u16, seed: u64) -> Request<'static> {
    Request { class, seed, sample: 3, ..Request::default() }
}

/// What the host draws: values, and pixels.
pub(crate) fn drawn_here(request: &Request<'_>) -> (Vec<i16>, Vec<u8>) {
    let (model, mut arena) = (model(), Arena::<ARENA>::new());
    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    generator.start(*request).unwrap();
    generator.finish();
    (generator.state().to_vec(), generator.pixels().collect())
}

/// How bad a line is: of 256 frames so many are ...
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// ... lost,
    pub(crate) lost: u8,
    /// ... changed in one bit or cut,
    pub(crate) damaged: u8,
    /// ... sent twice,
    pub(crate) repeated: u8,
    /// ... sent after the next one,
    pub(crate) late: u8,
    /// ... preceded by noise, sometimes longer than any frame.
    pub(crate) noise: u8,
}

/// One direction of the line.
pub(crate) struct Lane {
    /// What can be read.
    pub(crate) bytes: VecDeque<u8>,
    /// The frame that is being written.
    frame: Vec<u8>,
    late: Vec<u8>,
    faults: Faults,
    random: mote_core::noise::Philox,
    /// Faults so far.
    pub(crate) count: u32,
}

impl Lane {
    fn new(faults: Faults, seed: u64) -> Self {
        let random = mote_core::noise::Philox::new(seed);
        Lane { bytes: VecDeque::new(), frame: Vec::new(), late: Vec::new(), faults, random, count: 0 }
    }

    fn write(&mut self, byte: u8) {
        self.frame.push(byte);
        if byte == 0 && self.frame.len() > 1 {
            let frame = std::mem::take(&mut self.frame);
            self.deliver(frame);
        }
    }

    fn happens(&mut self, of_256: u8) -> bool {
        let happens = self.random.next_u32() as u8 >= 255 - of_256 && of_256 > 0;
        self.count += u32::from(happens);
        happens
    }

    fn deliver(&mut self, mut frame: Vec<u8>) {
        let faults = self.faults;
        if self.happens(faults.noise) {
            let len = self.random.next_u32() as usize % 1000;
            let noise: Vec<u8> = (0..len).map(|_| self.random.next_u32() as u8).collect();
            self.bytes.extend(noise);
        }
        if self.happens(faults.lost) {
            return;
        }
        if self.happens(faults.damaged) {
            let at = self.random.next_u32() as usize % frame.len();
            match self.random.next_u32() % 9 {
                8 => frame.truncate(at),
                bit => frame[at] ^= 1 << bit,
            }
        }
        if self.happens(faults.late) && self.late.is_empty() {
            self.late = frame;
            return;
        }
        let times = 1 + usize::from(self.happens(faults.repeated));
        self.bytes.extend(frame.repeat(times));
        self.bytes.extend(std::mem::take(&mut self.late));
    }
}

/// The board's end of a lane.
pub(crate) struct End(Rc<RefCell<Lane>>);

impl embedded_io_async::ErrorType for End {
    type Error = Infallible;
}

impl embedded_io_async::Read for End {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        std::future::poll_fn(|_| {
            let mut lane = self.0.borrow_mut();
            let len = into.len().min(lane.bytes.len());
            into.iter_mut().zip(lane.bytes.drain(..len)).for_each(|(to, from)| *to = from);
            if len > 0 { Poll::Ready(Ok(len)) } else { Poll::Pending }
        })
        .await
    }
}

impl embedded_io_async::Write for End {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        bytes.iter().for_each(|&byte| self.0.borrow_mut().write(byte));
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A board and the line to it: the host's end. The board gets a turn whenever the host reads in vain.
pub(crate) struct Link {
    board: Pin<Box<dyn Future<Output = Option<Infallible>>>>,
    pub(crate) to_board: Rc<RefCell<Lane>>,
    pub(crate) from_board: Rc<RefCell<Lane>>,
    /// Turns that the board had.
    pub(crate) turns: Rc<Cell<u32>>,
}

impl Link {
    pub(crate) fn new(store: impl Store + 'static, faults: Faults, seed: u64) -> Self {
        let lanes = [2 * seed, 2 * seed + 1].map(|seed| Rc::new(RefCell::new(Lane::new(faults, seed))));
        let [to_board, from_board] = lanes;
        let memory = Memory {
            arena: &mut Box::leak(Box::new(Arena::<ARENA>::new())).0,
            input: &mut Box::leak(Box::new(Arena::<INPUT>::new())).0,
        };
        let board = Box::pin(serve(Desk(0), store, memory, End(to_board.clone()), End(from_board.clone())));
        Link { board, to_board, from_board, turns: Rc::default() }
    }

    pub(crate) fn turn(&mut self) {
        self.turns.set(self.turns.get() + 1);
        assert!(self.board.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

impl Read for Link {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.from_board.borrow().bytes.is_empty() {
            self.turn();
        }
        let mut lane = self.from_board.borrow_mut();
        let len = into.len().min(lane.bytes.len());
        into.iter_mut().zip(lane.bytes.drain(..len)).for_each(|(to, from)| *to = from);
        if len > 0 { Ok(len) } else { Err(ErrorKind::TimedOut.into()) }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.to_board.borrow_mut().write(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client of a board with this store, over a good line.
pub(crate) fn client(store: impl Store + 'static) -> Client<Link> {
    Client::connect(Link::new(store, Faults::default(), 0), TIMING).unwrap()
}
