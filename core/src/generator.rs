//! Drawing samples: the reverse process as a table of rows, in integers.
//!
//! Each row runs the network once on the state `x`, then updates the state element by element. With `f` the network's
//! output and `z` fresh noise, all in Q12 with Q20 coefficients:
//!
//! ```text
//! x0 = clamp(round(p x + q f))
//! x  = saturate(round(a x + b x0 + b_prev x0_prev + c z))
//! ```

use crate::kernel::Chosen;
use crate::message::messages;
use crate::model::{Model, Row};
use crate::network::{Alone, Both, Cores, SecondCore, Workers};
use crate::noise::{NoiseUse, normals};
use crate::quant::{COEFFICIENT_BITS, round_shift, saturate_i16};
use crate::{format, network, pixels, view};

/// What to draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Request {
    /// Class, below [`Model::classes`].
    pub class: u16,
    /// Key of the noise.
    pub seed: u64,
    /// Which sample of this seed: each has its own noise, reachable without drawing the others.
    pub sample: u64,
    /// The row to begin with, below [`Model::rows`]; 0 for a whole sample.
    pub first_row: u16,
}

/// Why an arena cannot be used.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// Fewer bytes than [`Model::arena_len`].
    TooSmall {
        /// Bytes given.
        len: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// Not at a multiple of 4: use [`Arena`].
    Misaligned,
}

messages! { ArenaError {
    ArenaError::TooSmall { len, needed } => "an arena of {} bytes, but this model needs {}: give a larger one", len, needed;
    ArenaError::Misaligned =>
        "the arena does not begin at a multiple of 4: use mote_core::Arena or mote_core::aligned";
} }

impl ArenaError {
    /// The first `needed` bytes of `memory`, if they are there and begin at a multiple of 4.
    pub(crate) fn check(memory: &mut [u8], needed: usize) -> Result<&mut [u8], ArenaError> {
        let len = memory.len();
        let memory = memory.get_mut(..needed).ok_or(ArenaError::TooSmall { len, needed })?;
        if memory.as_ptr().addr().is_multiple_of(4) { Ok(memory) } else { Err(ArenaError::Misaligned) }
    }
}

/// Why a request cannot be served.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// A class that the model does not have.
    Class {
        /// The class asked for.
        class: u16,
        /// How many there are.
        classes: u16,
    },
    /// A row that the model does not have.
    Row {
        /// The row asked for.
        row: u16,
        /// How many there are.
        rows: u16,
    },
    /// A picture of another size than the model's samples.
    Picture {
        /// Values given.
        len: usize,
        /// Values needed.
        needed: usize,
    },
}

messages! { RequestError {
    RequestError::Class { class, classes } =>
        "class {} does not exist: this model has {}, numbered from 0", class, classes;
    RequestError::Row { row, rows } => "row {} does not exist: this model has {}, numbered from 0", row, rows;
    RequestError::Picture { len, needed } =>
        "a picture of {} values, but this model's samples have {}", len, needed;
} }

/// How far a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// This row is next.
    Row(u16),
    /// The state holds the finished sample.
    Done,
}

/// Working memory of `N` bytes with the alignment that [`Generator::new`] needs.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Arena<const N: usize>(pub [u8; N]);

impl<const N: usize> Arena<N> {
    /// Zeroed memory.
    pub const fn new() -> Self {
        Arena([0; N])
    }
}

impl<const N: usize> Default for Arena<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Generator::new`] can take of memory that may lie anywhere: from the first multiple of 4 on. Three bytes more than
/// [`Model::arena_len`] are always enough.
pub fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let skipped = memory.as_ptr().align_offset(4).min(memory.len());
    memory.get_mut(skipped..).unwrap_or_default()
}

/// A sampler over one model and one arena. It allocates nothing and cannot fail once a request is accepted.
#[derive(Debug)]
pub struct Generator<'m, 'a> {
    model: &'m Model<'m>,
    arena: &'a mut [u8],
    request: Request,
    row: u16,
    /// The operation of that row that is next.
    op: u16,
}

impl<'m, 'a> Generator<'m, 'a> {
    /// Takes the first [`Model::arena_len`] bytes of `arena`. Until a request starts, the sampler is done with an all-zero
    /// state.
    ///
    /// # Errors
    /// [`ArenaError`] if the arena is too small or misaligned.
    pub fn new(model: &'m Model<'m>, arena: &'a mut [u8]) -> Result<Self, ArenaError> {
        let arena = ArenaError::check(arena, model.arena_len())?;
        arena.fill(0);
        Ok(Generator { model, arena, request: Request::default(), row: model.rows(), op: 0 })
    }

    /// Begins a sample from noise.
    ///
    /// # Errors
    /// [`RequestError`] if the class or the row does not exist; a sample in progress goes on unharmed.
    pub fn start(&mut self, request: Request) -> Result<(), RequestError> {
        self.accept(request)?;
        let noise = normals(request.seed, request.sample, NoiseUse::Start);
        for (x, z) in self.state_mut().iter_mut().zip(noise) {
            *x = z;
        }
        Ok(())
    }

    /// Begins at `request.first_row` with a noised picture, height x width x channels (image-to-image: Meng et al.,
    /// *SDEdit*, 2021): the later the row, the closer the sample stays to the picture.
    ///
    /// # Errors
    /// [`RequestError`] if the class, the row or the picture's length is wrong; a sample in progress goes on unharmed.
    pub fn start_from(&mut self, request: Request, picture: &[u8]) -> Result<(), RequestError> {
        let (len, needed) = (picture.len(), self.model.sample_len());
        if len != needed {
            return Err(RequestError::Picture { len, needed });
        }
        self.accept(request)?;
        let row = self.model.row(request.first_row);
        let noise = normals(request.seed, request.sample, NoiseUse::Start);
        for ((x, &pixel), z) in self.state_mut().iter_mut().zip(picture).zip(noise) {
            let sum = row.signal as i64 * pixels::from_u8(pixel) as i64 + row.noise as i64 * z as i64;
            *x = saturate_i16(round_shift(sum, COEFFICIENT_BITS));
        }
        Ok(())
    }

    fn accept(&mut self, request: Request) -> Result<(), RequestError> {
        let (classes, rows) = (self.model.classes(), self.model.rows());
        if request.class >= classes {
            return Err(RequestError::Class { class: request.class, classes });
        }
        if request.first_row >= rows {
            return Err(RequestError::Row { row: request.first_row, rows });
        }
        self.request = request;
        self.row = request.first_row;
        self.op = 0;
        if let Some(history) = self.model.history() {
            view::part_mut(self.arena, history.offset, history.bytes()).fill(0);
        }
        Ok(())
    }

    /// Runs one row, or the rest of one: one pass of the network and one update of the state.
    pub fn step(&mut self) -> Progress {
        self.run_row(&mut Alone)
    }

    /// [`Generator::step`] on two cores: each computes a part of every convolution's pixels. The same samples come out.
    /// If `second` was made for a model that needs less, one core does everything. `core/docs/two-cores.md` has the RP2350.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn core::error::Error>> {
    /// use mote_core::{Arena, Cores, Generator, Progress, Request, SecondCore, selftest};
    ///
    /// struct OneAfterTheOther;
    ///
    /// impl Cores for OneAfterTheOther {
    ///     fn join(&mut self, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    ///         second();
    ///         first();
    ///     }
    /// }
    ///
    /// let mut file = [0; 8192];
    /// let model = selftest::write_model(&mut file).ok_or("no room")?;
    /// let (mut arena, mut work) = (Arena::<8192>::new(), Arena::<8192>::new());
    /// let mut second = SecondCore::new(&model, &mut work.0)?;
    /// let mut generator = Generator::new(&model, &mut arena.0)?;
    /// generator.start(Request::default())?;
    /// while generator.step_on(&mut OneAfterTheOther, &mut second) != Progress::Done {}
    /// # Ok(())
    /// # }
    /// ```
    pub fn step_on(&mut self, cores: &mut impl Cores, second: &mut SecondCore<'_>) -> Progress {
        if second.len() < self.model.second_core_len() {
            return self.step();
        }
        self.run_row(&mut Both { cores, second })
    }

    /// Runs one operation of the network; after the last one of a row, updates the state too. The same samples come out
    /// as with [`Generator::step`]; a cooperative scheduler gets its turn between layers.
    ///
    /// The longest turn is the operation with the most multiply-accumulates, which `cargo xtask inspect` lists; times the
    /// instructions of one (`core/docs/kernels.md`), that is the bound.
    ///
    /// ```
    /// use core::future::poll_fn;
    /// use core::task::Poll;
    /// use mote_core::{Generator, Progress};
    ///
    /// /// Lets the executor run other tasks: as `embassy_futures::yield_now`, for any executor.
    /// async fn yield_now() {
    ///     let mut yielded = false;
    ///     poll_fn(|context| {
    ///         if core::mem::replace(&mut yielded, true) {
    ///             return Poll::Ready(());
    ///         }
    ///         context.waker().wake_by_ref();
    ///         Poll::Pending
    ///     })
    ///     .await;
    /// }
    ///
    /// async fn draw(generator: &mut Generator<'_, '_>) {
    ///     while generator.step_layer() != Progress::Done {
    ///         yield_now().await;
    ///     }
    /// }
    /// # use core::{future::Future, pin::pin, task::{Context, Waker}};
    /// # use mote_core::{Arena, Request, selftest};
    /// # let mut file = [0; 8192];
    /// # let model = selftest::write_model(&mut file).unwrap();
    /// # let mut arena = Arena::<8192>::new();
    /// # let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    /// # generator.start(Request::default()).unwrap();
    /// # let mut turns = 1;
    /// # {
    /// #     let mut task = pin!(draw(&mut generator));
    /// #     while task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
    /// #         turns += 1;
    /// #     }
    /// # }
    /// # assert_eq!(turns, u32::from(model.ops()) * u32::from(model.rows()));
    /// ```
    pub fn step_layer(&mut self) -> Progress {
        self.run_layer(&mut Alone)
    }

    fn run_row(&mut self, workers: &mut impl Workers) -> Progress {
        let row = self.row;
        while self.row == row && self.run_layer(workers) != Progress::Done {}
        self.progress()
    }

    fn run_layer(&mut self, workers: &mut impl Workers) -> Progress {
        if self.row < self.model.rows() {
            let condition = self.row as usize * self.model.classes() as usize + self.request.class as usize;
            network::run::<Chosen>(self.model, self.op, condition, self.arena, workers);
            self.op += 1;
            if self.op >= self.model.ops() {
                self.update();
                self.op = 0;
                self.row += 1;
            }
        }
        self.progress()
    }

    /// Runs every row that is left.
    pub fn finish(&mut self) {
        while self.step() != Progress::Done {}
    }

    /// How far the sample is.
    pub fn progress(&self) -> Progress {
        if self.row < self.model.rows() { Progress::Row(self.row) } else { Progress::Done }
    }

    /// The state, Q12, height x width x channels.
    pub fn state(&self) -> &[i16] {
        view::elements(self.tensor_bytes(format::STATE))
    }

    /// The content of a tensor, as bytes: what the last pass left there. For tools that compare layers.
    pub fn tensor_bytes(&self, index: u16) -> &[u8] {
        let tensor = self.model.tensor(index);
        view::part(self.arena, tensor.offset, tensor.bytes())
    }

    /// The state as pixels, height x width x channels: -1 is 0 and +1 is 255.
    pub fn pixels(&self) -> impl Iterator<Item = u8> + '_ {
        self.state().iter().map(|&x| pixels::to_u8(x))
    }

    fn state_mut(&mut self) -> &mut [i16] {
        let state = self.model.tensor(format::STATE);
        view::elements_mut(view::part_mut(self.arena, state.offset, state.bytes()))
    }

    /// Applies the current row's coefficients to the state.
    fn update(&mut self) {
        let row = self.model.row(self.row);
        let clamp = self.model.clamp();
        let [state, output] = [format::STATE, format::OUTPUT].map(|index| self.model.tensor(index).range());
        let history = self.model.history().map_or(0..0, |tensor| tensor.range());
        let [state, output, history] = view::parts(self.arena, [state, output, history]).map(view::elements_mut::<i16>);
        let mut history = history.iter_mut();
        let mut noise = normals(self.request.seed, self.request.sample, NoiseUse::Row(self.row));
        for (x, &mut f) in state.iter_mut().zip(output) {
            let z = if row.c == 0 { 0 } else { noise.next().unwrap_or(0) };
            let previous = history.next();
            let x0 = predict(&row, *x, f, clamp);
            *x = advance(&row, *x, x0, previous.as_deref().copied().unwrap_or(0), z);
            if let Some(previous) = previous {
                *previous = x0;
            }
        }
    }
}

/// `x0` from the state and the network's output.
fn predict(row: &Row, x: i16, f: i16, [low, high]: [i16; 2]) -> i16 {
    let sum = row.p as i64 * x as i64 + row.q as i64 * f as i64;
    // Not `clamp`, which panics unless low is at most high, as parse has checked.
    round_shift(sum, COEFFICIENT_BITS).max(low as i64).min(high as i64) as i16
}

/// The next state.
fn advance(row: &Row, x: i16, x0: i16, x0_prev: i16, z: i16) -> i16 {
    let sum = row.a as i64 * x as i64
        + row.b as i64 * x0 as i64
        + row.b_prev as i64 * x0_prev as i64
        + row.c as i64 * z as i64;
    saturate_i16(round_shift(sum, COEFFICIENT_BITS))
}
