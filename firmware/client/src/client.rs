//! Asking, waiting, asking again.

use crate::ClientError;
use mote_core::format::checksum;
use mote_core::{Request, Values};
use mote_protocol::{
    Command, DATA_LEN, Encoded, Error, Form, FrameError, FromBoard, Header, Identity, Input, Receiver, Reply, SlotInfo,
    SlotState, State, Status, encode, values,
};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For an answer, before asking again: more than a layer takes, the longest time between two looks at what has come.
    pub answer: Duration,
    /// How often to ask.
    pub attempts: u32,
    /// For a job to go on by a row or a sample, or to end a self-test.
    pub job: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { answer: Duration::from_secs(1), attempts: 5, job: Duration::from_secs(60) }
    }
}

/// What drawing takes on a board, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Benchmark {
    /// Samples that were drawn.
    pub samples: u16,
    /// Seconds for one.
    pub seconds_per_sample: f64,
    /// Seconds of the longest layer: how long a command waits at most while a sample is drawn.
    pub longest_layer: f64,
}

/// Speaks with one board.
#[derive(Debug)]
pub struct Client<T> {
    transport: T,
    timing: Timing,
    receiver: Receiver,
    /// Bytes that came and were not looked at.
    bytes: Vec<u8>,
    /// The last command's.
    header: Header,
    /// Sequence number of the command that began the last job.
    job: u16,
    /// What the board told last of its own accord.
    event: Option<Status>,
    resent: u64,
}

/// What has come.
enum Incoming {
    Answer,
    Event,
}

impl<T: Read + Write> Client<T> {
    /// Begins a session. The transport's reads return within a fraction of a second: with [`ErrorKind::TimedOut`] or
    /// [`ErrorKind::WouldBlock`] if nothing has come, with 0 bytes only at the end.
    ///
    /// # Errors
    /// If no board answers that speaks this version.
    pub fn connect(transport: T, timing: Timing) -> Result<Self, ClientError> {
        let session = RandomState::new().hash_one(Instant::now()) as u32;
        let mut client = Client {
            transport,
            timing,
            receiver: Receiver::new(),
            bytes: Vec::new(),
            header: Header { session, sequence: 0 },
            job: 0,
            event: None,
            resent: 0,
        };
        client.identify()?;
        Ok(client)
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// How many commands were sent again because no answer came.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Who answers: firmware, memory, model.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn identify(&mut self) -> Result<Identity<'_>, ClientError> {
        match self.ask(&Command::Identify)? {
            Reply::Identity(identity) => Ok(identity),
            _ => Err(ClientError::Unexpected("identify")),
        }
    }

    /// How the last job is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Command::Status)? {
            Reply::Status(status) => Ok(status),
            _ => Err(ClientError::Unexpected("status")),
        }
    }

    /// Draws a sample and reads its pixels: height x width x channels. `progress` is called when the state changes, as far as
    /// the messages about it arrive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn draw(&mut self, request: &Request<'_>, progress: impl FnMut(State)) -> Result<Vec<u8>, ClientError> {
        self.begin_draw(request)?;
        self.finish_draw(progress)
    }

    /// Begins to draw and returns at once: look with [`Client::status`], end with [`Client::cancel`], wait with
    /// [`Client::finish_draw`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn begin_draw(&mut self, request: &Request<'_>) -> Result<(), ClientError> {
        for (input, values) in values(request) {
            match values {
                Values::Pixels(pixels) => self.write_input(input, pixels)?,
                Values::Q12(values) => {
                    self.write_input(input, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
                }
            }
        }
        self.begin(&Command::Draw(request.into()))
    }

    fn write_input(&mut self, input: Input, bytes: &[u8]) -> Result<(), ClientError> {
        if bytes.is_empty() {
            // Otherwise what was written before would stay.
            return self.done(&Command::WriteInput { input, offset: 0, data: &[] });
        }
        parts(bytes).try_for_each(|(offset, data)| self.done(&Command::WriteInput { input, offset, data }))
    }

    /// Waits until the sample that was begun last is drawn, and reads its pixels.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn finish_draw(&mut self, progress: impl FnMut(State)) -> Result<Vec<u8>, ClientError> {
        match self.wait(progress)? {
            State::Drawn { checksum: expected } => {
                let pixels = self.read_sample(Form::Pixels)?;
                let found = checksum(&pixels);
                if found == expected { Ok(pixels) } else { Err(ClientError::Checksum { expected, found }) }
            }
            _ => Err(ClientError::Unexpected("draw")),
        }
    }

    /// Reads the values of the sample that was drawn last, 4096 for 1.0: what signals are made of.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_values(&mut self) -> Result<Vec<i16>, ClientError> {
        let bytes = self.read_sample(Form::Q12)?;
        Ok(bytes.as_chunks().0.iter().copied().map(i16::from_le_bytes).collect())
    }

    fn read_sample(&mut self, form: Form) -> Result<Vec<u8>, ClientError> {
        self.read(|offset, len| Command::ReadSample { form, offset, len })
    }

    /// Ends the job in progress, if there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cancel(&mut self) -> Result<(), ClientError> {
        self.done(&Command::Cancel)
    }

    /// Draws so many samples, which are not read, and measures them by the board's clock.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn benchmark(&mut self, samples: u16, progress: impl FnMut(State)) -> Result<Benchmark, ClientError> {
        let hz = f64::from(self.identify()?.clock_hz);
        self.begin_benchmark(samples)?;
        match self.wait(progress)? {
            State::Benchmarked { samples, ticks, longest } => Ok(Benchmark {
                samples,
                seconds_per_sample: ticks as f64 / hz / f64::from(samples),
                longest_layer: f64::from(longest) / hz,
            }),
            _ => Err(ClientError::Unexpected("benchmark")),
        }
    }

    /// Begins to draw so many samples and returns at once: a load that lasts until [`Client::cancel`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn begin_benchmark(&mut self, samples: u16) -> Result<(), ClientError> {
        self.begin(&Command::Benchmark { samples })
    }

    /// Runs mote-core's self-test on the board and returns the hash, which is [`mote_core::selftest::EXPECTED`] on every
    /// target.
    ///
    /// # Errors
    /// [`ClientError::Selftest`] if it fails.
    pub fn selftest(&mut self) -> Result<u32, ClientError> {
        self.begin(&Command::Selftest)?;
        match self.wait(|_| ())? {
            State::Passed { hash } => Ok(hash),
            State::Failed { part, found } => Err(ClientError::Selftest { part, found }),
            _ => Err(ClientError::Unexpected("self-test")),
        }
    }

    /// What a model slot holds.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn slot(&mut self, slot: u8) -> Result<SlotInfo, ClientError> {
        match self.ask(&Command::Slot { slot })? {
            Reply::Slot(slot) => Ok(slot),
            _ => Err(ClientError::Unexpected("slot")),
        }
    }

    /// Reads the model that lies in a slot.
    ///
    /// # Errors
    /// [`ClientError`]; if what was read does not have the slot's checksum, too.
    pub fn read_slot(&mut self, slot: u8) -> Result<Vec<u8>, ClientError> {
        let SlotState::Whole { checksum: expected, .. } = self.slot(slot)?.state else {
            return Err(Error::Slot.into());
        };
        let file = self.read(|offset, len| Command::ReadSlot { slot, offset, len })?;
        let found = checksum(&file);
        if found == expected { Ok(file) } else { Err(ClientError::Checksum { expected, found }) }
    }

    /// Writes a model, with its signature or none, where no model is in use, and makes it the newest. It is used after
    /// [`Client::load`] or the board's next start; a job in progress goes on. `progress` is called with the bytes written.
    ///
    /// # Errors
    /// [`ClientError`]; the models that the board had are unharmed.
    pub fn update(&mut self, file: &[u8], signature: &[u8], progress: impl FnMut(u32)) -> Result<(), ClientError> {
        let written = self.write_update(file, signature, progress);
        if written.is_err() {
            // The first error is the one to tell.
            let _ = self.done(&Command::AbortUpdate);
        }
        written
    }

    fn write_update(
        &mut self,
        file: &[u8],
        signature: &[u8],
        mut progress: impl FnMut(u32),
    ) -> Result<(), ClientError> {
        let len = u32::try_from(file.len()).map_err(|_| ClientError::TooLong("the model"))?;
        self.done(&Command::BeginUpdate { len, checksum: checksum(file), signature })?;
        for (offset, data) in parts(file) {
            self.done(&Command::WriteUpdate { offset, data })?;
            progress(offset + data.len() as u32);
        }
        self.done(&Command::FinishUpdate)
    }

    /// Has the board load the newest model; what it drew is lost.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn load(&mut self) -> Result<(), ClientError> {
        self.done(&Command::Load)
    }

    /// Sends a command that the board only does.
    fn done(&mut self, command: &Command<'_>) -> Result<(), ClientError> {
        match self.ask(command)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Unexpected("a command without an answer")),
        }
    }

    /// Sends a command that begins a job.
    fn begin(&mut self, command: &Command<'_>) -> Result<(), ClientError> {
        self.done(command)?;
        self.job = self.header.sequence;
        Ok(())
    }

    /// Reads parts until there are no more.
    fn read(&mut self, command: impl Fn(u32, u16) -> Command<'static>) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        loop {
            match self.ask(&command(bytes.len() as u32, DATA_LEN as u16))? {
                Reply::Data { data: [], .. } => return Ok(bytes),
                Reply::Data { offset, data } if offset as usize == bytes.len() => bytes.extend(data),
                _ => return Err(ClientError::Unexpected("a part of data")),
            }
        }
    }

    /// Waits for the end of the last job.
    fn wait(&mut self, mut progress: impl FnMut(State)) -> Result<State, ClientError> {
        let job = self.job;
        let mut last = None;
        let mut changed = Instant::now();
        loop {
            let status = match self.receive(Instant::now() + self.timing.answer)? {
                Some(Incoming::Event) => self.event.take().filter(|event| event.job == job),
                Some(Incoming::Answer) => None,
                // The event may be lost; during a self-test the board does not answer.
                None => match self.status() {
                    Ok(status) => Some(status),
                    Err(ClientError::Silent { .. }) => None,
                    Err(error) => return Err(error),
                },
            };
            if let Some(Status { job: found, state }) = status {
                if found != job || state == State::Idle {
                    return Err(ClientError::Lost);
                }
                if last != Some(state) {
                    last = Some(state);
                    changed = Instant::now();
                    progress(state);
                }
                match state {
                    State::Cancelled => return Err(ClientError::Cancelled),
                    state if !state.is_running() => return Ok(state),
                    _ => {}
                }
            }
            if changed.elapsed() > self.timing.job {
                return Err(ClientError::Stuck(self.timing.job));
            }
        }
    }

    /// Sends a command until its answer comes.
    fn ask(&mut self, command: &Command<'_>) -> Result<Reply<'_>, ClientError> {
        self.header.sequence = self.header.sequence.wrapping_add(1);
        let frame = encode(self.header, command).ok_or(ClientError::TooLong("a part"))?;
        let mut attempt = 0;
        while !self.exchange(&frame)? {
            attempt += 1;
            if attempt == self.timing.attempts {
                return Err(ClientError::Silent { attempts: attempt, wait: self.timing.answer });
            }
            self.resent += 1;
        }
        match self.receiver.frame().map(|frame| frame.message()) {
            Ok(Ok(FromBoard::Reply(Reply::Refused(error)))) => Err(error.into()),
            Ok(Ok(FromBoard::Reply(reply))) => Ok(reply),
            _ => Err(ClientError::Unexpected("a command")),
        }
    }

    /// Sends a frame; whether its answer came.
    fn exchange(&mut self, frame: &Encoded) -> Result<bool, ClientError> {
        self.transport.write_all(frame.as_bytes())?;
        self.transport.flush()?;
        let deadline = Instant::now() + self.timing.answer;
        loop {
            match self.receive(deadline)? {
                Some(Incoming::Answer) => return Ok(true),
                Some(Incoming::Event) => {}
                None => return Ok(false),
            }
        }
    }

    /// Waits for the answer to the last command, which is then in the receiver, or an event of this session, which is then in
    /// `event`. `None` if neither comes in time. Everything else is passed over.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Incoming>, ClientError> {
        loop {
            while !self.bytes.is_empty() {
                let complete = self.bytes.iter().position(|&byte| self.receiver.push(byte));
                self.bytes.drain(..complete.map_or(self.bytes.len(), |index| index + 1));
                if complete.is_some()
                    && let Some(incoming) = self.look()?
                {
                    return Ok(Some(incoming));
                }
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let mut chunk = [0; 1024];
            match self.transport.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Ended),
                Ok(len) => self.bytes.extend(&chunk[..len]),
                Err(error) if is_silence(error.kind()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks at a frame.
    fn look(&mut self) -> Result<Option<Incoming>, ClientError> {
        let frame = match self.receiver.frame() {
            Ok(frame) => frame,
            Err(FrameError::Version { header, found }) if header == self.header => {
                return Err(ClientError::Version { found });
            }
            Err(_) => return Ok(None),
        };
        match frame.message() {
            Ok(FromBoard::Reply(_)) if frame.header == self.header => Ok(Some(Incoming::Answer)),
            Ok(FromBoard::Event(state)) if frame.header.session == self.header.session => {
                self.event = Some(Status { job: frame.header.sequence, state });
                Ok(Some(Incoming::Event))
            }
            _ => Ok(None),
        }
    }
}

/// Whether a read's error only says that nothing has come.
fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Parts of bytes with the numbers of bytes before them.
fn parts(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    (0..).step_by(DATA_LEN).zip(bytes.chunks(DATA_LEN))
}
