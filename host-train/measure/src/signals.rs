//! What a network of signals is compared with: filters that know nothing of the data but a few numbers of their training side,
//! and how certain a mean over windows is. A window is `[rows, channels]`.

use std::ops::Range;

use mote_dataset::Split;
use nalgebra::{DMatrix, DVector};

/// The window with the rows of `gap` on straight lines between the rows beside it; at an end of the window they are the one row
/// that there is.
///
/// # Panics
/// If all rows are in the gap.
pub fn interpolated(window: &[f32], channels: usize, gap: &Range<usize>) -> Vec<f32> {
    let rows = window.len() / channels;
    let (before, after) = (gap.start.checked_sub(1), Some(gap.end).filter(|&row| row < rows));
    let (before, after) = (before.or(after).expect("a row is known"), after.or(before).expect("a row is known"));
    let mut filled = window.to_vec();
    for row in gap.clone() {
        let share = if after > before { (row - before) as f32 / (after - before) as f32 } else { 0.0 };
        for channel in 0..channels {
            let [left, right] = [before, after].map(|row| window[row * channels + channel]);
            filled[row * channels + channel] = left + share * (right - left);
        }
    }
    filled
}

/// The mean of each row and the `reach` rows on either side of it, fewer at the ends of the window.
pub fn moving_average(window: &[f32], channels: usize, reach: usize) -> Vec<f32> {
    let rows = window.len() / channels;
    let mean = |row: usize, channel: usize| {
        let near = row.saturating_sub(reach)..(row + reach + 1).min(rows);
        let count = near.len() as f32;
        near.map(|row| window[row * channels + channel]).sum::<f32>() / count
    };
    (0..rows)
        .flat_map(|row| (0..channels).map(move |channel| (row, channel)))
        .map(|(row, channel)| mean(row, channel))
        .collect()
}

/// Of each sample, the number of the recording that it is a window of: neighbors in the split that share rows are of one
/// recording, and so is what they are joined to. Windows that do not overlap are recordings of their own.
pub fn recordings(split: &Split<'_>) -> Vec<usize> {
    let channels = split.dataset.shape.channels;
    let windows: Vec<Vec<f32>> = (0..split.len()).map(|index| split.units(index).collect()).collect();
    let overlap = |a: &[f32], b: &[f32]| {
        (1..a.len() / channels).any(|stride| a[stride * channels..] == b[..b.len() - stride * channels])
    };
    let mut number = 0;
    let mut numbers = vec![0; windows.len().min(1)];
    for pair in windows.windows(2) {
        number += usize::from(!overlap(&pair[0], &pair[1]));
        numbers.push(number);
    }
    numbers
}

/// The mean of values and its standard error, where values of one cluster are not independent of each other: `sqrt(sum over
/// clusters of (sum of deviations from the mean)^2) / n` (Liang, Zeger, *Longitudinal data analysis using generalized linear
/// models*, 1986, the estimate of equation 7 for a mean), times `sqrt(m / (m - 1))` for `m` clusters.
///
/// # Panics
/// If there are no values, or not as many clusters.
pub fn clustered_mean(values: &[f64], clusters: &[usize]) -> (f64, f64) {
    assert_eq!(values.len(), clusters.len());
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let mut sums = std::collections::BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        *sums.entry(cluster).or_insert(0.0) += value - mean;
    }
    let m = sums.len() as f64;
    let squares = sums.values().map(|sum| sum * sum).sum::<f64>();
    (mean, (squares * m / (m - 1.0).max(1.0)).sqrt() / n)
}

/// How far windows are from those of known classes, by the mean and the logarithm of the deviation of each channel: the least
/// squared Mahalanobis distance to a class's mean, with one covariance for all (Lee et al., *A Simple Unified Framework for
/// Detecting Out-of-Distribution Samples*, 2018, equations 1 and 2, with these features in place of a network's).
#[derive(Debug, Clone)]
pub struct Mahalanobis {
    means: Vec<DVector<f64>>,
    inverse: DMatrix<f64>,
}

impl Mahalanobis {
    /// Of the samples of a split and their classes.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn fit(split: &Split<'_>) -> Self {
        let channels = split.dataset.shape.channels;
        let features: Vec<DVector<f64>> =
            (0..split.len()).map(|index| moments(&split.units(index).collect::<Vec<_>>(), channels)).collect();
        let of_class = |class: usize| (0..split.len()).filter(move |&index| usize::from(split.label(index)) == class);
        let mean = |class: usize| -> Option<DVector<f64>> {
            let sum = of_class(class).map(|index| features[index].clone()).reduce(|sum, next| sum + next)?;
            Some(sum / of_class(class).count() as f64)
        };
        let means: Vec<Option<DVector<f64>>> = (0..split.dataset.classes()).map(mean).collect();
        let mut covariance = DMatrix::zeros(2 * channels, 2 * channels);
        for (index, feature) in features.iter().enumerate() {
            let mean = means[usize::from(split.label(index))].as_ref().expect("the class of a sample has one");
            let deviation = feature - mean;
            covariance += &deviation * deviation.transpose() / split.len() as f64;
        }
        // Constant channels have no variance to divide by.
        covariance += DMatrix::identity(2 * channels, 2 * channels) * 1e-6;
        let inverse = covariance.try_inverse().expect("a covariance with a positive diagonal added");
        Self { means: means.into_iter().flatten().collect(), inverse }
    }

    /// The squared distance of a window, `[rows, channels]`.
    pub fn distance(&self, window: &[f32]) -> f64 {
        let feature = moments(window, self.inverse.nrows() / 2);
        let each = self.means.iter().map(|mean| {
            let deviation = &feature - mean;
            deviation.dot(&(&self.inverse * &deviation))
        });
        each.fold(f64::INFINITY, f64::min)
    }
}

/// The means of the channels, then the logarithms of their deviations.
fn moments(window: &[f32], channels: usize) -> DVector<f64> {
    let rows = (window.len() / channels) as f64;
    let mean = |channel: usize, of: &dyn Fn(f64) -> f64| {
        window.iter().skip(channel).step_by(channels).map(|&value| of(f64::from(value))).sum::<f64>() / rows
    };
    let means: Vec<f64> = (0..channels).map(|channel| mean(channel, &|value| value)).collect();
    let spread = |channel: usize| {
        let variance = mean(channel, &|value| (value - means[channel]).powi(2));
        0.5 * (variance + 1e-12).ln()
    };
    let spreads: Vec<f64> = (0..channels).map(spread).collect();
    DVector::from_vec([means, spreads].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_dataset::{Dataset, SampleShape, Values};

    /// Two channels: twice the row's number, and 1 less it.
    fn ramp(rows: usize) -> Vec<f32> {
        (0..rows).flat_map(|row| [2.0 * row as f32, 1.0 - row as f32]).collect()
    }

    #[test]
    fn straight_lines_are_filled_exactly_and_what_is_known_stays() {
        let window = ramp(8);
        let mut spoilt = window.clone();
        spoilt[2 * 3..2 * 6].fill(99.0);
        assert_eq!(interpolated(&spoilt, 2, &(3..6)), window);
        let ends = [(0..2, [4.0, -1.0]), (6..8, [10.0, -4.0])];
        for (gap, row) in ends {
            let filled = interpolated(&window, 2, &gap);
            for at in 0..8 {
                let wanted = if gap.contains(&at) { &row[..] } else { &window[2 * at..2 * at + 2] };
                assert_eq!(&filled[2 * at..2 * at + 2], wanted, "row {at}");
            }
        }
    }

    #[test]
    fn an_average_of_a_line_is_the_line_but_at_its_ends() {
        let found = moving_average(&ramp(6), 2, 1);
        assert_eq!(found[..4], [1.0, 0.5, 2.0, 0.0]);
        assert_eq!(found[4..8], ramp(6)[4..8]);
        assert_eq!(moving_average(&ramp(6), 2, 0), ramp(6));
    }

    #[test]
    fn windows_that_share_rows_are_of_one_recording() {
        let value = |recording: usize, row: usize| (recording * 100 + row) as f32;
        // Two recordings, windows of 4 rows every 2; then one window alone.
        let windows = [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2), (2, 7)];
        let values =
            windows.iter().flat_map(|&(recording, begin)| (begin..begin + 4).map(move |row| value(recording, row)));
        let set = Dataset::new(
            SampleShape::signal(4, 1),
            Values::Floats(values.collect()),
            vec![0; 6],
            vec!["all".to_owned()],
        )
        .with_held_out(vec![true; 6]);
        assert_eq!(recordings(&set.held_out()), [0, 0, 0, 1, 1, 2]);
    }

    /// With clusters of one the usual standard error; copies of a value in its cluster change neither mean nor error.
    #[test]
    fn copies_do_not_make_a_mean_more_certain() {
        let values = [1.0, 4.0, 2.0, 7.0];
        let (mean, error) = clustered_mean(&values, &[0, 1, 2, 3]);
        let variance = values.iter().map(|value| (value - 3.5f64).powi(2)).sum::<f64>() / 3.0;
        assert!((mean - 3.5).abs() < 1e-12 && (error - (variance / 4.0).sqrt()).abs() < 1e-12, "{error}");
        let copies: Vec<f64> = values.iter().flat_map(|&value| [value; 3]).collect();
        let clusters: Vec<usize> = (0..4).flat_map(|cluster| [cluster; 3]).collect();
        let (copied, same) = clustered_mean(&copies, &clusters);
        assert!((copied - mean).abs() < 1e-12 && (same - error).abs() < 1e-12, "{same}");
    }

    #[test]
    fn the_distance_is_in_deviations_from_the_nearest_class() {
        // One channel of two rows: mean m and deviation d are m - d, m + d. Two classes about (0, 1) and (10, 1).
        let window = |mean: f64, log: f64| [(mean - log.exp()) as f32, (mean + log.exp()) as f32];
        let mut values = Vec::new();
        let mut labels = Vec::new();
        for (class, center) in [(0, 0.0), (1, 10.0)] {
            for (dm, dl) in [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.2), (0.0, -0.2)] {
                values.extend(window(center + dm, dl));
                labels.push(class);
            }
        }
        let set = Dataset::new(
            SampleShape::signal(2, 1),
            Values::Floats(values),
            labels,
            ["a", "b"].map(str::to_owned).to_vec(),
        )
        .with_held_out(vec![false; 8]);
        let found = Mahalanobis::fit(&set.train());
        // Variances over the classes: 0.125 of the mean, 0.02 of the logarithm.
        for (mean, log, wanted) in [(1.0, 0.0, 8.0), (9.0, 0.0, 8.0), (5.0, 0.0, 200.0), (10.0, 0.2, 2.0)] {
            let distance = found.distance(&window(mean, log));
            assert!((distance / wanted - 1.0).abs() < 1e-3, "{mean} {log}: {distance}, not {wanted}");
        }
    }
}
