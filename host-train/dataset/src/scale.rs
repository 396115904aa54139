//! The scale of each channel of signals and tables.

use serde::{Deserialize, Serialize};

use super::{ChannelScale, Dataset, Values};

/// Part of the training values beyond each end of [`Scaling::Percentile`].
const TAIL: f64 = 0.001;

/// How natural values are brought to about [-1, 1], each channel on its own, measured on the training samples alone.
///
/// Samplers cut their estimate of a sample to [-1, 1], so what lies outside is never generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// The 0.1th percentile is -1, the 99.9th is 1: a few outliers decide nothing
    #[default]
    Percentile,
    /// The least value is -1, the greatest is 1
    Range,
    /// The mean is 0, three standard deviations above it are 1
    Deviation,
    /// Values are taken as they are
    None,
}

impl Scaling {
    /// The scale of each channel of `set`'s training samples; a constant channel has scale 1.
    pub(crate) fn measure(self, set: &Dataset) -> Vec<ChannelScale> {
        let Values::Floats(floats) = &set.values else { return Vec::new() };
        let (length, channels) = (set.shape.len(), set.shape.channels);
        let measure = |channel: usize| {
            let samples = floats.chunks_exact(length).zip(&set.held_out).filter(|(_, held_out)| !**held_out);
            let values = samples.flat_map(|(sample, _)| sample[channel..].iter().step_by(channels));
            self.of(values.copied().collect())
        };
        (0..channels).map(measure).collect()
    }

    fn of(self, mut values: Vec<f32>) -> ChannelScale {
        let n = values.len();
        let between = |low: f32, high: f32| (f64::midpoint(low.into(), high.into()), f64::from(high - low) / 2.0);
        let mut rank = |rank: f64| *values.select_nth_unstable_by(rank as usize, f32::total_cmp).1;
        let last = (n - 1) as f64;
        let range = [rank(0.0), rank(last)];
        let (offset, scale) = match self {
            Self::Percentile => match [rank((TAIL * last).floor()), rank(((1.0 - TAIL) * last).ceil())] {
                [low, high] if low < high => between(low, high),
                // Nearly all values are one value.
                _ => between(range[0], range[1]),
            },
            Self::Range => between(range[0], range[1]),
            Self::Deviation => {
                let mean = values.iter().copied().map(f64::from).sum::<f64>() / n as f64;
                let variance = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n as f64;
                (mean, 3.0 * variance.sqrt())
            }
            Self::None => (0.0, 1.0),
        };
        let (offset, scale) = (offset as f32, scale as f32);
        ChannelScale { offset, scale: if scale > 0.0 && scale.is_finite() { scale } else { 1.0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SampleShape;

    fn of(scaling: Scaling, values: impl IntoIterator<Item = f32>) -> (f32, f32) {
        let ChannelScale { offset, scale } = scaling.of(values.into_iter().collect());
        (offset, scale)
    }

    #[test]
    fn each_scaling_is_what_it_says() {
        let with_outlier = || (0..=1000).map(|value| value as f32).chain([1e9]);
        assert_eq!(of(Scaling::Range, with_outlier()), (5e8, 5e8));
        assert_eq!(of(Scaling::Percentile, with_outlier()), (500.5, 499.5));
        assert_eq!(of(Scaling::Deviation, [1.0, 3.0]), (2.0, 3.0));
        assert_eq!(of(Scaling::None, [1.0, 3.0]), (0.0, 1.0));
    }

    #[test]
    fn degenerate_channels_have_a_usable_scale() {
        for scaling in [Scaling::Percentile, Scaling::Range, Scaling::Deviation] {
            assert_eq!(of(scaling, [7.0; 5]), (7.0, 1.0), "{scaling:?}");
        }
        let nearly_constant = || std::iter::repeat_n(0.0, 5000).chain([4.0]);
        assert_eq!(of(Scaling::Percentile, nearly_constant()), (2.0, 2.0));
    }

    #[test]
    fn only_training_samples_are_measured() {
        let values = Values::Floats(vec![0.0, 10.0, 2.0, 30.0, 99.0, -99.0]);
        let set = Dataset::new(SampleShape::vector(2), values, vec![0; 3], vec!["all".to_owned()]);
        let set = set.with_held_out(vec![false, false, true]);
        let scales = Scaling::Range.measure(&set);
        assert_eq!(scales, [ChannelScale { offset: 1.0, scale: 1.0 }, ChannelScale { offset: 20.0, scale: 10.0 }]);
    }
}
