//! What to draw: a class and its noise, where to begin, what is known already.
//!
//! | request | how |
//! |---|---|
//! | a sample of a class | the default |
//! | image-to-image | [`Start::Noised`] at a later [`Request::first_row`] |
//! | inpainting, filling the gaps of a signal | [`Known`] |
//! | interpolation between two samples | [`Start::Mixed`] |
//! | taking noise off a signal | [`Start::Noisy`] at [`Model::row_for_noise`](crate::Model::row_for_noise), maybe with [`Aim::Mean`] |
//! | how anomalous a signal is | [`Start::Noised`] at [`crate::anomaly::first_row`], then [`Generator::score`](crate::Generator::score) |

use crate::message::messages;
use crate::model::Model;
use crate::noise::Stream;
use crate::pixels;
use crate::walk::Walk;

/// What to draw. The same request draws the same sample on every target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Request<'r> {
    /// Class, below [`Model::classes`].
    pub class: u16,
    /// Key of the noise.
    pub seed: u64,
    /// Which sample of this seed: each has its own noise, reachable without drawing the others.
    pub sample: u64,
    /// The row to begin with, below [`Model::rows`]; 0 for a whole sample. The later, the closer a sample stays to the values
    /// that it starts from. A row that uses the previous row's `x0` (`b_prev`) has none to use if it is the first.
    pub first_row: u16,
    /// The state to begin with.
    pub start: Start<'r>,
    /// Values that the sample has to have.
    pub known: Option<Known<'r>>,
    /// What is wanted.
    pub aim: Aim,
}

/// The state to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Start<'r> {
    /// Noise.
    #[default]
    Noise,
    /// These values, noised to the first row's level (Meng et al., *SDEdit*, 2021).
    Noised(Values<'r>),
    /// These values, which have the noise of the first row's level already.
    Noisy(Values<'r>),
    /// A mixture of two noises.
    Mixed(Mix),
}

/// A point of the great circle's arc between two starting noises: noise too, as long as they are (Shoemake, *Animating Rotation
/// with Quaternion Curves*, 1985). The noise of later rows is the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mix {
    /// Both ends.
    pub ends: [Stream; 2],
    /// How far from the first to the second, 0 to [`Mix::WHOLE`].
    pub fraction: u32,
}

impl Mix {
    /// The second end: 1.0 in Q16.
    pub const WHOLE: u32 = 1 << 16;
}

/// A sample's values, height x width x channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Values<'r> {
    /// Pixels: 0 is -1 and 255 is +1.
    Pixels(&'r [u8]),
    /// Values as the state has them, Q12: 4096 is 1.0.
    Q12(&'r [i16]),
}

/// Values that the sample has to have, and how the rest is fitted to them (Lugmayr et al., *RePaint: Inpainting using Denoising
/// Diffusion Probabilistic Models*, 2022, algorithm 1). After each row they take their place in the state, noised to the
/// level of the row to come; at the end they are what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Known<'r> {
    /// All values of a sample; any where they are not known.
    pub values: Values<'r>,
    /// A byte for each pixel, height x width, or for each value, height x width x channels: 0 is unknown.
    pub mask: &'r [u8],
    /// How often rows are walked again.
    pub resampling: Resampling,
}

/// Walking rows again, from a state noised back to an earlier row: what is drawn gets to know what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Resampling {
    /// Rows that each turn goes back; 10 of 250 in the paper.
    pub jump: u16,
    /// Times that each stretch is walked; 10 in the paper, 1 only puts the known values in their place.
    pub resamples: u16,
}

impl Default for Resampling {
    fn default() -> Self {
        Resampling { jump: 1, resamples: 1 }
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Aim {
    /// A likely sample.
    #[default]
    Sample,
    /// The mean of all samples that the start may have come from, in one pass: smoother, of the least squared error.
    Mean,
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
    /// More or fewer values than a sample of the model has.
    Values {
        /// Values given.
        len: usize,
        /// Values needed.
        needed: usize,
    },
    /// A mask that has neither a byte for each pixel nor one for each value.
    Mask {
        /// Bytes given.
        len: usize,
        /// Pixels of a sample.
        pixels: usize,
        /// Values of a sample.
        values: usize,
    },
    /// A mixture beyond its second end.
    Fraction {
        /// The fraction asked for.
        fraction: u32,
    },
    /// Rows that cannot be walked again so.
    Resampling {
        /// The jump asked for.
        jump: u16,
        /// The resamples asked for.
        resamples: u16,
        /// Rows from the first one on.
        rows: u16,
    },
    /// Rows to be walked again by a sampler that remembers the row before.
    Memory,
    /// More moves between rows than noise is numbered for.
    Moves {
        /// Moves that the request takes.
        moves: u64,
    },
}

messages! { RequestError {
    RequestError::Class { class, classes } =>
        "class {} does not exist: this model has {}, numbered from 0", class, classes;
    RequestError::Row { row, rows } => "row {} does not exist: this model has {}, numbered from 0", row, rows;
    RequestError::Values { len, needed } => "{} values were given, but this model's samples have {}", len, needed;
    RequestError::Mask { len, pixels, values } =>
        "a mask of {} bytes, but this model's samples have {} pixels and {} values: give a byte for each", len, pixels, values;
    RequestError::Fraction { fraction } => "a mixture at {} lies beyond its second end, 65536", fraction;
    RequestError::Resampling { jump, resamples, rows } =>
        "a jump of {} rows, {} times, cannot be made in {}: give at least 1 of each and a jump below the rows",
        jump, resamples, rows;
    RequestError::Memory =>
        "this model's sampler uses the row before, so that no row can be walked again: give 1 resample, or a model \
         distilled for ddpm, ddim or consistency sampling";
    RequestError::Moves { moves } => "{} moves between rows are more than 32768: give fewer resamples", moves;
} }

impl Values<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Values::Pixels(pixels) => pixels.len(),
            Values::Q12(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `index` in Q12; 0 past the end.
    pub fn get(&self, index: usize) -> i16 {
        match self {
            Values::Pixels(values) => values.get(index).map_or(0, |&pixel| pixels::from_u8(pixel)),
            Values::Q12(values) => values.get(index).copied().unwrap_or_default(),
        }
    }
}

impl Known<'_> {
    /// Whether value `index` of a sample with so many channels is known.
    pub(crate) fn holds(&self, index: usize, channels: usize) -> bool {
        let index = if self.mask.len() == self.values.len() { index } else { index / channels.max(1) };
        self.mask.get(index).is_some_and(|&byte| byte != 0)
    }
}

impl Request<'_> {
    /// Whether `model` can serve the request.
    ///
    /// # Errors
    /// [`RequestError`], the first thing that is wrong.
    pub fn check(&self, model: &Model<'_>) -> Result<(), RequestError> {
        let (classes, rows) = (model.classes(), model.rows());
        if self.class >= classes {
            return Err(RequestError::Class { class: self.class, classes });
        }
        if self.first_row >= rows {
            return Err(RequestError::Row { row: self.first_row, rows });
        }
        match &self.start {
            Start::Noise => {}
            Start::Noised(values) | Start::Noisy(values) => check_values(values, model)?,
            Start::Mixed(Mix { fraction: 0..=Mix::WHOLE, .. }) => {}
            Start::Mixed(Mix { fraction, .. }) => return Err(RequestError::Fraction { fraction: *fraction }),
        }
        self.known.as_ref().map_or(Ok(()), |known| self.check_known(known, model))
    }

    fn check_known(&self, known: &Known<'_>, model: &Model<'_>) -> Result<(), RequestError> {
        check_values(&known.values, model)?;
        let (len, values, pixels) = (known.mask.len(), model.sample_len(), model.height() * model.width());
        if len != values && len != pixels {
            return Err(RequestError::Mask { len, pixels, values });
        }
        let Resampling { jump, resamples } = known.resampling;
        let rows = model.rows().saturating_sub(self.first_row);
        if jump == 0 || resamples == 0 || (resamples > 1 && jump >= rows) {
            return Err(RequestError::Resampling { jump, resamples, rows });
        }
        if resamples > 1 && model.history().is_some() {
            return Err(RequestError::Memory);
        }
        // Each move has two uses of noise, numbered in 16 bits.
        let moves = Walk::moves_of(self.first_row, model.rows(), known.resampling);
        if moves > 1 << 15 { Err(RequestError::Moves { moves }) } else { Ok(()) }
    }
}

fn check_values(values: &Values<'_>, model: &Model<'_>) -> Result<(), RequestError> {
    let (len, needed) = (values.len(), model.sample_len());
    if len == needed { Ok(()) } else { Err(RequestError::Values { len, needed }) }
}
