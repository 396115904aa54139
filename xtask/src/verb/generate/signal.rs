//! What a model of signals (or of table rows) does with data that it did not draw, window by window.

use crate::UsageError;
use crate::images::write_whole;
use crate::series::Series;
use crate::task::Uses;
use anyhow::{Context, Result, bail};
use clap::Args;
use mote_core::anomaly::{self, Normal};
use mote_core::quant::STATE_ONE;
use mote_core::{Aim, Known, Model, Request, Resampling, Start, Values};
use std::path::{Path, PathBuf};

/// Signals.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What to do with signals and table rows; --out is a .csv of the same form")]
pub(crate) struct Signals {
    /// Take noise off this .csv (a row an instant, a column a channel, in natural units): needs --noise-level
    #[arg(long, value_name = "FILE", group = "use", requires = "noise_level")]
    denoise: Option<PathBuf>,
    /// denoise: the noise's standard deviation, in the network's units (a channel's natural unit divided by its scale)
    #[arg(long, value_name = "SIGMA", requires = "denoise")]
    noise_level: Option<f64>,
    /// denoise: give the expected signal, of least squared error, in one pass; otherwise a likely one, which is rougher
    #[arg(long, requires = "denoise")]
    mean: bool,
    /// Fill the empty cells of this .csv (RePaint, Lugmayr et al. 2022)
    #[arg(long, value_name = "FILE", group = "use")]
    impute: Option<PathBuf>,
    /// impute: fill with the mean of so many draws
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    draws: u32,
    /// Score how anomalous each window of this .csv is (Graham et al. 2023): what changes when noise is added and taken away
    #[arg(long, value_name = "FILE", group = "use")]
    score: Option<PathBuf>,
    /// score: a .csv of normal data; scores are then counted in its standard deviations
    #[arg(long, value_name = "FILE", requires = "score")]
    normal: Option<PathBuf>,
    /// score: noise levels, spread over the steps
    #[arg(long, value_name = "N", default_value_t = 2)]
    levels: u16,
}

/// Class and seed of all windows; window number `i` has the noise of sample `i`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    /// The data's class.
    pub(crate) class: u16,
    /// Key of the noise.
    pub(crate) seed: u64,
}

/// Draws requests, one after the other: the states, Q12.
pub(crate) type Draw<'d> = dyn Fn(&[Request<'_>]) -> Result<Vec<Vec<i16>>> + 'd;

impl Signals {
    /// Does what was asked for, if anything was; whether it was.
    pub(crate) fn run(
        &self,
        model: &Model<'_>,
        common: Common,
        uses: &Uses,
        out: Option<&Path>,
        draw: &Draw<'_>,
    ) -> Result<bool> {
        let input = self.denoise.as_ref().or(self.impute.as_ref()).or(self.score.as_ref());
        let Some(input) = input else { return Ok(false) };
        let Some(out) = out.filter(|path| path.extension().is_some_and(|extension| extension == "csv")) else {
            return Err(UsageError("the result is text: give --out FILE.csv".into()).into());
        };
        let work = Work { model, common, draw };
        let series = Series::read(input, model)?;
        let (text, line) = if let (Some(_), Some(level)) = (&self.denoise, self.noise_level) {
            work.denoise(&whole(series, input)?, level, if self.mean { Aim::Mean } else { Aim::Sample })?
        } else if self.impute.is_some() {
            work.impute(&series, uses.resampling(model), self.draws)?
        } else {
            let normal = self.normal.as_ref().map(|path| whole(Series::read(path, model)?, path)).transpose()?;
            work.score(&whole(series, input)?, normal.as_ref(), self.levels)?
        };
        write_whole(out, text.as_bytes())?;
        println!("{line}\nwrote {}", out.display());
        Ok(true)
    }
}

fn whole(series: Series, path: &Path) -> Result<Series> {
    match series.values.iter().position(Option::is_none) {
        Some(at) => bail!("{} has a gap at value {}: fill it with --impute", path.display(), at + 1),
        None => Ok(series),
    }
}

struct Work<'w> {
    model: &'w Model<'w>,
    common: Common,
    draw: &'w Draw<'w>,
}

impl Work<'_> {
    fn denoise(&self, series: &Series, level: f64, aim: Aim) -> Result<(String, String)> {
        let deviation = level * f64::from(STATE_ONE);
        if !(0.5..65535.5).contains(&deviation) {
            return Err(UsageError(format!("--noise-level {level} is not between 0.0002 and 15.9")).into());
        }
        let first_row = self.model.row_for_noise(deviation.round() as u16);
        let windows = known(series);
        let drawn = self.of_windows(&windows, |values, request| Request {
            first_row,
            start: Start::Noisy(values),
            aim,
            ..request
        })?;
        let line = format!("from step {} of {}", first_row + 1, self.model.rows());
        Ok((series.with_windows(&drawn).to_csv(), line))
    }

    fn impute(&self, series: &Series, resampling: Resampling, draws: u32) -> Result<(String, String)> {
        let (windows, masks) = (known(series), series.windows());
        let masks: Vec<Vec<u8>> =
            masks.iter().map(|window| window.iter().map(|value| u8::from(value.is_some())).collect()).collect();
        let mut sums = vec![vec![0i64; self.model.sample_len()]; windows.len()];
        for draw in 0..draws {
            // Each draw has noise of its own; the first one's is the request's.
            let seed = self.common.seed.wrapping_add(u64::from(draw) << 32);
            let requests: Vec<Request<'_>> = (0..)
                .zip(windows.iter().zip(&masks))
                .map(|(sample, (window, mask))| {
                    let known = Some(Known { values: Values::Q12(window), mask, resampling });
                    Request { class: self.common.class, seed, sample, known, ..Request::default() }
                })
                .collect();
            for (sums, drawn) in sums.iter_mut().zip((self.draw)(&requests)?) {
                sums.iter_mut().zip(drawn).for_each(|(sum, x)| *sum += i64::from(x));
            }
        }
        let mean = |sum: i64| (sum as f64 / f64::from(draws)).round() as i16;
        let drawn: Vec<Vec<i16>> = sums.into_iter().map(|sums| sums.into_iter().map(mean).collect()).collect();
        let mut filled = series.with_windows(&drawn);
        let gaps = series.values.iter().filter(|value| value.is_none()).count();
        // What was known stays as it was.
        filled.values.iter_mut().zip(&series.values).for_each(|(now, then)| *now = then.or(*now));
        Ok((filled.to_csv(), format!("{gaps} cells filled")))
    }

    fn score(&self, series: &Series, normal: Option<&Series>, levels: u16) -> Result<(String, String)> {
        if !(1..=self.model.rows()).contains(&levels) {
            let rows = self.model.rows();
            return Err(UsageError(format!("--levels {levels} of {rows} steps: give 1 to {rows}")).into());
        }
        let found = self.scores(series, levels)?;
        let normal = normal.map(|series| self.scores(series, levels)).transpose()?.map(|scores| {
            let of_level = |level| scores.iter().map(|scores: &Vec<u64>| scores[level]).collect::<Vec<u64>>();
            (0..usize::from(levels)).map(|level| Normal::of(&of_level(level))).collect::<Vec<_>>()
        });
        let mut text = format!("row,{}\n", if normal.is_some() { "score" } else { "mean squared change" });
        for (row, scores) in series.rows().zip(&found) {
            let score = match &normal {
                Some(normal) => anomaly::standardized(scores, normal) as f64 / f64::from(STATE_ONE),
                None => scores.iter().sum::<u64>() as f64 / scores.len() as f64 / f64::from(STATE_ONE).powi(2),
            };
            text.push_str(&format!("{row},{score:.6}\n"));
        }
        Ok((text, format!("{} windows of {} rows", found.len(), self.model.sample_len() / self.model.channels())))
    }

    /// Of each window, at each level.
    fn scores(&self, series: &Series, levels: u16) -> Result<Vec<Vec<u64>>> {
        let windows = known(series);
        let mut scores = vec![Vec::new(); windows.len()];
        for level in 0..levels {
            let first_row = anomaly::first_row(level, levels, self.model.rows());
            let drawn = self.of_windows(&windows, |values, request| Request {
                first_row,
                start: Start::Noised(values),
                ..request
            })?;
            for ((scores, drawn), window) in scores.iter_mut().zip(drawn).zip(&windows) {
                scores.push(anomaly::score(&drawn, Values::Q12(window)));
            }
        }
        Ok(scores)
    }

    fn of_windows<'r>(
        &self,
        windows: &'r [Vec<i16>],
        request: impl Fn(Values<'r>, Request<'r>) -> Request<'r>,
    ) -> Result<Vec<Vec<i16>>> {
        let Common { class, seed } = self.common;
        let of = |(sample, window): (u64, &'r Vec<i16>)| {
            request(Values::Q12(window), Request { class, seed, sample, ..Request::default() })
        };
        let requests: Vec<Request<'_>> = (0..).zip(windows).map(of).collect();
        (self.draw)(&requests).context("a window cannot be drawn")
    }
}

/// The windows, 0 in gaps.
fn known(series: &Series) -> Vec<Vec<i16>> {
    series.windows().iter().map(|window| window.iter().map(|value| value.unwrap_or_default()).collect()).collect()
}
