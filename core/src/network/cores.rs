//! One step on two cores: the output pixels of each pass of a convolution are divided between them.
//!
//! A core computes what it would compute alone, in a work area of its own, and writes its own pixels: the same bytes come
//! out, whatever runs first. What comes before a pass (statistics, loading rows) and attention stay with the first core.

use super::{ArenaError, Model};
use crate::model::Op;
use crate::view;

/// Two cores that share memory. The firmware implements it with what its chip has to wake the second core and to wait for it;
/// no thread and no interrupt is needed here.
///
/// ```
/// use mote_core::Cores;
///
/// /// The host's: a thread is the second core.
/// struct Threads;
///
/// impl Cores for Threads {
///     fn join(&mut self, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
///         std::thread::scope(|scope| {
///             scope.spawn(second);
///             first();
///         });
///     }
/// }
/// ```
pub trait Cores {
    /// Runs both, at the same time if it can, and returns when both are done.
    fn join(&mut self, first: impl FnOnce() + Send, second: impl FnOnce() + Send);
}

/// The second core's work area, for [`crate::Generator::step_on`].
#[derive(Debug)]
pub struct SecondCore<'w> {
    work: &'w mut [i16],
}

impl<'w> SecondCore<'w> {
    /// Takes memory for `model`, as [`crate::Generator::new`] does.
    ///
    /// # Errors
    /// [`ArenaError`] if there are fewer bytes than [`Model::second_core_len`], or they do not begin at a multiple of 4.
    pub fn new(model: &Model<'_>, memory: &'w mut [u8]) -> Result<Self, ArenaError> {
        let work = ArenaError::check(memory, model.second_core_len())?;
        Ok(SecondCore { work: view::elements_mut(work) })
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        size_of_val(self.work)
    }
}

impl Model<'_> {
    /// Bytes of working memory that the second core needs besides the arena.
    pub fn second_core_len(&self) -> usize {
        let work = |index| match self.op(index) {
            Op::Conv(op) => op.shape.work_len(op.pixels / 2),
            Op::Attention(_) => 0,
        };
        (0..self.ops()).map(work).max().unwrap_or(0)
    }
}

/// Who runs the passes of a convolution.
pub(crate) trait Workers {
    /// Calls `pass` for `count` pixels, whose elements `output` holds: with the number of pixels before the first, that of
    /// its pixels, a work area and its part of the output. `work` suffices for all pixels.
    fn run<O: Send>(
        &mut self,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        pass: impl Fn(usize, usize, &mut [i16], &mut [O]) + Sync,
    );
}

/// The core that called.
pub(crate) struct Alone;

impl Workers for Alone {
    #[inline(always)]
    fn run<O: Send>(
        &mut self,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        pass: impl Fn(usize, usize, &mut [i16], &mut [O]) + Sync,
    ) {
        pass(0, count, work, output);
    }
}

/// Both cores.
pub(crate) struct Both<'c, 'w, C> {
    pub(crate) cores: &'c mut C,
    pub(crate) second: &'c mut SecondCore<'w>,
}

impl<C: Cores> Workers for Both<'_, '_, C> {
    fn run<O: Send>(
        &mut self,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        pass: impl Fn(usize, usize, &mut [i16], &mut [O]) + Sync,
    ) {
        // The kernels take pixels in pairs: the first core's are even, and at least half.
        let first = (count / 2).next_multiple_of(2).min(count);
        let (channels, second) = (output.len() / count.max(1), count - first);
        let (before, after) = view::split_mut(output, first * channels);
        let other = &mut *self.second.work;
        self.cores.join(|| pass(0, first, work, before), || pass(first, second, other, after));
    }
}
