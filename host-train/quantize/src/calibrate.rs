//! Finding every tensor's range, and the best ends of every activation's table, on the model's own sampling trajectories.

use super::export::Table;
use super::graph::{Activation, Graph, GraphConv, GraphOp, STATE};
use super::run::{Observer, Sampler};
use mote_core::Request;
use rayon::prelude::*;

/// Ranges seen.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Smallest and largest value written to each tensor.
    pub tensors: Vec<[f32; 2]>,
    /// Where each operation normalizes: the values before the activation function at which its table ends.
    pub normalized: Vec<[f32; 2]>,
    /// Smallest and largest result of each convolution, before it is added to the output.
    pub convolved: Vec<[f32; 2]>,
}

impl Calibration {
    fn empty(graph: &Graph) -> Self {
        let nothing = |count| vec![[f32::INFINITY, f32::NEG_INFINITY]; count];
        let ops = graph.ops.len();
        Calibration { tensors: nothing(graph.tensors.len()), normalized: nothing(ops), convolved: nothing(ops) }
    }

    fn ranges(&self) -> impl Iterator<Item = &[f32; 2]> {
        self.tensors.iter().chain(&self.normalized).chain(&self.convolved)
    }

    fn union(mut self, other: &Self) -> Self {
        let all = self.tensors.iter_mut().chain(&mut self.normalized).chain(&mut self.convolved);
        for (range, more) in all.zip(other.ranges()) {
            *range = [range[0].min(more[0]), range[1].max(more[1])];
        }
        self
    }
}

impl Observer for Calibration {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        widen(&mut self.tensors[tensor], values);
    }

    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        widen(&mut self.normalized[op], values);
    }

    fn convolved(&mut self, op: usize, values: &mut [f32]) {
        widen(&mut self.convolved[op], values);
    }
}

fn widen(range: &mut [f32; 2], values: &[f32]) {
    for &value in values {
        *range = [range[0].min(value), range[1].max(value)];
    }
}

/// Where an activation's table ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// Where the mean squared error of what it stores is least: a few rare values are cut off, all others are finer (Nagel et al.
    /// 2021, "A White Paper on Neural Network Quantization", section 3.1).
    #[default]
    LeastError,
    /// At the smallest and the largest value seen.
    Extremes,
}

/// Draws `samples` samples of `seed`, classes in turn, and records the ranges.
pub fn calibrate(graph: &Graph, seed: u64, samples: usize, ends: Ends) -> Calibration {
    let all = union(graph, &ranges(graph, seed, samples));
    match ends {
        Ends::Extremes => all,
        Ends::LeastError => {
            let spreads = spreads(graph, &all, seed, samples);
            let spread = spreads.iter().fold(Spread::empty(graph, &all.normalized), Spread::union);
            Calibration { normalized: spread.least_error(graph, &all.normalized), ..all }
        }
    }
}

/// [`calibrate`] with [`Ends::LeastError`] for each row of the step table apart.
pub fn calibrate_rows(graph: &Graph, seed: u64, samples: usize) -> Vec<Calibration> {
    let rows = ranges(graph, seed, samples);
    let all = union(graph, &rows);
    let spreads = spreads(graph, &all, seed, samples);
    let tight = |(row, spread): (Calibration, Spread<'_>)| {
        let normalized = spread.least_error(graph, &row.normalized);
        Calibration { normalized, ..row }
    };
    rows.into_iter().zip(spreads).map(tight).collect()
}

fn union(graph: &Graph, rows: &[Calibration]) -> Calibration {
    rows.iter().fold(Calibration::empty(graph), Calibration::union)
}

/// The ranges of each row.
fn ranges(graph: &Graph, seed: u64, samples: usize) -> Vec<Calibration> {
    by_row(graph, seed, samples, &Calibration::empty(graph), Calibration::union)
}

/// What each row's operations read before the activation function, in bins over the ranges of `all`.
fn spreads<'c>(graph: &Graph, all: &'c Calibration, seed: u64, samples: usize) -> Vec<Spread<'c>> {
    by_row(graph, seed, samples, &Spread::empty(graph, &all.normalized), Spread::union)
}

/// What observers that begin as `nothing` see of each row of `samples` samples, those of the same row together.
fn by_row<O: Observer + Clone + Send + Sync>(
    graph: &Graph,
    seed: u64,
    samples: usize,
    nothing: &O,
    union: impl Fn(O, &O) -> O + Sync,
) -> Vec<O> {
    let nothing = || vec![nothing.clone(); graph.rows.len()];
    let draw = |index: usize| {
        let mut seen = Rows { rows: nothing(), begun: 0 };
        let class = (index % graph.classes) as u16;
        Sampler::new(graph).draw(Request { class, seed, sample: index as u64, ..Request::default() }, &mut seen);
        seen.rows
    };
    let both = |all: Vec<O>, one: Vec<O>| all.into_iter().zip(&one).map(|(all, one)| union(all, one)).collect();
    (0..samples).into_par_iter().map(draw).reduce(nothing, both)
}

/// An observer for each row of the step table.
struct Rows<O> {
    rows: Vec<O>,
    /// Rows that have begun.
    begun: usize,
}

impl<O: Observer> Observer for Rows<O> {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        self.begun += usize::from(tensor == STATE);
        self.rows[self.begun - 1].tensor(tensor, values);
    }

    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        self.rows[self.begun - 1].normalized(op, values);
    }

    fn convolved(&mut self, op: usize, values: &mut [f32]) {
        self.rows[self.begun - 1].convolved(op, values);
    }
}

/// Bins of a [`Spread`].
const BINS: usize = 4096;
/// An end of a table is at one of so many equal parts of the range's end.
const PARTS: usize = 40;

/// How often which values stand before each operation's activation function.
#[derive(Clone)]
struct Spread<'c> {
    /// What an operation's bins divide.
    ranges: &'c [[f32; 2]],
    /// Of each operation that normalizes, [`BINS`] counts.
    counts: Vec<Vec<u64>>,
}

impl Observer for Spread<'_> {
    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        let [low, high] = self.ranges[op];
        let bins = BINS as f32 / (high - low).max(f32::MIN_POSITIVE);
        let counts = &mut self.counts[op];
        counts.resize(BINS, 0);
        for value in values {
            counts[(((*value - low) * bins) as usize).min(BINS - 1)] += 1;
        }
    }
}

impl<'c> Spread<'c> {
    fn empty(graph: &Graph, ranges: &'c [[f32; 2]]) -> Self {
        Spread { ranges, counts: vec![Vec::new(); graph.ops.len()] }
    }

    fn union(mut self, other: &Self) -> Self {
        for (counts, more) in self.counts.iter_mut().zip(&other.counts) {
            counts.resize(counts.len().max(more.len()), 0);
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        self
    }

    /// For each operation, the ends within its range of `ranges` at which its table's mean squared error is least.
    fn least_error(&self, graph: &Graph, ranges: &[[f32; 2]]) -> Vec<[f32; 2]> {
        let ends = |(op, &range): (usize, &[f32; 2])| match &graph.ops[op] {
            GraphOp::Conv(GraphConv { norm: Some(norm), .. }) => {
                least_error(norm.activation, range, self.ranges[op], &self.counts[op])
            }
            _ => range,
        };
        ranges.par_iter().enumerate().map(ends).collect()
    }
}

/// The ends within `range` of the table of `activation` with the least squared error on values that `counts` counts in equal
/// parts of `spread`.
fn least_error(activation: Activation, range: [f32; 2], spread: [f32; 2], counts: &[u64]) -> [f32; 2] {
    let width = (spread[1] - spread[0]) / BINS as f32;
    let bins: Vec<(f32, f32, f64)> = (counts.iter().enumerate())
        .filter(|(_, count)| **count > 0)
        .map(|(bin, &count)| {
            let value = spread[0] + (bin as f32 + 0.5) * width;
            (value, activation.of(value), count as f64)
        })
        .collect();
    let error = |[low, high]: [f32; 2]| {
        let table = Table::new(activation, low, high);
        let stored = table.stored();
        let square =
            |&(value, exact, count): &(f32, f32, f64)| count * f64::from(exact - stored[table.index(value)]).powi(2);
        bins.iter().map(square).sum::<f64>()
    };
    let parts = || (1..=PARTS).rev().map(|part| part as f32 / PARTS as f32);
    let ends = parts().flat_map(|below| parts().map(move |above| [range[0] * below, range[1] * above]));
    ends.map(|ends| (error(ends), ends)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(range, |(_, ends)| ends)
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::tables;
    use super::*;

    /// Squared errors of what each operation's table stores.
    struct Errors<'t> {
        tables: &'t [Option<Table>],
        errors: Vec<f64>,
    }

    impl Observer for Errors<'_> {
        fn normalized(&mut self, op: usize, values: &mut [f32]) {
            if let Some(table) = &self.tables[op] {
                let stored = table.stored();
                let error = |&value: &f32| f64::from(table.activation.of(value) - stored[table.index(value)]).powi(2);
                self.errors[op] += values.iter().map(error).sum::<f64>();
            }
        }
    }

    #[test]
    fn ends_of_least_error_store_what_was_seen_with_less_error_than_extremes() {
        let graph = network(5, None);
        let errors = |ends| {
            let tables = tables(&graph, &calibrate(&graph, 1, 12, ends));
            let mut seen = Errors { tables: &tables, errors: vec![0.0; graph.ops.len()] };
            for index in 0..12 {
                let class = (index % graph.classes) as u16;
                let request = Request { class, seed: 1, sample: index as u64, ..Request::default() };
                Sampler::new(&graph).draw(request, &mut seen);
            }
            seen.errors
        };
        let [least, extremes] = [Ends::LeastError, Ends::Extremes].map(errors);
        for (least, extremes) in least.iter().zip(&extremes) {
            assert!(*least <= extremes * 1.01, "{least} for {extremes}");
        }
        let [least, extremes] = [least, extremes].map(|errors| errors.iter().sum::<f64>());
        assert!(least < 0.95 * extremes, "{least} for {extremes}");
    }

    #[test]
    fn a_value_that_is_rare_is_cut_off_and_one_that_is_not_is_kept() {
        let range = [-8.0, 100.0];
        let bin = |value: f32| ((value - range[0]) / (range[1] - range[0]) * BINS as f32) as usize;
        let mut counts = vec![0; BINS];
        counts[bin(-4.0)..bin(6.0)].fill(1_000_000);
        counts[BINS - 1] = 1;
        let rare = least_error(Activation::Silu, range, range, &counts);
        assert!((5.0..20.0).contains(&rare[1]), "{rare:?}");
        counts[BINS - 1] = 10_000_000;
        let frequent = least_error(Activation::Silu, range, range, &counts);
        assert!(frequent[1] > 95.0, "{frequent:?}");
    }

    #[test]
    fn rows_together_have_the_ranges_of_all() {
        let graph = network(5, None);
        let all = calibrate(&graph, 1, 6, Ends::Extremes);
        let rows = ranges(&graph, 1, 6);
        assert_eq!(rows.len(), graph.rows.len());
        assert!(rows.iter().any(|row| row.normalized != all.normalized));
        let widest =
            |end: fn(f32, f32) -> f32, at: usize| rows.iter().map(|row| row.tensors[2][at]).reduce(end).unwrap();
        assert_eq!([widest(f32::min, 0), widest(f32::max, 1)], all.tensors[2]);
        for (row, tight) in rows.iter().zip(calibrate_rows(&graph, 1, 6)) {
            for (range, ends) in row.normalized.iter().zip(&tight.normalized) {
                assert!(ends[0] >= range[0] && ends[1] <= range[1], "{ends:?} beyond {range:?}");
            }
        }
    }
}
