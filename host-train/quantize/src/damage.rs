//! What the rounding of each operation alone does to the result: the others stay floats.

use super::agreement::{Histogram, limits};
use super::calibrate::Calibration;
use super::export::{Exported, tables};
use super::fake_quant::FakeQuant;
use super::graph::{Graph, STATE};
use super::run::{NoObserver, Observer, Sampler};
use mote_core::Request;
use mote_core::kernel::TABLE_LEN;
use mote_core::model::{Element, Model};
use rayon::prelude::*;

/// States of a network's own trajectories, with the (row, class) that each belongs to.
#[derive(Clone, Debug)]
pub struct States {
    /// `row * classes + class`, and the state before that row.
    states: Vec<(usize, Vec<f32>)>,
}

impl States {
    /// Every state on the way of `samples` samples of `seed`, classes in turn.
    pub fn draw(graph: &Graph, seed: u64, samples: usize) -> Self {
        let draw = |index: usize| {
            let class = index % graph.classes;
            let mut seen = Starts(Vec::new());
            let request = Request { class: class as u16, seed, sample: index as u64, ..Request::default() };
            Sampler::new(graph).draw(request, &mut seen);
            seen.0.into_iter().enumerate().map(|(row, state)| (row * graph.classes + class, state)).collect::<Vec<_>>()
        };
        States { states: (0..samples).into_par_iter().flat_map_iter(draw).collect() }
    }

    /// Each state with its (row, class), `row * classes + class`.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.states.iter().map(|(condition, state)| (*condition, &state[..]))
    }

    /// What the network says of each, height x width x channels.
    pub fn outputs(&self, graph: &Graph) -> Vec<Vec<f32>> {
        let output = |(condition, state): &(usize, Vec<f32>)| {
            Sampler::new(graph).forward(state, *condition, &mut NoObserver).to_vec()
        };
        self.states.par_iter().map(output).collect()
    }

    /// Mean squared difference in `x0` of what `observer` makes of `other` from what `graph` gives, on every state.
    fn x0_error<O: Observer>(&self, graph: &Graph, other: &Graph, observer: impl Fn(usize) -> O + Sync) -> f64 {
        let of_state = |(condition, state): &(usize, Vec<f32>)| {
            let row = &graph.rows[condition / graph.classes];
            let mut float = Sampler::new(graph);
            let expected = float.forward(state, *condition, &mut NoObserver).to_vec();
            let mut sampler = Sampler::new(other);
            let found = sampler.forward(state, *condition, &mut observer(condition / graph.classes));
            let x0 = |x: f32, f: f32| (row.p as f32 * x + row.q as f32 * f).clamp(graph.clamp[0], graph.clamp[1]);
            let pairs = state.iter().zip(&expected).zip(found);
            pairs.map(|((&x, &want), &got)| f64::from(x0(x, want) - x0(x, got)).powi(2)).sum::<f64>()
                / state.len() as f64
        };
        self.states.par_iter().map(of_state).sum::<f64>() / self.states.len().max(1) as f64
    }
}

/// The states that a trajectory's rows begin with.
struct Starts(Vec<Vec<f32>>);

impl Observer for Starts {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        if tensor == STATE {
            self.0.push(values.to_vec());
        }
    }
}

/// Mean squared error in `x0` (data from -1 to 1) on `states` when nothing but operation `op` is rounded: its weights, what it
/// reads and what it writes. One for each operation.
pub fn damages(graph: &Graph, exported: &Exported, states: &States) -> Vec<f64> {
    let rounded = rounded(graph, exported);
    let damage = |op: usize| {
        let mut one = graph.clone();
        one.ops[op] = rounded.ops[op].clone();
        states.x0_error(graph, &one, |_| Only { all: FakeQuant::new(exported), op, written: 0 })
    };
    (0..graph.ops.len()).map(damage).collect()
}

/// The mean squared error in `x0` on `states` when everything is rounded.
pub fn total_damage(graph: &Graph, exported: &Exported, states: &States) -> f64 {
    damage_of(graph, graph, exported, states)
}

/// The mean squared error in `x0` on `states` of `exported`, made of `other`, from what `graph` says: `other` is `graph` with
/// other constants.
pub fn damage_of(graph: &Graph, other: &Graph, exported: &Exported, states: &States) -> f64 {
    states.x0_error(graph, &rounded(other, exported), |_| FakeQuant::new(exported))
}

/// [`damage_of`] if each row of the step table had activation tables, and so scales, of its own: those of its calibration in
/// `rows`. No file can have them; this is what they would be worth.
pub fn damage_with_scales_by_row(
    graph: &Graph,
    other: &Graph,
    exported: &Exported,
    rows: &[Calibration],
    states: &States,
) -> f64 {
    states.x0_error(graph, &rounded(other, exported), |row| FakeQuant::with_tables(exported, tables(graph, &rows[row])))
}

/// `graph` with the weights and biases that `exported` holds.
fn rounded(graph: &Graph, exported: &Exported) -> Graph {
    let model = Model::parse(&exported.file).expect("what was exported parses");
    FakeQuant::graph(graph, exported, &model)
}

/// [`FakeQuant`] of one operation.
struct Only {
    all: FakeQuant,
    op: usize,
    /// Operations that are done.
    written: usize,
}

impl Observer for Only {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        if self.written == self.op {
            self.all.tensor(tensor, values);
        }
        self.written += 1;
    }

    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        if op == self.op {
            self.all.normalized(op, values);
        }
    }

    fn activated(&mut self, op: usize, values: &mut [f32]) {
        if op == self.op {
            self.all.activated(op, values);
        }
    }
}

/// For each operation that normalizes: what its windows hold after the activation function, and how often the value before it
/// is beyond the table.
pub fn inputs(graph: &Graph, exported: &Exported, states: &States) -> Vec<Option<Input>> {
    let nothing: Vec<Option<Input>> = exported.tables.iter().map(|table| table.map(|_| Input::default())).collect();
    states.states.iter().fold(nothing, |inputs, (condition, state)| {
        let mut seen = Inputs { exported, inputs };
        Sampler::new(graph).forward(state, *condition, &mut seen);
        seen.inputs
    })
}

/// What the windows of a convolution with a normalization hold.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The integers.
    pub stored: Histogram,
    /// Values before the activation function that the table's ends cut off.
    pub cut_off: u64,
}

impl Input {
    /// The share of the values that the table's ends cut off, 0 to 1.
    pub fn cut_off_share(&self) -> f64 {
        self.cut_off as f64 / self.stored.count().max(1) as f64
    }
}

struct Inputs<'e> {
    exported: &'e Exported,
    inputs: Vec<Option<Input>>,
}

impl Observer for Inputs<'_> {
    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        if let (Some(input), Some(table)) = (&mut self.inputs[op], self.exported.tables[op]) {
            let index = |value: f32| ((value - table.low) / table.step).round();
            let beyond = |&&value: &&f32| index(value) < 0.0 || index(value) > (TABLE_LEN - 1) as f32;
            input.cut_off += values.iter().filter(beyond).count() as u64;
        }
    }

    fn activated(&mut self, op: usize, values: &mut [f32]) {
        if let (Some(input), Some(table)) = (&mut self.inputs[op], self.exported.tables[op]) {
            for value in values {
                let stored = (f64::from(*value / table.scale) + f64::from(table.zero)).round();
                input.stored.add(stored, limits(Element::I8));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::{Ends, calibrate, calibrate_rows, export};
    use super::*;
    use mote_core::plan::Room;

    #[test]
    fn the_damages_of_operations_add_up_to_about_the_whole() {
        let graph = network(5, Some(2));
        let exported = export(&graph, &calibrate(&graph, 1, 12, Ends::default()), Room::Smallest).unwrap();
        let states = States::draw(&graph, 2, 9);
        let each = damages(&graph, &exported, &states);
        let whole = total_damage(&graph, &exported, &states);
        let sum: f64 = each.iter().sum();
        assert!(each.iter().all(|&damage| damage > 0.0), "{each:?}");
        assert!((0.5..2.0).contains(&(sum / whole)), "{sum} and {whole}");
    }

    #[test]
    fn rows_are_rounded_with_their_own_scales() {
        let graph = network(5, None);
        let mut coarse = calibrate(&graph, 1, 12, Ends::default());
        coarse.normalized.iter_mut().flatten().for_each(|end| *end *= 8.0);
        let exported = export(&graph, &coarse, Room::Smallest).unwrap();
        let states = States::draw(&graph, 2, 9);
        let of = |rows: &[_]| damage_with_scales_by_row(&graph, &graph, &exported, rows, &states);
        let whole = total_damage(&graph, &exported, &states);
        let mut rows = vec![coarse; graph.rows.len()];
        assert_eq!(of(&rows), whole);
        let fine = calibrate_rows(&graph, 1, 12);
        rows[0] = fine[0].clone();
        let first = of(&rows);
        assert!(of(&fine) < first && first < whole, "{} {first} {whole}", of(&fine));
    }

    #[test]
    fn a_table_that_is_too_short_is_seen() {
        let graph = network(5, None);
        let mut calibration = calibrate(&graph, 1, 12, Ends::default());
        let states = States::draw(&graph, 2, 3);
        let cut = |calibration: &_| {
            let exported = export(&graph, calibration, Room::Smallest).unwrap();
            let inputs = inputs(&graph, &exported, &states);
            assert_eq!(inputs[0].is_none(), exported.tables[0].is_none());
            inputs.iter().flatten().map(Input::cut_off_share).collect::<Vec<_>>()
        };
        assert!(cut(&calibration).iter().all(|&share| share < 0.01));
        calibration.normalized[1] = calibration.normalized[1].map(|end| end / 3.0);
        assert!(cut(&calibration)[0] > 0.05, "{:?}", cut(&calibration));
    }
}
