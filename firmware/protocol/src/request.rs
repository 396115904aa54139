//! Between mote-core's requests and jobs: the numbers go into a message, the values into inputs.

use crate::{Aim, Error, Form, Input, Job, Known, Noise, Start};
use mote_core::{Request, RequestError, Resampling, Stream, Values};

impl From<&Request<'_>> for Job {
    /// The job that draws the request, once the values that it borrows are written: see [`values`].
    fn from(request: &Request<'_>) -> Self {
        Job {
            class: request.class,
            noise: Noise { seed: request.seed, sample: request.sample },
            first_row: request.first_row,
            start: match request.start {
                mote_core::Start::Noise => Start::Noise,
                mote_core::Start::Noised(values) => Start::Noised(values.into()),
                mote_core::Start::Noisy(values) => Start::Noisy(values.into()),
                mote_core::Start::Mixed(mix) => Start::Mixed {
                    ends: mix.ends.map(|Stream { seed, sample }| Noise { seed, sample }),
                    fraction: mix.fraction,
                },
            },
            known: request.known.map(|known| Known {
                form: known.values.into(),
                jump: known.resampling.jump,
                resamples: known.resampling.resamples,
            }),
            aim: match request.aim {
                mote_core::Aim::Sample => Aim::Sample,
                mote_core::Aim::Mean => Aim::Mean,
            },
        }
    }
}

impl From<Values<'_>> for Form {
    fn from(values: Values<'_>) -> Self {
        match values {
            Values::Pixels(_) => Form::Pixels,
            Values::Q12(_) => Form::Q12,
        }
    }
}

/// The values that a request borrows, in the order in which they are to be written. If known values follow none to start from,
/// an empty input makes room for them.
pub fn values<'r>(request: &Request<'r>) -> impl Iterator<Item = (Input, Values<'r>)> {
    let start = match request.start {
        mote_core::Start::Noised(values) | mote_core::Start::Noisy(values) => Some(values),
        mote_core::Start::Noise | mote_core::Start::Mixed(_) => request.known.map(|_| Values::Pixels(&[])),
    };
    let known = request.known.map(|known| [(Input::Known, known.values), (Input::Mask, Values::Pixels(known.mask))]);
    start.map(|start| (Input::Start, start)).into_iter().chain(known.into_iter().flatten())
}

impl Job {
    /// The request that this job asks for. `input` gives what was written of an input.
    pub fn request<'r>(&self, input: impl Fn(Input) -> &'r [u8]) -> Request<'r> {
        let values = |which, form| match form {
            Form::Pixels => Values::Pixels(input(which)),
            Form::Q12 => {
                let pairs = input(which).as_chunks::<2>().0.as_flattened();
                // None where the memory is not aligned: too few, which the generator refuses.
                Values::Q12(bytemuck::try_cast_slice(pairs).unwrap_or_default())
            }
        };
        Request {
            class: self.class,
            seed: self.noise.seed,
            sample: self.noise.sample,
            first_row: self.first_row,
            start: match self.start {
                Start::Noise => mote_core::Start::Noise,
                Start::Noised(form) => mote_core::Start::Noised(values(Input::Start, form)),
                Start::Noisy(form) => mote_core::Start::Noisy(values(Input::Start, form)),
                Start::Mixed { ends, fraction } => mote_core::Start::Mixed(mote_core::Mix {
                    ends: ends.map(|Noise { seed, sample }| Stream { seed, sample }),
                    fraction,
                }),
            },
            known: self.known.map(|Known { form, jump, resamples }| mote_core::Known {
                values: values(Input::Known, form),
                mask: input(Input::Mask),
                resampling: Resampling { jump, resamples },
            }),
            aim: match self.aim {
                Aim::Sample => mote_core::Aim::Sample,
                Aim::Mean => mote_core::Aim::Mean,
            },
        }
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Class { class, classes } => Error::Class { class, classes },
            RequestError::Row { row, rows } => Error::Row { row, rows },
            RequestError::Values { len, needed } => Error::Values { len: len as u32, needed: needed as u32 },
            RequestError::Mask { len, pixels, values } => {
                Error::Mask { len: len as u32, pixels: pixels as u32, values: values as u32 }
            }
            RequestError::Fraction { fraction } => Error::Fraction { fraction },
            RequestError::Resampling { jump, resamples, rows } => Error::Resampling { jump, resamples, rows },
            RequestError::Memory => Error::Memory,
            RequestError::Moves { moves } => Error::Moves { moves },
            _ => Error::Unsupported,
        }
    }
}
