//! What commands do, and the job in progress.

use crate::inputs::Inputs;
use crate::session::{self, Session};
use crate::wire::{Wire, until, yield_now};
use crate::{Board, Memory, Store, Stored, Update};
use core::cell::RefCell;
use mote_core::format::{self, Checksum};
use mote_core::selftest::{self, SelftestError};
use mote_core::{Generator, Model, Progress, Request, pixels};
use mote_protocol::{
    Command, DATA_LEN, Error, Form, Header, Identity, Job, Loaded, ModelIdentity, Reply, SelftestPart, SlotInfo, State,
    Status, cut,
};

/// The board with its models and its job.
#[derive(Debug)]
pub(crate) struct Worker<B, S> {
    board: B,
    store: S,
    session: Session,
    /// Bytes of memory.
    arena_len: usize,
    input_room: usize,
    inputs: Inputs,
    loaded: Loaded<'static>,
    load_is_due: bool,
    status: Status,
    /// The host was not told of the state.
    is_news: bool,
    /// Of the benchmark in progress: ticks of all turns, and of the longest.
    ticks: u64,
    longest: u32,
    /// The data of the last answer.
    data: [u8; DATA_LEN],
}

/// What is in memory while a command is looked at.
enum Stage<'s, 'm, 'a> {
    /// No sample: the input can be written.
    Free(&'s mut [u8]),
    /// A sample, finished or not; what it began with must stay.
    Drawing(&'s mut Generator<'m, 'a>),
}

/// What comes of a command.
enum Outcome<'w> {
    /// Its answer.
    Reply(Reply<'w>),
    /// It is answered when the work has begun, or cannot.
    Begin(Work),
    /// It needs the memory that the finished sample is in, and is looked at again without it.
    Forget,
}

/// What follows a command.
enum Next {
    GoOn,
    Begin(Header, Work),
    Forget,
}

/// A job that draws.
#[derive(Clone, Copy)]
enum Work {
    Draw(Job),
    Benchmark { samples: u16 },
}

impl<B: Board, S: Store> Worker<B, S> {
    pub(crate) fn new(board: B, store: S) -> Self {
        Worker {
            board,
            store,
            session: Session::default(),
            arena_len: 0,
            input_room: 0,
            inputs: Inputs::default(),
            loaded: Loaded::Nothing,
            load_is_due: false,
            status: Status { job: 0, state: State::Idle },
            is_news: false,
            ticks: 0,
            longest: 0,
            data: [0; DATA_LEN],
        }
    }

    /// Answers commands and does what they say, a model after the other, for ever.
    pub(crate) async fn run(&mut self, wire: &RefCell<Wire>, memory: Memory<'_>) {
        let Memory { arena, input } = memory;
        (self.arena_len, self.input_room) = (arena.len(), input.len());
        loop {
            let model = self.load();
            while let Some((header, work)) = self.attend(wire, Stage::Free(input)).await {
                let generator = model.as_ref().and_then(|model| Generator::new(model, arena).ok());
                let begun = match generator {
                    None => Err(Error::NoModel),
                    Some(mut generator) => self.begin(work, header.sequence, input, &mut generator).map(|()| generator),
                };
                let reply = begun.as_ref().map_or_else(|error| Reply::Refused(*error), |_| Reply::Done);
                self.session.accept(header);
                wire.borrow_mut().line.reply(session::reply(header, reply));
                if let Ok(mut generator) = begun {
                    self.attend(wire, Stage::Drawing(&mut generator)).await;
                    self.status.state = State::Idle;
                }
            }
            self.load_is_due = false;
        }
    }

    /// Answers commands and goes on with the job, until a command begins to draw, which is returned, or needs other memory, or
    /// another model is to be loaded.
    async fn attend(&mut self, wire: &RefCell<Wire>, mut stage: Stage<'_, '_, '_>) -> Option<(Header, Work)> {
        while !self.load_is_due {
            match self.answer(&mut wire.borrow_mut(), &mut stage) {
                Next::GoOn => {}
                Next::Begin(header, work) => return Some((header, work)),
                Next::Forget => return None,
            }
            if self.status.state == State::Testing {
                // The answer first: the test takes seconds.
                until(wire, |wire| wire.line.outgoing().is_empty()).await;
            }
            self.work(&mut stage);
            self.tell(&mut wire.borrow_mut());
            if self.status.state.is_running() {
                yield_now().await;
            } else {
                until(wire, |wire| wire.can_answer() || self.is_news && wire.line.has_room_aside()).await;
            }
        }
        None
    }

    /// Answers the frame that waits, if one does.
    fn answer(&mut self, wire: &mut Wire, stage: &mut Stage<'_, '_, '_>) -> Next {
        if !wire.can_answer() {
            return Next::GoOn;
        }
        wire.change();
        let Some((header, command)) = self.session.command(wire) else {
            wire.frame_waits = false;
            return Next::GoOn;
        };
        let outcome = match command {
            Ok(command) => self.execute(command, header.sequence, stage),
            Err(_) => Outcome::Reply(Reply::Refused(Error::Command)),
        };
        let next = match outcome {
            Outcome::Forget => return Next::Forget,
            Outcome::Begin(work) => Next::Begin(header, work),
            Outcome::Reply(reply) => {
                wire.line.reply(session::reply(header, reply));
                self.session.accept(header);
                Next::GoOn
            }
        };
        wire.frame_waits = false;
        next
    }

    /// Tells the host the state, if it was not told.
    fn tell(&mut self, wire: &mut Wire) {
        if self.is_news && wire.line.has_room_aside() {
            self.is_news = false;
            wire.line.aside(self.session.event(self.status));
            wire.change();
        }
    }

    fn load(&mut self) -> Option<Model<'static>> {
        let stored = self.store.newest();
        let parsed = stored.map(|Stored { file, slot }| (Model::parse(file), slot));
        let (model, loaded) = match parsed {
            None => (None, Loaded::Nothing),
            Some((Err(_), _)) => (None, Loaded::Unreadable),
            Some((Ok(model), _)) if model.arena_len() > self.arena_len => {
                (None, Loaded::TooLarge { arena_len: model.arena_len() as u32 })
            }
            Some((Ok(model), slot)) => (Some(model), Loaded::Model(identity(&model, slot))),
        };
        self.loaded = loaded;
        model
    }

    /// Does what the command with this sequence number says.
    fn execute(&mut self, command: Command<'_>, sequence: u16, stage: &mut Stage<'_, '_, '_>) -> Outcome<'_> {
        let done = match command {
            Command::Identify => return Outcome::Reply(Reply::Identity(self.identity())),
            Command::Status => return Outcome::Reply(Reply::Status(self.status)),
            Command::ReadSample { form, offset, len } => {
                return data(offset, self.read_sample(form, offset, len, stage));
            }
            Command::ReadSlot { slot, offset, len } => return data(offset, self.read_slot(slot, offset, len)),
            Command::Slot { slot } => match self.store.slot(slot) {
                Ok(state) => {
                    let in_use = self.slot_in_use() == Some(slot);
                    return Outcome::Reply(Reply::Slot(SlotInfo { state, in_use }));
                }
                Err(error) => Err(error),
            },
            Command::Cancel => {
                self.cancel();
                Ok(())
            }
            Command::BeginUpdate { len, checksum, signature } => {
                let in_use = self.slot_in_use();
                self.store.begin(Update { len, checksum, signature, in_use })
            }
            Command::WriteUpdate { offset, data } => self.store.write(offset, data),
            Command::FinishUpdate => self.finish_update(),
            Command::AbortUpdate => {
                self.store.abort();
                Ok(())
            }
            // What is left needs that no job is in progress.
            _ if self.status.state.is_running() => Err(Error::Busy),
            Command::Selftest => self.selftest(sequence),
            Command::Load => {
                self.load_is_due = true;
                Ok(())
            }
            _ if !matches!(self.loaded, Loaded::Model(_)) => Err(Error::NoModel),
            Command::WriteInput { .. } | Command::Draw(_) | Command::Benchmark { .. } => match stage {
                Stage::Drawing(_) => return Outcome::Forget,
                Stage::Free(memory) => match command {
                    Command::WriteInput { input, offset, data } => self.inputs.write(memory, input, offset, data),
                    Command::Draw(job) => return Outcome::Begin(Work::Draw(job)),
                    Command::Benchmark { samples: 0 } => Err(Error::Nothing),
                    Command::Benchmark { samples } => return Outcome::Begin(Work::Benchmark { samples }),
                    _ => Err(Error::Command),
                },
            },
        };
        Outcome::Reply(done.map_or_else(Reply::Refused, |()| Reply::Done))
    }

    /// Goes on with the job in progress by one layer.
    fn work(&mut self, stage: &mut Stage<'_, '_, '_>) {
        match (self.status.state, stage) {
            (State::Testing, _) => self.set(tested(selftest::run())),
            (State::Drawing { done, passes }, Stage::Drawing(generator)) => match self.board.step(generator) {
                Progress::Done => self.set(State::Drawn { checksum: checksum(generator) }),
                Progress::Row(_) if generator.passes_done() == done => {}
                Progress::Row(_) => self.set(State::Drawing { done: generator.passes_done(), passes }),
            },
            (State::Benchmarking { done, samples }, Stage::Drawing(generator)) => {
                self.measure(done, samples, generator)
            }
            _ => {}
        }
    }

    /// Begins to draw.
    fn begin<'a>(
        &mut self,
        work: Work,
        sequence: u16,
        input: &'a [u8],
        generator: &mut Generator<'_, 'a>,
    ) -> Result<(), Error> {
        let state = match work {
            Work::Draw(job) => {
                generator.start(job.request(|which| self.inputs.get(input, which)))?;
                State::Drawing { done: 0, passes: generator.passes() }
            }
            Work::Benchmark { samples } => {
                generator.start(Request::default())?;
                (self.ticks, self.longest) = (0, 0);
                State::Benchmarking { done: 0, samples }
            }
        };
        self.status = Status { job: sequence, state };
        self.is_news = false;
        Ok(())
    }

    fn set(&mut self, state: State) {
        self.status.state = state;
        self.is_news = true;
    }

    fn slot_in_use(&self) -> Option<u8> {
        match self.loaded {
            Loaded::Model(model) => model.slot,
            _ => None,
        }
    }

    fn identity(&self) -> Identity<'static> {
        Identity {
            board: cut(B::NAME),
            firmware: env!("CARGO_PKG_VERSION"),
            format: format::VERSION,
            arena_len: self.arena_len as u32,
            input_len: self.input_room as u32,
            clock_hz: B::CLOCK_HZ,
            slots: self.store.slots(),
            slot_len: self.store.slot_len(),
            model: self.loaded,
        }
    }

    fn cancel(&mut self) {
        if self.status.state.is_running() {
            self.set(State::Cancelled);
        }
    }

    /// One turn of a benchmark: sample `i` of seed 0, class 0.
    fn measure(&mut self, done: u16, samples: u16, generator: &mut Generator<'_, '_>) {
        let begin = self.board.ticks();
        let progress = self.board.step(generator);
        let turn = self.board.ticks().wrapping_sub(begin);
        self.ticks += u64::from(turn);
        self.longest = self.longest.max(turn);
        if progress != Progress::Done {
            return;
        }
        let done = done + 1;
        if done == samples {
            return self.set(State::Benchmarked { samples, ticks: self.ticks, longest: self.longest });
        }
        // Class 0 and row 0 exist in every model.
        let _ = generator.start(Request { sample: u64::from(done), ..Request::default() });
        self.set(State::Benchmarking { done, samples });
    }

    fn selftest(&mut self, sequence: u16) -> Result<(), Error> {
        if !B::SELFTEST {
            return Err(Error::Unsupported);
        }
        self.status = Status { job: sequence, state: State::Testing };
        Ok(())
    }

    /// The bytes `offset .. offset + len` of the sample's values, as far as there are any.
    fn read_sample(&mut self, form: Form, offset: u32, len: u16, stage: &Stage<'_, '_, '_>) -> Result<&[u8], Error> {
        let (State::Drawn { .. }, Stage::Drawing(generator)) = (self.status.state, stage) else {
            return Err(Error::NoSample);
        };
        let room = self.data.get_mut(..usize::from(len)).ok_or(too_much(len))?;
        let (state, offset) = (generator.state(), offset as usize);
        let read = match form {
            Form::Pixels => copy(room, state.get(offset..).unwrap_or_default().iter().map(|&x| pixels::to_u8(x))),
            Form::Q12 => {
                let rest = state.get(offset / 2..).unwrap_or_default();
                copy(room, rest.iter().flat_map(|x| x.to_le_bytes()).skip(offset % 2))
            }
        };
        room.get(..read).ok_or(Error::NoSample)
    }

    fn read_slot(&mut self, slot: u8, offset: u32, len: u16) -> Result<&[u8], Error> {
        let part = self.data.get_mut(..usize::from(len)).ok_or(too_much(len))?;
        let read = self.store.read(slot, offset, part)?;
        part.get(..read).ok_or(Error::Flash)
    }

    /// The new model must be one that this board can draw with.
    fn finish_update(&mut self) -> Result<(), Error> {
        let file = self.store.check()?;
        let model = Model::parse(file).map_err(|_| Error::Unreadable)?;
        if model.arena_len() > self.arena_len {
            return Err(Error::Arena { needed: model.arena_len() as u32, len: self.arena_len as u32 });
        }
        self.store.commit()
    }
}

fn identity(model: &Model<'static>, slot: Option<u8>) -> ModelIdentity<'static> {
    ModelIdentity {
        name: cut(model.name()),
        checksum: model.checksum(),
        len: model.bytes().len() as u32,
        height: model.height() as u16,
        width: model.width() as u16,
        channels: model.channels() as u16,
        classes: model.classes(),
        rows: model.rows(),
        arena_len: model.arena_len() as u32,
        slot,
    }
}

fn data(offset: u32, data: Result<&[u8], Error>) -> Outcome<'_> {
    Outcome::Reply(match data {
        Ok(data) => Reply::Data { offset, data },
        Err(error) => Reply::Refused(error),
    })
}

fn too_much(len: u16) -> Error {
    Error::TooLong { len: len.into(), room: DATA_LEN as u32 }
}

/// CRC-32 of the sample's pixels.
fn checksum(generator: &Generator<'_, '_>) -> u32 {
    let mut checksum = Checksum::new();
    generator.pixels().for_each(|pixel| checksum.update(&[pixel]));
    checksum.value()
}

/// Copies what there is room for and returns how much.
fn copy(room: &mut [u8], bytes: impl Iterator<Item = u8>) -> usize {
    let mut len = 0;
    for (place, byte) in room.iter_mut().zip(bytes) {
        *place = byte;
        len += 1;
    }
    len
}

fn tested(result: Result<u32, SelftestError>) -> State {
    let (part, found) = match result {
        Ok(hash) => return State::Passed { hash },
        Err(SelftestError::Philox) => (SelftestPart::Philox, 0),
        Err(SelftestError::Normals { found }) => (SelftestPart::Normals, found),
        Err(SelftestError::Kernel { case, .. }) => (SelftestPart::Kernel, case),
        Err(SelftestError::Model) => (SelftestPart::Model, 0),
        Err(SelftestError::Samples { found }) => (SelftestPart::Samples, found),
    };
    State::Failed { part, found }
}
