//! The server as one future.

use crate::wire::{self, Wire};
use crate::worker::Worker;
use crate::{Board, Store};
use core::cell::RefCell;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use embedded_io_async::{Read, Write};

/// What the server works in. Both parts begin at multiples of 4: [`mote_core::Arena`].
#[derive(Debug)]
pub struct Memory<'b> {
    /// Working memory for models.
    pub arena: &'b mut [u8],
    /// What jobs begin with, such as a picture: as many bytes as the largest sample of the models to come has values; none if
    /// samples are only drawn from noise.
    pub input: &'b mut [u8],
}

/// Answers a host until the transport fails or ends; then returns its error, if it gave one.
pub async fn serve<B: Board, S: Store, R: Read, W: Write<Error = R::Error>>(
    board: B,
    store: S,
    memory: Memory<'_>,
    receive: R,
    send: W,
) -> Option<R::Error> {
    let wire = RefCell::new(Wire::new());
    let mut worker = Worker::new(board, store);
    let mut receive = pin!(wire::receive(&wire, receive));
    let mut work = pin!(worker.run(&wire, memory));
    let mut send = pin!(wire::send(&wire, send));
    poll_fn(|context| {
        if let Poll::Ready(end) = receive.as_mut().poll(context) {
            return Poll::Ready(end);
        }
        // It never ends.
        let _ = work.as_mut().poll(context);
        if let Poll::Ready(end) = send.as_mut().poll(context) {
            return Poll::Ready(end);
        }
        if wire.borrow_mut().take_changed() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// Polls a future again and again until it is ready: for a board without an executor, whose transport is asked for bytes
/// instead of telling that there are some.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
