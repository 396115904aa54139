//! What `generate` draws besides whole samples: the command line's words, and core's requests.

use crate::UsageError;
use crate::images::read_png;
use anyhow::Result;
use clap::Args;
use mote_core::{Known, Mix, Model, Request, Resampling, Start, Stream, Values};
use std::ops::Range;
use std::path::PathBuf;

/// Pictures to begin with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What to draw of pictures [default: whole samples]")]
pub(crate) struct Uses {
    /// Begin at this PNG with noise added (SDEdit, Meng et al. 2021)
    #[arg(long, value_name = "FILE", group = "use")]
    from: Option<PathBuf>,
    /// from: share of the steps that are walked, rounded up; 1 leaves little of the picture
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    strength: f64,
    /// Redraw the dark part of --mask in this PNG (RePaint, Lugmayr et al. 2022)
    #[arg(long, value_name = "FILE", requires = "mask", group = "use")]
    inpaint: Option<PathBuf>,
    /// A PNG, bright where the picture is known, dark where it is drawn
    #[arg(long, value_name = "FILE", requires = "inpaint")]
    mask: Option<PathBuf>,
    /// inpaint, impute: steps that each turn goes back
    #[arg(long, value_name = "STEPS", default_value_t = 1)]
    jump: u16,
    /// inpaint, impute: times that each stretch is walked; 1 only puts the known part in its place
    #[arg(long, value_name = "N", default_value_t = 4)]
    resamples: u16,
    /// Go from the noise of --seed to that of this seed, on the great circle, in --count samples
    #[arg(long, value_name = "SEED", group = "use")]
    interpolate: Option<u64>,
}

/// What samples are made of.
#[derive(Clone, Debug, Default)]
pub(crate) enum Task {
    /// Noise.
    #[default]
    Whole,
    /// A picture's pixels, noised to a row.
    From(Vec<u8>, u16),
    /// A picture's pixels, the mask of those that are known, and how often rows are walked again.
    Inpaint(Vec<u8>, Vec<u8>, Resampling),
    /// The noise of this seed at the last sample, the request's at the first.
    Interpolate(u64, Range<u64>),
}

impl Uses {
    /// How often rows are walked again; once if the model cannot walk them twice.
    pub(crate) fn resampling(&self, model: &Model<'_>) -> Resampling {
        let Uses { jump, resamples, .. } = *self;
        if model.rows() <= 1 || model.history().is_some() {
            Resampling::default()
        } else {
            Resampling { jump, resamples }
        }
    }

    /// The task for these samples.
    pub(crate) fn task(&self, model: &Model<'_>, samples: Range<u64>) -> Result<Task> {
        if let (Some(picture), Some(mask)) = (&self.inpaint, &self.mask) {
            let size = [model.height(), model.width()];
            let mask = read_png(mask, size, 1)?.into_iter().map(|pixel| u8::from(pixel > 127)).collect();
            return Ok(Task::Inpaint(read_png(picture, size, model.channels())?, mask, self.resampling(model)));
        }
        if let Some(picture) = &self.from {
            let (rows, strength) = (f64::from(model.rows()), self.strength);
            if !(0.0 < strength && strength <= 1.0) {
                return Err(UsageError(format!("--strength {strength} is not more than 0 and at most 1")).into());
            }
            let pixels = read_png(picture, [model.height(), model.width()], model.channels())?;
            return Ok(Task::From(pixels, (rows - (strength * rows).ceil()) as u16));
        }
        Ok(self.interpolate.map_or(Task::Whole, |seed| Task::Interpolate(seed, samples)))
    }
}

impl Task {
    /// Whether one thing is worked on, rather than a set of samples drawn.
    pub(crate) fn begins_elsewhere(&self) -> bool {
        !matches!(self, Task::Whole)
    }

    /// The request for one of the samples.
    pub(crate) fn request(&self, class: u16, seed: u64, sample: u64) -> Request<'_> {
        let whole = Request { class, seed, sample, ..Request::default() };
        match self {
            Task::Whole => whole,
            Task::From(pixels, first_row) => {
                Request { first_row: *first_row, start: Start::Noised(Values::Pixels(pixels)), ..whole }
            }
            Task::Inpaint(pixels, mask, resampling) => {
                let known = Known { values: Values::Pixels(pixels), mask, resampling: *resampling };
                Request { known: Some(known), ..whole }
            }
            Task::Interpolate(other, samples) => {
                let steps = (samples.end - samples.start).saturating_sub(1).max(1);
                // Rounded, ties up.
                let fraction = ((sample - samples.start) * u64::from(Mix::WHOLE) + steps / 2) / steps;
                let ends = [seed, *other].map(|seed| Stream { seed, sample: 0 });
                Request { start: Start::Mixed(Mix { ends, fraction: fraction as u32 }), ..whole }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpolation_begins_and_ends_at_the_noises() {
        let task = Task::Interpolate(9, 4..9);
        let fractions = (4..9).map(|sample| match task.request(0, 1, sample).start {
            Start::Mixed(Mix { ends, fraction }) => {
                assert_eq!(ends.map(|end| (end.seed, end.sample)), [(1, 0), (9, 0)]);
                fraction
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(fractions.collect::<Vec<_>>(), [0, 16384, 32768, 49152, 65536]);
    }
}
