//! Frames in and out: sessions, sequence numbers, repeated answers.

use crate::line::Line;
use crate::worker::Worker;
use crate::{Board, Store};
use mote_core::{Generator, Model};
use mote_protocol::{Command, Encoded, Error, FrameError, FromBoard, Header, Receiver, Reply, State, VERSION, encode};

/// What to do after [`Server::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A job is in progress or a frame waits: send, receive what is there, and poll again soon.
    Working,
    /// Nothing to do until bytes come, once [`Server::outgoing`] is empty.
    Idle,
    /// Call [`Server::load`], make a new generator, and go on.
    Load,
}

/// Answers a host.
#[derive(Debug)]
pub struct Server<'i, B, S> {
    receiver: Receiver,
    /// The receiver holds a frame that was not looked at.
    frame_waits: bool,
    line: Line,
    /// The last command that was answered.
    last: Option<Header>,
    worker: Worker<'i, B, S>,
}

impl<'i, B: Board, S: Store> Server<'i, B, S> {
    /// `input` holds what a job starts with, such as a picture: as many bytes as the largest sample of the models to come,
    /// or none if samples are only drawn from noise.
    pub fn new(board: B, store: S, input: &'i mut [u8]) -> Self {
        Server {
            receiver: Receiver::new(),
            frame_waits: false,
            line: Line::new(),
            last: None,
            worker: Worker::new(board, store, input),
        }
    }

    /// The newest model, if it can draw in so many bytes of arena; if not, the host is told why.
    pub fn load(&mut self, arena_len: usize) -> Option<Model<'static>> {
        self.worker.load(arena_len)
    }

    /// Whether [`Server::receive`] would take a byte. If not, a frame waits for the next [`Server::poll`], or for an answer
    /// that is still being sent.
    pub fn can_receive(&self) -> bool {
        !self.frame_waits
    }

    /// Takes a byte from the host. One that comes when [`Server::can_receive`] is false is lost, and its frame with it.
    pub fn receive(&mut self, byte: u8) {
        if !self.frame_waits {
            self.frame_waits = self.receiver.push(byte);
        }
    }

    /// Bytes to send to the host; say with [`Server::sent`] how many of them are sent.
    pub fn outgoing(&self) -> &[u8] {
        self.line.outgoing()
    }

    /// The transport has taken so many bytes of [`Server::outgoing`].
    pub fn sent(&mut self, bytes: usize) {
        self.line.sent(bytes);
    }

    /// The board.
    pub fn board(&mut self) -> &mut B {
        self.worker.board()
    }

    /// How the last job is: for a display or a light.
    pub fn state(&self) -> State {
        self.worker.status().state
    }

    /// Answers a frame that waits, then runs one layer of the job in progress. `generator` draws with the model that
    /// [`Server::load`] returned; `None` if it returned none.
    pub fn poll(&mut self, mut generator: Option<&mut Generator<'_, '_>>) -> Turn {
        if self.frame_waits && self.line.has_room() {
            self.frame_waits = false;
            self.answer(generator.as_deref_mut());
        }
        if self.worker.load_is_due() {
            return Turn::Load;
        }
        self.worker.work(generator);
        if self.line.has_room_aside()
            && let Some(status) = self.worker.news()
        {
            let session = self.last.unwrap_or_default().session;
            self.aside(Header { session, sequence: status.job }, FromBoard::Event(status.state));
        }
        if self.frame_waits || self.state().is_running() { Turn::Working } else { Turn::Idle }
    }

    fn answer(&mut self, generator: Option<&mut Generator<'_, '_>>) {
        let (header, command) = match self.receiver.frame() {
            Err(FrameError::Damaged) => return,
            Err(FrameError::Version(header)) => return self.refuse(header, Error::Version { supported: VERSION }),
            Ok(frame) => (frame.header, frame.message()),
        };
        let last = self.last.filter(|last| last.session == header.session);
        match (last, command) {
            (None, Ok(Command::Identify)) => {}
            (None, _) => return self.refuse(header, Error::Session),
            (Some(last), _) => match header.sequence.wrapping_sub(last.sequence) as i16 {
                0 => return self.line.repeat(),
                // Overtaken by a later command.
                ..0 => return,
                _ => {}
            },
        }
        self.last = Some(header);
        let reply = match command {
            Ok(command) => self.worker.execute(command, header.sequence, generator),
            Err(_) => Reply::Refused(Error::Command),
        };
        self.line.reply(frame(header, FromBoard::Reply(reply)));
    }

    /// Refuses what is no command of this session.
    fn refuse(&mut self, header: Header, error: Error) {
        self.aside(header, FromBoard::Reply(Reply::Refused(error)));
    }

    fn aside(&mut self, header: Header, message: FromBoard<'_>) {
        self.line.aside(frame(header, message));
    }
}

/// Every message of a board keeps to the limits.
fn frame(header: Header, message: FromBoard<'_>) -> Encoded {
    encode(header, &message).unwrap_or(Encoded::empty())
}
