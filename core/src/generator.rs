//! Drawing samples: the reverse process as a table of rows, in integers.
//!
//! Each row runs the network once on the state `x`, then updates the state element by element. With `f` the network's
//! output and `z` fresh noise, all in Q12 with Q20 coefficients:
//!
//! ```text
//! x0 = clamp(round(p x + q f))
//! x  = saturate(round(a x + b x0 + b_prev x0_prev + c z))
//! ```
//!
//! Known values then take their place, and the state may be noised back to an earlier row ([`crate::request`]).

mod results;
mod start;
mod turns;

use crate::kernel::Chosen;
use crate::message::messages;
use crate::model::{Model, Row};
use crate::network::{Alone, Both, Cores, SecondCore, Workers};
use crate::noise::{NoiseUse, normals};
use crate::quant::{COEFFICIENT_BITS, round_shift, saturate_i16};
use crate::request::{Aim, Known, Request, RequestError, Resampling};
use crate::walk::{Turn, Walk};
use crate::{format, network, view};

pub use turns::{InTurns, Pace};

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
    request: Request<'a>,
    walk: Walk,
    /// The operation of the walk's row that is next.
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
        Ok(Generator { model, arena, request: Request::default(), walk: Walk::done(model.rows()), op: 0 })
    }

    /// Begins a sample. What the request borrows must stay for as long as the arena does.
    ///
    /// # Errors
    /// [`RequestError`] if the model cannot serve the request; a sample in progress goes on unharmed.
    pub fn start(&mut self, request: Request<'a>) -> Result<(), RequestError> {
        request.check(self.model)?;
        let resampling = request.known.map_or(Resampling::default(), |known| known.resampling);
        self.walk = Walk::new(request.first_row, self.model.rows(), resampling);
        self.request = request;
        self.op = 0;
        if let Some(history) = self.model.history() {
            view::part_mut(self.arena, history.offset, history.bytes()).fill(0);
        }
        let row = self.model.row(request.first_row);
        start::fill(&request, [row.signal, row.noise], self.state_mut());
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
    /// [`Generator::in_turns`] is this as a future.
    pub fn step_layer(&mut self) -> Progress {
        self.run_layer(&mut Alone)
    }

    fn run_row(&mut self, workers: &mut impl Workers) -> Progress {
        let passes = self.walk.passes_done();
        while self.walk.passes_done() == passes && self.run_layer(workers) != Progress::Done {}
        self.progress()
    }

    fn run_layer(&mut self, workers: &mut impl Workers) -> Progress {
        if !self.walk.is_done() {
            let condition = self.walk.row() as usize * self.model.classes() as usize + self.request.class as usize;
            network::run::<Chosen>(self.model, self.op, condition, self.arena, workers);
            self.op += 1;
            if self.op >= self.model.ops() {
                self.op = 0;
                self.end_row();
            }
        }
        self.progress()
    }

    /// Runs every row that is left.
    pub fn finish(&mut self) {
        while self.step() != Progress::Done {}
    }

    /// The model that it samples.
    pub fn model(&self) -> &'m Model<'m> {
        self.model
    }

    /// How far the sample is.
    pub fn progress(&self) -> Progress {
        if self.walk.is_done() { Progress::Done } else { Progress::Row(self.walk.row()) }
    }

    /// Network passes made for the sample so far.
    pub fn passes_done(&self) -> u32 {
        self.walk.passes_done()
    }

    /// Network passes that the sample takes in all; more than the rows if some are walked again ([`Resampling`]).
    pub fn passes(&self) -> u32 {
        match self.request.aim {
            Aim::Sample => self.walk.passes(),
            Aim::Mean => self.walk.passes().min(1),
        }
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

    fn state_mut(&mut self) -> &mut [i16] {
        let state = self.model.tensor(format::STATE);
        view::elements_mut(view::part_mut(self.arena, state.offset, state.bytes()))
    }

    /// What follows the network's pass: the row's coefficients, the known values, and the way to the next row.
    fn end_row(&mut self) {
        let row = self.model.row(self.walk.row());
        match self.request.aim {
            Aim::Sample => self.update(&row),
            // x0 itself.
            Aim::Mean => self.update(&Row { a: 0, b: 1 << COEFFICIENT_BITS, b_prev: 0, c: 0, ..row }),
        }
        let next = self.walk.row().saturating_add(1);
        let last = self.request.aim == Aim::Mean || next >= self.model.rows();
        if let Some(known) = self.request.known {
            let next = if last { None } else { Some(self.model.row(next)) };
            self.place(&known, next.map(|next| [next.signal, next.noise]));
        }
        if self.request.aim == Aim::Mean {
            self.walk.end();
        } else if let Some(turn) = self.walk.advance() {
            self.turn_back(turn);
        }
    }

    /// Applies a row's coefficients to the state.
    fn update(&mut self, row: &Row) {
        let clamp = self.model.clamp();
        let [state, output] = [format::STATE, format::OUTPUT].map(|index| self.model.tensor(index).range());
        let history = self.model.history().map_or(0..0, |tensor| tensor.range());
        let [state, output, history] = view::parts(self.arena, [state, output, history]).map(view::elements_mut::<i16>);
        let mut history = history.iter_mut();
        let mut noise = normals(self.request.seed, self.request.sample, NoiseUse::Row(self.walk.number()));
        for (x, &mut f) in state.iter_mut().zip(output) {
            let z = if row.c == 0 { 0 } else { noise.next().unwrap_or(0) };
            let previous = history.next();
            let x0 = predict(row, *x, f, clamp);
            *x = advance(row, *x, x0, previous.as_deref().copied().unwrap_or(0), z);
            if let Some(previous) = previous {
                *previous = x0;
            }
        }
    }

    /// Puts the known values in their place: noised to a level, or, without one, as they are.
    fn place(&mut self, known: &Known<'_>, level: Option<[i32; 2]>) {
        let channels = self.model.channels();
        // Apart from the noise of the moves themselves.
        let number = self.walk.moves().wrapping_add(self.walk.number());
        let noise = normals(self.request.seed, self.request.sample, NoiseUse::Row(number));
        for ((index, x), z) in self.state_mut().iter_mut().enumerate().zip(noise) {
            if known.holds(index, channels) {
                let value = known.values.get(index);
                *x = level.map_or(value, |level| start::noised(value, level, z));
            }
        }
    }

    /// Noises the state back to an earlier row, by the forward process.
    fn turn_back(&mut self, turn: Turn) {
        let [from, to] = [turn.from, turn.to].map(|row| self.model.row(row).signal);
        let level = start::forward(from, to);
        let noise = normals(self.request.seed, self.request.sample, NoiseUse::Row(turn.number));
        for (x, z) in self.state_mut().iter_mut().zip(noise) {
            *x = start::noised(*x, level, z);
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
