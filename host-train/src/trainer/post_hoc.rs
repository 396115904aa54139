//! Post-hoc averages: any power-function average of the weights, after training, as the combination of stored ones whose
//! profile is nearest in the least squares sense (Karras et al. 2024, section 3.2 and algorithm 3).

use super::ema::Profile;

/// What is added to the diagonal, relative to it: profiles of neighbouring snapshots are nearly the same.
const RIDGE: f64 = 1e-13;

/// An average of the weights up to a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Average {
    /// Steps done when it was taken, at least 1.
    pub step: u64,
    /// How the steps count.
    pub profile: Profile,
}

/// How to combine stored averages.
#[derive(Debug, Clone, PartialEq)]
pub struct Combination {
    /// One factor an average.
    pub factors: Vec<f64>,
    /// Distance of the combined profile to the wanted one, relative to the wanted one's norm.
    pub error: f64,
}

/// The integral of the product of two profiles over training, times the number of steps.
fn product(a: Average, b: Average, steps: f64) -> f64 {
    let (early, late) = if a.step <= b.step { (a, b) } else { (b, a) };
    let (gamma_early, gamma_late) = (early.profile.gamma, late.profile.gamma);
    let common = (gamma_early + 1.0) * (gamma_late + 1.0) / (gamma_early + gamma_late + 1.0);
    common * (early.step as f64 / late.step as f64).powf(gamma_late) * steps / late.step as f64
}

/// The combination of `stored` that is nearest to `wanted`.
///
/// # Panics
/// Without a stored average.
pub fn combine(stored: &[Average], wanted: Average) -> Combination {
    assert!(!stored.is_empty(), "nothing to combine");
    let steps = wanted.step as f64;
    let matrix: Vec<Vec<f64>> =
        stored.iter().map(|&row| stored.iter().map(|&column| product(row, column, steps)).collect()).collect();
    let right: Vec<f64> = stored.iter().map(|&row| product(row, wanted, steps)).collect();
    let factors = solve(matrix.clone(), right.clone());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let square: f64 = factors.iter().zip(&matrix).map(|(factor, row)| factor * dot(row, &factors)).sum();
    let norm = product(wanted, wanted, steps);
    let error = ((square - 2.0 * dot(&factors, &right) + norm).max(0.0) / norm).sqrt();
    Combination { factors, error }
}

/// Solves a symmetric positive definite system by elimination without pivoting, which is stable for these.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let len = right.len();
    for (index, row) in matrix.iter_mut().enumerate() {
        row[index] *= 1.0 + RIDGE;
    }
    for pivot in 0..len {
        for row in pivot + 1..len {
            let factor = matrix[row][pivot] / matrix[pivot][pivot];
            let (above, below) = matrix.split_at_mut(row);
            below[0][pivot..]
                .iter_mut()
                .zip(&above[pivot][pivot..])
                .for_each(|(value, above)| *value -= factor * above);
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..len).rev() {
        let known: f64 = (row + 1..len).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up training: one weight that falls like a learning curve, with wiggles.
    fn weight(step: u64) -> f64 {
        let step = step as f64;
        3.0 / (1.0 + step / 200.0) + 0.3 * (step / 40.0).sin()
    }

    /// Every step's average for `profile` of a training of `steps`.
    fn track(profile: Profile, steps: u64) -> Vec<f64> {
        let mut average = 0.0;
        let step = |step| {
            let keep = profile.keep(step);
            average = average * keep + weight(step) * (1.0 - keep);
            average
        };
        (0..steps).map(step).collect()
    }

    /// The paper's claim (figure 4): from two averages, kept at intervals, others follow within a small error. Here up to
    /// 32 snapshots of each, kept in f32; the error is less than 0.2 % of the weight's way.
    #[test]
    fn a_reconstructed_average_is_the_tracked_one() {
        let (steps, every) = (3200, 100);
        let kept: Vec<(Average, f64)> = [0.05, 0.10]
            .into_iter()
            .flat_map(|width| {
                let profile = Profile::new(width);
                let tracked = track(profile, steps);
                let at = move |step: u64| (Average { step, profile }, tracked[step as usize - 1]);
                (1..=steps / every).map(move |number| at(number * every)).collect::<Vec<_>>()
            })
            .collect();
        for (width, step) in [(0.05, 3200), (0.07, 3200), (0.10, 2400), (0.15, 3200), (0.20, 1600)] {
            let profile = Profile::new(width);
            let (usable, values): (Vec<_>, Vec<f64>) =
                kept.iter().filter(|(average, _)| average.step <= step).copied().unzip();
            let combination = combine(&usable, Average { step, profile });
            let found: f64 =
                values.iter().zip(&combination.factors).map(|(&value, factor)| f64::from(value as f32) * factor).sum();
            let wanted = track(profile, step)[step as usize - 1];
            assert!((found - wanted).abs() < 5e-3, "width {width} at {step}: {found}, not {wanted}");
            assert!(combination.error < 0.03, "width {width}: {}", combination.error);
            assert!((combination.factors.iter().sum::<f64>() - 1.0).abs() < 1e-2);
        }
    }

    #[test]
    fn a_stored_average_is_given_back() {
        let average = |step, width| Average { step, profile: Profile::new(width) };
        let stored = [average(100, 0.05), average(100, 0.1), average(200, 0.05), average(200, 0.1)];
        let Combination { factors, error } = combine(&stored, stored[3]);
        assert!(error < 1e-5, "{error}");
        assert!(
            factors[..3].iter().all(|factor| factor.abs() < 1e-6) && (factors[3] - 1.0).abs() < 1e-6,
            "{factors:?}"
        );
    }
}
