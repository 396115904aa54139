//! Signals and tables as text: numbers separated by commas, a row an instant, a column a channel, an empty cell or
//! `NaN` a gap.

use anyhow::{Context, Result, ensure};
use mote_core::{Model, pixels};
use std::fs;
use std::path::Path;

/// A signal in the units of a model's state, Q12.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// Row by row; none in a gap.
    pub(crate) values: Vec<Option<i16>>,
    /// Offset and scale of each channel.
    units: Vec<[f32; 2]>,
    /// Values of a model's sample.
    window: usize,
}

impl Series {
    /// Reads a file for a model; a first line that is not numbers is taken for names.
    pub(crate) fn read(path: &Path, model: &Model<'_>) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Series::parse(&text, model).with_context(|| path.display().to_string())
    }

    /// Samples, one after the other.
    pub(crate) fn of(samples: &[Vec<i16>], model: &Model<'_>) -> Self {
        let values = samples.iter().flatten().copied().map(Some).collect();
        Series { values, units: units(model), window: model.sample_len() }
    }

    fn parse(text: &str, model: &Model<'_>) -> Result<Self> {
        let (units, window) = (units(model), model.sample_len());
        let mut values = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let cells: Option<Vec<f32>> = line.split(',').map(cell).collect();
            let Some(cells) = cells else {
                ensure!(number == 0, "line {}: not numbers: {line}", number + 1);
                continue;
            };
            let (found, wanted) = (cells.len(), units.len());
            ensure!(found == wanted, "line {}: {found} numbers, but the model has {wanted} channels", number + 1);
            ensure!(!cells.iter().any(|cell| cell.is_infinite()), "line {}: an infinite number", number + 1);
            let state = |(value, unit): (f32, &[f32; 2])| (!value.is_nan()).then(|| pixels::from_natural(value, *unit));
            values.extend(cells.into_iter().zip(&units).map(state));
        }
        let (rows, needed) = (values.len() / units.len(), window / units.len());
        ensure!(rows >= needed, "{rows} rows, but a window of the model has {needed}");
        Ok(Series { values, units, window })
    }

    /// Where windows begin, in values: one after the other, the last one moved back so that it ends with the series.
    fn begins(&self) -> impl Iterator<Item = usize> + use<> {
        let last = self.values.len() - self.window;
        (0..self.values.len()).step_by(self.window).map(move |begin| begin.min(last))
    }

    /// The row that each window begins with.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let channels = self.units.len();
        self.begins().map(move |begin| begin / channels)
    }

    /// The windows.
    pub(crate) fn windows(&self) -> Vec<&[Option<i16>]> {
        self.begins().map(|begin| &self.values[begin..begin + self.window]).collect()
    }

    /// The series with other windows.
    pub(crate) fn with_windows(&self, windows: &[Vec<i16>]) -> Series {
        let mut values = self.values.clone();
        for (begin, window) in self.begins().zip(windows) {
            values[begin..begin + self.window].iter_mut().zip(window).for_each(|(to, from)| *to = Some(*from));
        }
        Series { values, ..self.clone() }
    }

    /// Natural values, as [`Series::read`] reads them.
    pub(crate) fn to_csv(&self) -> String {
        let natural = |(value, unit): (&Option<i16>, &[f32; 2])| {
            value.map_or("NaN".to_owned(), |x| pixels::to_natural(x, *unit).to_string())
        };
        let line = |row: &[Option<i16>]| row.iter().zip(&self.units).map(natural).collect::<Vec<_>>().join(",") + "\n";
        self.values.chunks_exact(self.units.len()).map(line).collect()
    }
}

/// Of each channel; a value is what the network sees where the model has none.
fn units(model: &Model<'_>) -> Vec<[f32; 2]> {
    (0..model.channels() as u16).map(|channel| model.unit(channel).unwrap_or([0.0, 1.0])).collect()
}

/// A number; not a number in a gap.
fn cell(text: &str) -> Option<f32> {
    match text.trim() {
        "" => Some(f32::NAN),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::selftest;

    /// The self-test's model has windows of 36 values, one channel, no unit.
    fn parse(text: &str) -> Result<Series> {
        let mut file = [0; 8192];
        Series::parse(text, &selftest::write_model(&mut file).unwrap())
    }

    #[test]
    fn windows_cover_a_series_with_its_gaps_and_join_to_it_again() {
        let text: String = (0..40).map(|i| if i == 3 { "NaN\n".to_owned() } else { format!("0.{i:02}\n") }).collect();
        let series = parse(&("speed\n".to_owned() + &text)).unwrap();
        assert_eq!(series.rows().collect::<Vec<_>>(), [0, 4]);
        assert_eq!(series.values.iter().filter(|value| value.is_none()).count(), 1);
        let windows: Vec<Vec<i16>> =
            series.windows().iter().map(|window| window.iter().map(|x| x.unwrap_or(7)).collect()).collect();
        let filled = series.with_windows(&windows);
        assert_eq!(filled.values[3], Some(7));
        assert!(filled.values.iter().zip(&series.values).all(|(now, then)| then.is_none() || now == then));
        assert_eq!(parse(&series.to_csv()).unwrap(), series);
    }

    #[test]
    fn a_series_that_does_not_fit_says_where() {
        for (text, part) in
            [("1\n2,3\n", "line 2: 2 numbers"), ("1\na\n", "line 2: not"), ("1\ninf\n", "infinite"), ("1\n", "1 rows")]
        {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
