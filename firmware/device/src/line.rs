//! What is being sent: the answer to the last command, kept in case it must be repeated, and frames of other kinds.

use mote_protocol::Encoded;

/// The frames on their way to the host.
#[derive(Debug)]
pub(crate) struct Line {
    /// The answer to the last command.
    reply: Encoded,
    /// An event, or a refusal of a frame that is no command of this session.
    aside: Encoded,
    /// What waits to be sent after what is being sent.
    reply_waits: bool,
    aside_waits: bool,
    sending: Sending,
    /// Bytes of it that are sent.
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Nothing,
    Reply,
    Aside,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Line {
            reply: Encoded::empty(),
            aside: Encoded::empty(),
            reply_waits: false,
            aside_waits: false,
            sending: Sending::Nothing,
            sent: 0,
        }
    }

    /// Whether both [`Line::reply`] and [`Line::aside`] would find room: nothing waits, and no answer is half sent.
    pub(crate) fn has_room(&self) -> bool {
        !self.reply_waits && self.sending != Sending::Reply && self.has_room_aside()
    }

    /// Whether [`Line::aside`] would find room.
    pub(crate) fn has_room_aside(&self) -> bool {
        !self.aside_waits && self.sending != Sending::Aside
    }

    /// Sends an answer, and keeps it.
    pub(crate) fn reply(&mut self, frame: Encoded) {
        self.reply = frame;
        self.repeat();
    }

    /// Sends the last answer again.
    pub(crate) fn repeat(&mut self) {
        self.reply_waits = true;
        self.next();
    }

    /// Sends a frame that need not be repeated.
    pub(crate) fn aside(&mut self, frame: Encoded) {
        self.aside = frame;
        self.aside_waits = true;
        self.next();
    }

    pub(crate) fn outgoing(&self) -> &[u8] {
        let bytes = match self.sending {
            Sending::Nothing => &[],
            Sending::Reply => self.reply.as_bytes(),
            Sending::Aside => self.aside.as_bytes(),
        };
        bytes.get(self.sent..).unwrap_or_default()
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes.min(self.outgoing().len());
        if self.outgoing().is_empty() {
            self.sending = Sending::Nothing;
            self.next();
        }
    }

    /// Begins with what waits, answers first.
    fn next(&mut self) {
        if self.sending != Sending::Nothing {
            return;
        }
        self.sent = 0;
        if core::mem::take(&mut self.reply_waits) {
            self.sending = Sending::Reply;
        } else if core::mem::take(&mut self.aside_waits) {
            self.sending = Sending::Aside;
        }
    }
}
