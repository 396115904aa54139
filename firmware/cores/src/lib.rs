//! A second core that shares memory with the first: how it gets its part of mote-core's work.
//!
//! The first core leaves the address of a function and of its data in one word; the second runs it and clears the word. No
//! read-modify-write is needed, which the Cortex-M0+ has not, and no FIFO, which a chip's support library may use for itself.
//! How a core waits for the other is the firmware's: on Arm, `wfe`, which `sev` ends.
//!
//! ```
//! use mote_cores::{Pair, Wait};
//!
//! struct Spin;
//!
//! impl Wait for Spin {
//!     fn wait() {
//!         std::hint::spin_loop();
//!     }
//!     fn wake() {}
//! }
//!
//! static PAIR: Pair<Spin> = Pair::new();
//! # use mote_core::{Arena, Cores, Generator, Progress, Request, SecondCore, selftest};
//! # fn draw() -> Result<(), Box<dyn core::error::Error>> {
//! # let mut file = [0; 8192];
//! # let model = selftest::write_model(&mut file).ok_or("no room")?;
//! # let (mut arena, mut work) = (Arena::<8192>::new(), Arena::<8192>::new());
//! # let mut generator = Generator::new(&model, &mut arena.0)?;
//! # generator.start(Request::default())?;
//!
//! std::thread::spawn(|| PAIR.serve());                     // the second core, for ever
//! let mut cores = PAIR.first().ok_or("taken before")?;
//! let mut second = SecondCore::with_memory(&mut work.0)?;
//! while generator.step_on(&mut cores, &mut second) != Progress::Done {}
//! # let pixels: Vec<u8> = generator.pixels().collect();
//! # generator.start(Request::default())?;
//! # generator.finish();
//! # assert!(generator.pixels().eq(pixels));
//! # Ok(())
//! # }
//! # draw().unwrap();
//! ```
#![no_std]

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use mote_core::Cores;

/// Bytes of working memory that the firmware gives the second core. A model that needs more is drawn by the first alone.
pub const WORK_LEN: usize = 8 * 1024;

/// How a core waits for the other.
pub trait Wait {
    /// Returns some time after the other core has called [`Wait::wake`], also if that was before; or earlier.
    fn wait();

    /// Ends the other core's waiting.
    fn wake();
}

/// What the first core leaves for the second: a function and what it is called with.
struct Call {
    run: unsafe fn(*const ()),
    data: *const (),
}

/// Two cores: the word that they share.
#[derive(Debug)]
pub struct Pair<W> {
    /// The work in progress on the second core; null: none.
    call: AtomicPtr<Call>,
    is_taken: AtomicBool,
    wait: PhantomData<fn(W)>,
}

impl<W: Wait> Pair<W> {
    /// Two cores without work.
    #[expect(clippy::new_without_default, reason = "it lies in a static")]
    pub const fn new() -> Self {
        Pair { call: AtomicPtr::new(ptr::null_mut()), is_taken: AtomicBool::new(false), wait: PhantomData }
    }

    /// What the first core gives work away with; `None` from the second call on.
    ///
    /// The second core must run [`Pair::serve`], before or after, or the first waits for ever.
    pub fn first(&'static self) -> Option<FirstCore<W>> {
        // One core calls this, so that no other can come between.
        let is_taken = self.is_taken.load(Ordering::Relaxed);
        self.is_taken.store(true, Ordering::Relaxed);
        (!is_taken).then_some(FirstCore { pair: self, only_here: PhantomData })
    }

    /// The second core's loop.
    pub fn serve(&'static self) -> ! {
        loop {
            let call = self.call.load(Ordering::Acquire);
            if call.is_null() {
                W::wait();
                continue;
            }
            // SAFETY: `join` leaves only calls that live until the word is null again, with the data that `run` expects.
            unsafe { ((*call).run)((*call).data) };
            self.call.store(ptr::null_mut(), Ordering::Release);
            W::wake();
        }
    }
}

/// The first core's side of a [`Pair`]; it stays where it was taken.
#[derive(Debug)]
pub struct FirstCore<W: 'static> {
    pair: &'static Pair<W>,
    only_here: PhantomData<*const ()>,
}

impl<W: Wait> Cores for FirstCore<W> {
    fn join(&mut self, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
        let second = Cell::new(Some(second));
        let call = Call { run: runner(&second), data: (&raw const second).cast() };
        self.pair.call.store((&raw const call).cast_mut(), Ordering::Release);
        W::wake();
        // If it unwinds, what the second core works with is gone: then nothing may go on. Firmware aborts anyway.
        let guard = Unwinding;
        first();
        core::mem::forget(guard);
        while !self.pair.call.load(Ordering::Acquire).is_null() {
            W::wait();
        }
    }
}

/// Never dropped, but by a panic that unwinds.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        panic!("the first core's work panicked while the second worked");
    }
}

/// The function that takes work of this type and runs it.
fn runner<F: FnOnce()>(_: &Cell<Option<F>>) -> unsafe fn(*const ()) {
    /// # Safety
    /// `data` is a cell of that type which lives until this returns and which no one else uses.
    unsafe fn run<F: FnOnce()>(data: *const ()) {
        // SAFETY: the caller vouches for it.
        if let Some(work) = unsafe { &*data.cast::<Cell<Option<F>>>() }.take() {
            work();
        }
    }
    run::<F>
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::sync::mpsc;
    use std::thread;

    struct Spin;

    impl Wait for Spin {
        fn wait() {
            thread::yield_now();
        }
        fn wake() {}
    }

    #[test]
    fn both_parts_are_done_when_join_returns_and_the_second_by_the_other_core() {
        static PAIR: Pair<Spin> = Pair::new();
        thread::spawn(|| PAIR.serve());
        let mut cores = PAIR.first().unwrap();
        for turn in 0..1000 {
            let (send, receive) = mpsc::channel();
            let (mut here, mut there) = (0, 0);
            cores.join(
                || here = turn,
                || {
                    there = turn;
                    send.send(thread::current().id()).unwrap();
                },
            );
            assert_eq!((here, there), (turn, turn));
            assert_ne!(receive.try_recv().unwrap(), thread::current().id());
        }
    }

    #[test]
    fn the_released_model_is_drawn_by_both_cores() {
        let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo.mote")).unwrap();
        let needed = mote_core::Model::parse(&file).unwrap().second_core_len();
        assert!(needed <= WORK_LEN, "{needed} bytes");
    }

    #[test]
    fn the_first_core_is_taken_once() {
        static PAIR: Pair<Spin> = Pair::new();
        assert!(PAIR.first().is_some());
        assert!(PAIR.first().is_none());
    }
}
