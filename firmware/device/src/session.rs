//! Which frames are commands to be answered: sessions, sequence numbers, repeated answers.

use crate::wire::Wire;
use mote_protocol::{
    Command, Encoded, Error, FrameError, FromBoard, Header, Reply, Status, UnknownMessage, VERSION, encode,
};

/// The last command that was answered.
#[derive(Debug, Default)]
pub(crate) struct Session {
    last: Option<Header>,
}

impl Session {
    /// Looks at the frame that waits. `None` if it is no new command of this session; then everything is done about it.
    pub(crate) fn command<'w>(&self, wire: &'w mut Wire) -> Option<(Header, Result<Command<'w>, UnknownMessage>)> {
        let Wire { receiver, line, .. } = wire;
        let (header, command) = match receiver.frame() {
            Ok(frame) => (frame.header, frame.message()),
            Err(FrameError::Damaged) => return None,
            Err(FrameError::Version { header, .. }) => {
                line.aside(refusal(header, Error::Version { supported: VERSION }));
                return None;
            }
        };
        match self.last.filter(|last| last.session == header.session) {
            None if command == Ok(Command::Identify) => Some((header, command)),
            None => {
                line.aside(refusal(header, Error::Session));
                None
            }
            Some(last) => match header.sequence.wrapping_sub(last.sequence) as i16 {
                0 => {
                    line.repeat();
                    None
                }
                // Overtaken by a later command.
                ..0 => None,
                _ => Some((header, command)),
            },
        }
    }

    /// This command is answered: the session and the sequence go on from it.
    pub(crate) fn accept(&mut self, header: Header) {
        self.last = Some(header);
    }

    /// The frame that tells how a job is.
    pub(crate) fn event(&self, status: Status) -> Encoded {
        let session = self.last.unwrap_or_default().session;
        frame(Header { session, sequence: status.job }, FromBoard::Event(status.state))
    }
}

/// The answer to a command.
pub(crate) fn reply(header: Header, reply: Reply<'_>) -> Encoded {
    frame(header, FromBoard::Reply(reply))
}

fn refusal(header: Header, error: Error) -> Encoded {
    reply(header, Reply::Refused(error))
}

/// Every message of a board keeps to the limits.
fn frame(header: Header, message: FromBoard<'_>) -> Encoded {
    encode(header, &message).unwrap_or(Encoded::empty())
}
