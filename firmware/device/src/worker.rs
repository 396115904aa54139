//! What commands do, and the job in progress.

use crate::{Board, Store, Stored, Update};
use mote_core::format::{self, Checksum};
use mote_core::selftest::{self, SelftestError};
use mote_core::{Generator, Model, Progress, Request, RequestError, pixels};
use mote_protocol::{
    Command, DATA_LEN, Error, Identity, Input, Job, Loaded, ModelIdentity, Reply, SelftestPart, SlotInfo, Start, State,
    Status, cut,
};

/// The board with its models and its job.
#[derive(Debug)]
pub(crate) struct Worker<'i, B, S> {
    board: B,
    store: S,
    input: &'i mut [u8],
    /// Bytes of the input that are written.
    input_len: usize,
    arena_len: usize,
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

impl<'i, B: Board, S: Store> Worker<'i, B, S> {
    pub(crate) fn new(board: B, store: S, input: &'i mut [u8]) -> Self {
        Worker {
            board,
            store,
            input,
            input_len: 0,
            arena_len: 0,
            loaded: Loaded::Nothing,
            load_is_due: false,
            status: Status { job: 0, state: State::Idle },
            is_news: false,
            ticks: 0,
            longest: 0,
            data: [0; DATA_LEN],
        }
    }

    pub(crate) fn board(&mut self) -> &mut B {
        &mut self.board
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// The status, if the host was not told of it.
    pub(crate) fn news(&mut self) -> Option<Status> {
        core::mem::take(&mut self.is_news).then_some(self.status)
    }

    /// Whether the newest model is to be loaded, said once.
    pub(crate) fn load_is_due(&mut self) -> bool {
        core::mem::take(&mut self.load_is_due)
    }

    pub(crate) fn load(&mut self, arena_len: usize) -> Option<Model<'static>> {
        self.arena_len = arena_len;
        self.status.state = State::Idle;
        let stored = self.store.newest();
        let parsed = stored.map(|Stored { file, slot }| (Model::parse(file), slot));
        let (model, loaded) = match parsed {
            None => (None, Loaded::Nothing),
            Some((Err(_), _)) => (None, Loaded::Unreadable),
            Some((Ok(model), _)) if model.arena_len() > arena_len => {
                (None, Loaded::TooLarge { arena_len: model.arena_len() as u32 })
            }
            Some((Ok(model), slot)) => (Some(model), Loaded::Model(identity(&model, slot))),
        };
        self.loaded = loaded;
        model
    }

    /// Does what the command with this sequence number says.
    pub(crate) fn execute(
        &mut self,
        command: Command<'_>,
        sequence: u16,
        generator: Option<&mut Generator<'_, '_>>,
    ) -> Reply<'_> {
        let done = match command {
            Command::Identify => return Reply::Identity(self.identity()),
            Command::Status => return Reply::Status(self.status),
            Command::ReadSample { offset, len } => return reply(offset, self.read_sample(offset, len, generator)),
            Command::ReadSlot { slot, offset, len } => return reply(offset, self.read_slot(slot, offset, len)),
            Command::Slot { slot } => match self.store.slot(slot) {
                Ok(state) => return Reply::Slot(SlotInfo { state, in_use: self.slot_in_use() == Some(slot) }),
                Err(error) => Err(error),
            },
            Command::WriteInput { input: Input::Picture, offset, data } => self.write_input(offset, data),
            Command::Draw(job) => self.draw(job, sequence, generator),
            Command::Cancel => {
                self.cancel();
                Ok(())
            }
            Command::Benchmark { samples } => self.benchmark(samples, sequence, generator),
            Command::Selftest => self.selftest(sequence),
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
            Command::Load => self.between_jobs().map(|()| self.load_is_due = true),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(error),
        }
    }

    /// Goes on with the job in progress by one layer.
    pub(crate) fn work(&mut self, generator: Option<&mut Generator<'_, '_>>) {
        match (self.status.state, generator) {
            (State::Testing, _) => self.set(tested(selftest::run())),
            (State::Drawing { row, rows }, Some(generator)) => match self.board.step(generator) {
                Progress::Row(next) if next == row => {}
                Progress::Row(row) => self.set(State::Drawing { row, rows }),
                Progress::Done => self.set(State::Drawn { checksum: checksum(generator) }),
            },
            (State::Benchmarking { done, samples }, Some(generator)) => self.measure(done, samples, generator),
            _ => {}
        }
    }

    fn set(&mut self, state: State) {
        self.status.state = state;
        self.is_news = true;
    }

    fn begin(&mut self, sequence: u16, state: State) {
        self.status = Status { job: sequence, state };
        self.is_news = false;
    }

    fn between_jobs(&self) -> Result<(), Error> {
        if self.status.state.is_running() { Err(Error::Busy) } else { Ok(()) }
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
            input_len: self.input.len() as u32,
            clock_hz: B::CLOCK_HZ,
            slots: self.store.slots(),
            slot_len: self.store.slot_len(),
            model: self.loaded,
        }
    }

    fn write_input(&mut self, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.between_jobs()?;
        let begin = offset as usize;
        // A new input begins at 0, over the old one.
        if begin != 0 && begin != self.input_len {
            return Err(Error::Offset { expected: self.input_len as u32 });
        }
        let end = begin.saturating_add(data.len());
        let room = self.input.len() as u32;
        let place = self.input.get_mut(begin..end).ok_or(Error::TooLong { len: end as u32, room })?;
        place.copy_from_slice(data);
        self.input_len = end;
        Ok(())
    }

    fn draw(&mut self, job: Job, sequence: u16, generator: Option<&mut Generator<'_, '_>>) -> Result<(), Error> {
        self.between_jobs()?;
        let (Some(generator), Loaded::Model(model)) = (generator, self.loaded) else { return Err(Error::NoModel) };
        let request = Request::from(job);
        match job.start {
            Start::Noise => generator.start(request),
            Start::Picture => {
                let picture = self.input.get(..self.input_len).unwrap_or_default();
                generator.start_from(request, picture)
            }
        }
        .map_err(refused)?;
        self.begin(sequence, State::Drawing { row: job.first_row, rows: model.rows });
        Ok(())
    }

    fn cancel(&mut self) {
        if self.status.state.is_running() {
            self.set(State::Cancelled);
        }
    }

    fn benchmark(
        &mut self,
        samples: u16,
        sequence: u16,
        generator: Option<&mut Generator<'_, '_>>,
    ) -> Result<(), Error> {
        self.between_jobs()?;
        if samples == 0 {
            return Err(Error::Nothing);
        }
        let generator = generator.ok_or(Error::NoModel)?;
        generator.start(Request::default()).map_err(refused)?;
        (self.ticks, self.longest) = (0, 0);
        self.begin(sequence, State::Benchmarking { done: 0, samples });
        Ok(())
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
        self.between_jobs()?;
        if !B::SELFTEST {
            return Err(Error::Unsupported);
        }
        self.begin(sequence, State::Testing);
        Ok(())
    }

    /// The pixels `offset .. offset + len` that there are.
    fn read_sample(
        &mut self,
        offset: u32,
        len: u16,
        generator: Option<&mut Generator<'_, '_>>,
    ) -> Result<&[u8], Error> {
        let (State::Drawn { .. }, Some(generator)) = (self.status.state, generator) else {
            return Err(Error::NoSample);
        };
        let rest = generator.state().get(offset as usize..).unwrap_or_default();
        let part = self.data.get_mut(..usize::from(len).min(rest.len())).ok_or(too_much(len))?;
        part.iter_mut().zip(rest).for_each(|(pixel, &x)| *pixel = pixels::to_u8(x));
        Ok(part)
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

fn reply(offset: u32, data: Result<&[u8], Error>) -> Reply<'_> {
    match data {
        Ok(data) => Reply::Data { offset, data },
        Err(error) => Reply::Refused(error),
    }
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

fn refused(error: RequestError) -> Error {
    match error {
        RequestError::Class { class, classes } => Error::Class { class, classes },
        RequestError::Row { row, rows } => Error::Row { row, rows },
        RequestError::Picture { len, needed } => Error::Input { len: len as u32, needed: needed as u32 },
        _ => Error::Unsupported,
    }
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
