//! Bytes in and out, shared by the futures of one task.

use crate::line::Line;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::Poll;
use embedded_io_async::{Read, Write};
use mote_protocol::Receiver;

/// Bytes taken from the transport at once.
const CHUNK: usize = 64;

/// What has come and what has to go.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) receiver: Receiver,
    /// The receiver holds a frame that was not looked at; bytes after it are left with the transport.
    pub(crate) frame_waits: bool,
    pub(crate) line: Line,
    /// Something has changed for another future of the task.
    changed: bool,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Wire { receiver: Receiver::new(), frame_waits: false, line: Line::new(), changed: false }
    }

    /// Whether a frame can be looked at and answered.
    pub(crate) fn can_answer(&self) -> bool {
        self.frame_waits && self.line.has_room()
    }

    /// To be called by whoever changed something.
    pub(crate) fn change(&mut self) {
        self.changed = true;
    }

    /// Whether something has changed, asked once.
    pub(crate) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }
}

/// Waits until `condition` holds. Whoever changes the wire calls [`Wire::change`], which has all futures polled again.
pub(crate) async fn until(wire: &RefCell<Wire>, condition: impl Fn(&Wire) -> bool) {
    poll_fn(|_| if condition(&wire.borrow()) { Poll::Ready(()) } else { Poll::Pending }).await
}

/// Lets the other futures and tasks have a turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Takes bytes until the transport fails, or ends: then there is no error.
pub(crate) async fn receive<R: Read>(wire: &RefCell<Wire>, mut transport: R) -> Option<R::Error> {
    let mut chunk = [0; CHUNK];
    loop {
        let len = match transport.read(&mut chunk).await {
            Ok(0) => return None,
            Ok(len) => len,
            Err(error) => return Some(error),
        };
        for &byte in chunk.get(..len).unwrap_or_default() {
            until(wire, |wire| !wire.frame_waits).await;
            let mut wire = wire.borrow_mut();
            if wire.receiver.push(byte) {
                wire.frame_waits = true;
                wire.change();
            }
        }
    }
}

/// Sends until the transport fails.
pub(crate) async fn send<W: Write>(wire: &RefCell<Wire>, mut transport: W) -> Option<W::Error> {
    let mut chunk = [0; CHUNK];
    loop {
        until(wire, |wire| !wire.line.outgoing().is_empty()).await;
        let len = {
            let wire = wire.borrow();
            let outgoing = wire.line.outgoing();
            chunk.iter_mut().zip(outgoing).for_each(|(to, &from)| *to = from);
            CHUNK.min(outgoing.len())
        };
        match transport.write(chunk.get(..len).unwrap_or_default()).await {
            Ok(0) => return None,
            Ok(sent) => wire.borrow_mut().line.sent(sent),
            Err(error) => return Some(error),
        }
        wire.borrow_mut().change();
        let all_sent = wire.borrow().line.outgoing().is_empty();
        if all_sent && let Err(error) = transport.flush().await {
            return Some(error);
        }
    }
}
