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

    /// Takes memory before the model is known: one that needs more is drawn by the first core alone.
    ///
    /// # Errors
    /// [`ArenaError`] if the memory does not begin at a multiple of 4.
    pub fn with_memory(memory: &'w mut [u8]) -> Result<Self, ArenaError> {
        let whole = memory.len() & !1;
        let work = ArenaError::check(memory, whole)?;
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

/// The code in the docs compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/two-cores.md")]
struct TwoCores;

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::kernel::{Chosen, ConvShape, ConvWeights, Destination, Kernel, Rows};
    use crate::noise::philox4x32_10;
    use crate::view::I32s;
    use crate::{Arena, Generator, Progress, Request, selftest};

    /// A thread is the second core.
    struct Threads;

    impl Cores for Threads {
        fn join(&mut self, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
            std::thread::scope(|scope| {
                scope.spawn(second);
                first();
            });
        }
    }

    #[test]
    fn two_cores_draw_what_one_draws() {
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        let mut arenas = [Arena::<8192>::new(), Arena::<8192>::new()];
        let [alone, both] = arenas.each_mut().map(|arena| Generator::new(&model, &mut arena.0).unwrap());
        let (mut alone, mut both) = (alone, both);
        let mut memory = Arena::<8192>::new();
        let mut second = SecondCore::new(&model, &mut memory.0).unwrap();
        for seed in 0..4 {
            let request = Request { seed, class: seed as u16 % 2, ..Request::default() };
            alone.start(request).unwrap();
            both.start(request).unwrap();
            while alone.step() != Progress::Done {
                assert_ne!(both.step_on(&mut Threads, &mut second), Progress::Done);
                assert_eq!(alone.state(), both.state(), "seed {seed}");
            }
            assert_eq!(both.step_on(&mut Threads, &mut second), Progress::Done);
            assert_eq!(alone.state(), both.state(), "seed {seed}");
        }
    }

    /// One pass of a 3x3 convolution over a whole image, divided and not, for every number of pixels.
    #[test]
    fn a_divided_pass_writes_the_same_bytes() {
        const SIDE: usize = 4;
        const CHANNELS: usize = 6;
        let sides = [SIDE, SIDE];
        let shape = ConvShape {
            input: sides,
            channels_in: CHANNELS,
            output: sides,
            channels_out: CHANNELS,
            kernel: [3; 2],
            stride: [1; 2],
            upsample: [1; 2],
        };
        let mut words = (0..).flat_map(|block| philox4x32_10([block, 0, 0, 0], [3, 0]));
        let mut byte = || (words.next().unwrap() as i8).max(-127);
        let mut input = [0i8; SIDE * SIDE * CHANNELS];
        input.fill_with(&mut byte);
        let mut weights = [0i8; 8 * 56];
        weights.fill_with(&mut byte);
        let multipliers = [0x0100_0000i32; CHANNELS].map(i32::to_le_bytes);
        let constants = ConvWeights {
            weights: &weights[..shape.packed_len()],
            bias: I32s::new(&[0; 4 * CHANNELS]),
            multipliers: I32s::new(multipliers.as_flattened()),
        };
        let rows = Rows::whole(&input, SIDE * CHANNELS);
        let pass = |skipped, count, work: &mut [i16], pixels: &mut [i8]| {
            Chosen::gather(&shape, &rows, -3, skipped, count, work);
            Chosen::multiply::<i8, i8>(&shape, &constants, count, work, pixels, 5, Destination::Overwrite);
        };
        for count in 1..=SIDE * SIDE {
            let (mut work, mut memory) = (Arena::<4096>::new(), Arena::<4096>::new());
            let work = &mut view::elements_mut(&mut work.0)[..shape.work_len(count) / 2];
            let mut outputs = [[0i8; SIDE * SIDE * CHANNELS]; 2];
            let [alone, both] = outputs.each_mut().map(|output| &mut output[..count * CHANNELS]);
            Alone.run(count, work, alone, pass);
            let second = &mut SecondCore { work: view::elements_mut(&mut memory.0) };
            second.work = &mut core::mem::take(&mut second.work)[..shape.work_len(count / 2) / 2];
            Both { cores: &mut Threads, second }.run(count, work, both, pass);
            assert_eq!(outputs[0], outputs[1], "{count} pixels");
        }
    }
}
