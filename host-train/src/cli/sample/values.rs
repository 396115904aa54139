//! Samples in files, as the network sees them.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::dataset::{ChannelScale, SampleShape, to_unit};
use crate::denoiser::DenoiserFile;
use crate::evaluate::npy::Samples;
use crate::files;

/// What the numbers of a network's samples mean.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Form {
    pub(in crate::cli) shape: SampleShape,
    /// Of each channel; none for pixels.
    scales: Vec<ChannelScale>,
}

/// Rows of numbers, one a channel: a signal in time, or one vector a row.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Series {
    /// `[rows, channels]`, as the network sees them; a gap is not a number.
    pub(in crate::cli) units: Vec<f32>,
    pub(in crate::cli) channels: usize,
}

impl Form {
    /// Of a network.
    pub(in crate::cli) fn of(file: &DenoiserFile) -> Self {
        Self { shape: file.network.shape, scales: file.channels_scale.clone() }
    }

    fn to_unit(&self, channel: usize, natural: f32) -> f32 {
        self.scales.get(channel).map_or(natural, |scale| scale.to_unit(natural))
    }

    fn to_natural(&self, channel: usize, unit: f32) -> f32 {
        self.scales.get(channel).map_or(unit, |scale| scale.to_natural(unit))
    }

    /// One sample, `[height, width, channels]`: a PNG or JPEG file, the first of an .npy file of samples, or the first window
    /// of a .csv file.
    pub(in crate::cli) fn sample(&self, path: &Path) -> anyhow::Result<Vec<f32>> {
        match extension(path).as_str() {
            "npy" => {
                let samples = Samples::read(path)?;
                let (found, wanted) = (samples.shape, self.shape);
                ensure!(found == wanted, "{} holds samples of {found}, the network draws {wanted}", path.display());
                ensure!(!samples.is_empty(), "{} holds no samples", path.display());
                Ok(samples.units(0))
            }
            "csv" => {
                let series = self.series(path)?;
                Ok(series.units[..self.shape.len()].to_vec())
            }
            _ => picture(path, self.shape),
        }
    }

    /// 1 where a mask is bright, 0 where it is dark, `[height, width, channels]`.
    pub(in crate::cli) fn mask(&self, path: &Path) -> anyhow::Result<Vec<f32>> {
        if !self.shape.is_image() {
            bail!("a mask is an image; fill the gaps of signals and table rows with `mote-train signal impute`");
        }
        let gray = picture(path, SampleShape { channels: 1, ..self.shape })?;
        Ok(gray.into_iter().flat_map(|unit| vec![f32::from(u8::from(unit > 0.0)); self.shape.channels]).collect())
    }

    /// Numbers separated by commas, a row a line, maybe under a line of names; an empty cell is a gap.
    pub(in crate::cli) fn series(&self, path: &Path) -> anyhow::Result<Series> {
        let channels = self.shape.channels;
        let text = String::from_utf8(files::read(path)?).with_context(|| format!("{} is not text", path.display()))?;
        let cell = |cell: &str| match cell.trim() {
            "" => Some(f32::NAN),
            text => text.parse().ok(),
        };
        let mut units = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row: Option<Vec<f32>> = line.split(',').map(cell).collect();
            let Some(row) = row else {
                ensure!(number == 0, "{}, line {}: not numbers: {line}", path.display(), number + 1);
                continue;
            };
            let place = format!("{}, line {}", path.display(), number + 1);
            ensure!(row.len() == channels, "{place}: {} numbers, the network has {channels} channels", row.len());
            ensure!(row.iter().all(|value| !value.is_infinite()), "{place}: an infinite number");
            units.extend(row.into_iter().enumerate().map(|(channel, natural)| self.to_unit(channel, natural)));
        }
        let series = Series { units, channels };
        ensure!(
            series.rows() >= self.shape.width,
            "{} has {} rows, a window of the network {}",
            path.display(),
            series.rows(),
            self.shape.width
        );
        Ok(series)
    }

    /// Natural values as text, as [`Form::series`] reads them.
    pub(in crate::cli) fn to_csv(&self, series: &Series) -> String {
        let row = |row: &[f32]| {
            let cells = row.iter().enumerate().map(|(channel, &unit)| match unit.is_nan() {
                true => String::new(),
                false => self.to_natural(channel, unit).to_string(),
            });
            cells.collect::<Vec<_>>().join(",") + "\n"
        };
        series.units.chunks_exact(series.channels).map(row).collect()
    }

    /// Writes samples, `[n, height, width, channels]`, as .npy (pixels, or what the network draws) or, natural values of signals
    /// and vectors, as .csv, one sample after the other.
    pub(in crate::cli) fn write(&self, path: &Path, units: Vec<f32>) -> anyhow::Result<()> {
        match extension(path).as_str() {
            "npy" => Samples::from_units(units, self.shape).write(path),
            "csv" if !self.shape.is_image() => {
                let text = self.to_csv(&Series { units, channels: self.shape.channels });
                files::write_atomically(path, text.as_bytes())
            }
            other => {
                bail!(
                    "cannot write {} as \"{other}\": give .png, .npy or, for signals and vectors, .csv",
                    path.display()
                )
            }
        }
    }
}

impl Series {
    pub(in crate::cli) fn rows(&self) -> usize {
        self.units.len() / self.channels
    }

    /// Where windows of `width` rows begin: one after the other, the last one moved back so that it ends with the series.
    pub(in crate::cli) fn windows(&self, width: usize) -> Vec<usize> {
        let last = self.rows() - width;
        (0..self.rows()).step_by(width).map(|begin| begin.min(last)).collect()
    }

    /// The windows' values, `[windows, 1, width, channels]`.
    pub(in crate::cli) fn cut(&self, width: usize) -> Vec<f32> {
        let window = |begin: usize| &self.units[begin * self.channels..][..width * self.channels];
        self.windows(width).into_iter().flat_map(window).copied().collect()
    }

    /// The series made of other windows.
    pub(in crate::cli) fn joined(&self, width: usize, windows: &[f32]) -> Self {
        let mut units = self.units.clone();
        let each = width * self.channels;
        for (begin, window) in self.windows(width).into_iter().zip(windows.chunks_exact(each)) {
            units[begin * self.channels..][..each].copy_from_slice(window);
        }
        Self { units, channels: self.channels }
    }
}

/// A picture of exactly this shape, `[height, width, channels]` in [-1, 1].
pub(in crate::cli) fn picture(path: &Path, shape: SampleShape) -> anyhow::Result<Vec<f32>> {
    let picture = open(path)?;
    ensure!(
        (picture.height() as usize, picture.width() as usize) == (shape.height, shape.width),
        "{} is {}x{} pixels, but {}x{} are needed",
        path.display(),
        picture.width(),
        picture.height(),
        shape.width,
        shape.height
    );
    let pixels = match shape.channels {
        1 => picture.into_luma8().into_raw(),
        3 => picture.into_rgb8().into_raw(),
        4 => picture.into_rgba8().into_raw(),
        channels => bail!("a picture has no {channels} channels; give an .npy file"),
    };
    Ok(pixels.into_iter().map(to_unit).collect())
}

/// A PNG or JPEG file.
pub(in crate::cli) fn open(path: &Path) -> anyhow::Result<image::DynamicImage> {
    let reader = image::ImageReader::open(path).and_then(|reader| reader.with_guessed_format());
    let reader = reader.with_context(|| format!("cannot read {}", path.display()))?;
    reader.decode().with_context(|| format!("cannot decode {}", path.display()))
}

/// In lower case.
pub(in crate::cli) fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        let scales = vec![ChannelScale { offset: 10.0, scale: 2.0 }, ChannelScale { offset: 0.0, scale: 1.0 }];
        Form { shape: SampleShape::signal(3, 2), scales }
    }

    #[test]
    fn a_series_is_read_with_its_gaps_and_written_in_natural_units() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, "speed,load\n12,0.5\n,1\n14,NaN\n8,0\n").unwrap();
        let series = form().series(&path).unwrap();
        assert_eq!(series.rows(), 4);
        assert_eq!([series.units[0], series.units[1], series.units[6]], [1.0, 0.5, -1.0]);
        assert!(series.units[2].is_nan() && series.units[5].is_nan());
        assert_eq!(form().to_csv(&series), "12,0.5\n,1\n14,\n8,0\n");
    }

    #[test]
    fn a_series_that_does_not_fit_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        for (text, part) in [
            ("1,2\n3\n4,5\n", "line 2: 1 numbers"),
            ("1,2\na,b\n", "line 2: not numbers"),
            ("1,2\n3,inf\n", "infinite"),
            ("1,2\n3,4\n", "has 2 rows"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = form().series(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn windows_cover_a_series_and_join_to_it_again() {
        let series = Series { units: (0..14).map(|x| x as f32).collect(), channels: 2 };
        assert_eq!(series.windows(3), [0, 3, 4]);
        assert_eq!(series.joined(3, &series.cut(3)), series);
    }
}
