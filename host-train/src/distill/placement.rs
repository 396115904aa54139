//! Which of the teacher's levels a student's few rows are best placed at.
//!
//! A student begins as its teacher: at level `i` it knows the teacher's estimate of the data, and one DDIM step with it from `i`
//! to `j` ends beside the trajectory's state at `j`. How far beside is what it has to learn there. So the cost of a jump is the
//! mean square of that error, in units of the data, and a student's rows are the ones of least total cost: a shortest path, which
//! dynamic programming finds (the local error of a solver's steps as the cost of a path through its levels: Chen et al., *On the
//! Trajectory Regularity of ODE-based Diffusion Sampling*, 2024, section 4). It takes no training, and a data set's trajectories
//! alone decide it.

use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use mote_core::step_table::StepRow;

use super::trajectories::Trajectories;

/// Trajectories that the costs are averaged over, at most.
const AVERAGED: usize = 200;

/// The cost of a jump from level `i` to level `j > i`, `[i][j]`, of a path with these rows; infinite for others.
pub fn jump_costs<B: Backend>(trajectories: &Trajectories<B>, rows: &[StepRow]) -> Vec<Vec<f64>> {
    let count = trajectories.count().min(AVERAGED);
    let states: Vec<Tensor<B, 4>> =
        (0..=rows.len()).map(|level| trajectories.select((0..count).map(|number| (number, level)))).collect();
    let mut costs = vec![vec![f64::INFINITY; rows.len() + 1]; rows.len()];
    for (from, row) in rows.iter().enumerate() {
        let z = states[from].clone();
        let x0 = (states[from + 1].clone() - z.clone() * row.a) / row.b;
        for to in from + 1..=rows.len() {
            let [signal, noise] = rows.get(to).map_or([1.0, 0.0], |row| [row.signal, row.noise]);
            let keep = noise / row.noise;
            let reached = z.clone() * keep + x0.clone() * (signal - keep * row.signal);
            let beside = (states[to].clone() - reached) / signal;
            let mean: f64 = (beside.clone() * beside).mean().into_scalar().elem();
            costs[from][to] = mean;
        }
    }
    costs
}

/// The levels of `rows` rows, rising from 0, whose jumps from each to the next and from the last to the data cost least together.
///
/// # Panics
/// If there are fewer levels than rows.
pub fn best_levels(costs: &[Vec<f64>], rows: usize) -> Vec<usize> {
    let levels = costs.len();
    assert!((1..=levels).contains(&rows), "{rows} rows at {levels} levels");
    // The least cost from a level to the data in so many jumps, and the level after the first of them.
    let mut least: Vec<(f64, usize)> = (0..levels).map(|from| (costs[from][levels], levels)).collect();
    let mut way = Vec::new();
    for _ in 1..rows {
        let jump = |from: usize| {
            let through = (from + 1..levels).map(|next| (costs[from][next] + least[next].0, next));
            through.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, levels))
        };
        let longer = (0..levels).map(jump).collect();
        way.push(std::mem::replace(&mut least, longer));
    }
    let mut found = vec![0];
    let mut next = least[0].1;
    for shorter in way.iter().rev() {
        found.push(next);
        next = shorter[next].1;
    }
    found
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use mote_core::noise::Philox;
    use rand::Rng;

    use super::super::trajectories::tests::{Gaussian, path};
    use super::*;

    fn total(costs: &[Vec<f64>], levels: &[usize]) -> f64 {
        let ends = levels.iter().skip(1).copied().chain([costs.len()]);
        levels.iter().zip(ends).map(|(&from, to)| costs[from][to]).sum()
    }

    #[test]
    fn no_other_levels_cost_less() {
        let mut random = Philox::new(9);
        for levels in 1..=8 {
            let costs: Vec<Vec<f64>> =
                (0..levels).map(|_| (0..=levels).map(|_| f64::from(random.next_u32())).collect()).collect();
            for rows in 1..=levels {
                let found = best_levels(&costs, rows);
                assert!(found.len() == rows && found[0] == 0 && found.is_sorted_by(|a, b| a < b), "{found:?}");
                // Every set of levels that has the first: the bits of a number.
                let sets = (0..1u32 << (levels - 1)).filter(|set| set.count_ones() as usize == rows - 1);
                let all = sets.map(|set| {
                    let picked = (1..levels).filter(|level| set >> (level - 1) & 1 == 1);
                    total(&costs, &[0].into_iter().chain(picked).collect::<Vec<_>>())
                });
                let least = all.fold(f64::INFINITY, f64::min);
                assert!((total(&costs, &found) - least).abs() < 1e-3, "{rows} of {levels}: {found:?}");
            }
        }
    }

    /// The exact teacher of a Gaussian is linear, so its trajectories and the jumps beside them are numbers times the start.
    #[test]
    fn costs_of_a_linear_teacher_are_in_closed_form() {
        let teacher = Gaussian { deviation: 0.5 };
        let path = path::<Flex>(&teacher, 5);
        let drawn = Trajectories::draw(&path, 0..50, 50, None, |_| ()).unwrap();
        let costs = jump_costs(&drawn, &path.rows);
        let start: Vec<f32> = drawn.select((0..50).map(|number| (number, 0))).into_data().to_vec().unwrap();
        let square = start.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>() / start.len() as f64;
        let of_x0 = |row: &StepRow| row.signal * 0.25 / teacher.deviation_at(row).powi(2);
        let factors = path.rows.iter().scan(1.0, |factor, row| {
            let now = *factor;
            *factor *= row.a + row.b * of_x0(row);
            Some([now, *factor])
        });
        let factors: Vec<[f64; 2]> = factors.collect();
        for (from, row) in path.rows.iter().enumerate() {
            for to in from + 1..=path.rows.len() {
                let [signal, noise] = path.rows.get(to).map_or([1.0, 0.0], |row| [row.signal, row.noise]);
                let keep = noise / row.noise;
                let jump = factors[from][0] * (keep + (signal - keep * row.signal) * of_x0(row));
                let wanted = square * ((factors[to - 1][1] - jump) / signal).powi(2);
                let found = costs[from][to];
                assert!((found - wanted).abs() < 1e-4 * wanted + 1e-6, "{from} to {to}: {found}, not {wanted}");
            }
            assert!(costs[from][from + 1] < 1e-6 && costs[from][from].is_infinite());
        }
        // A long jump costs more than a part of it that begins at the same place.
        assert!(costs[0][5] > costs[0][3] && costs[0][3] > costs[0][2]);
    }
}
