//! Deciding by measured damage what is stored in fewer bits.

use super::calibrate::Calibration;
use super::damage::{States, damages, total_damage};
use super::export::{ExportError, Precision, export_with};
use super::graph::{Graph, Role};
use super::weights::{Rounding, bytes};
use mote_core::kernel::WeightBits;
use mote_core::model::{Model, Op};
use mote_core::plan::Room;

/// Why no precision fits.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// Even with every weight at 4 bits.
    #[error("{budget} bytes are too few: with every weight at 4 bits the file has {least}; make the network narrower")]
    TooSmall {
        /// Bytes asked for.
        budget: usize,
        /// Bytes of the smallest file.
        least: usize,
    },
    /// A file cannot be made.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Which operations' weights get 4 bits, rounded as `nibbles` says for each, so that the file has at most `budget` bytes: those
/// first whose rounding adds least error in `x0` on `states` for each byte it saves.
///
/// # Errors
/// [`BudgetError`].
pub fn within_budget<'w>(
    graph: &Graph,
    calibration: &Calibration,
    nibbles: &[Rounding<'w>],
    states: &States,
    budget: usize,
) -> Result<Vec<Rounding<'w>>, BudgetError> {
    let export = |weights: &[Rounding<'w>]| {
        let precision = Precision { weights: weights.to_vec(), ..Precision::bytes(graph) };
        export_with(graph, calibration, &precision, Room::Smallest)
    };
    let mut chosen: Vec<Rounding<'w>> = bytes(graph);
    let (eight, four) = (export(&chosen)?, export(nibbles)?);
    if four.file.len() > budget {
        return Err(BudgetError::TooSmall { budget, least: four.file.len() });
    }
    let model = Model::parse(&four.file).expect("what was exported parses");
    let saved = |op: usize| match model.op(op as u16) {
        Op::Conv(conv) if conv.weight_bits() == WeightBits::Four => conv.shape.packed_len() / 2,
        _ => 0,
    };
    let (before, after) = (damages(graph, &eight, states), damages(graph, &four, states));
    let mut order: Vec<usize> = (0..graph.ops.len()).filter(|&op| saved(op) > 0).collect();
    let price = |op: usize| (after[op] - before[op]) / saved(op) as f64;
    order.sort_by(|&a, &b| price(a).total_cmp(&price(b)));
    let mut len = eight.file.len();
    for op in order {
        if len <= budget {
            break;
        }
        chosen[op] = nibbles[op];
        len -= saved(op);
    }
    Ok(chosen)
}

/// What 8 bits instead of 16 do to one tensor of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Narrowed {
    /// The tensor.
    pub tensor: usize,
    /// Mean squared error in `x0` with this tensor and those above it in the list at 8 bits.
    pub damage: f64,
    /// Whether it is kept.
    pub kept: bool,
}

/// Which tensors of the residual stream get 8 bits: each in turn, those that do least damage alone first, as long as the mean
/// squared error in `x0` on `states` is at most `1 + tolerance` times what it is with 16 bits. `precision` is changed.
///
/// # Errors
/// [`ExportError`].
pub fn narrow(
    graph: &Graph,
    calibration: &Calibration,
    precision: &mut Precision<'_>,
    states: &States,
    tolerance: f64,
) -> Result<Vec<Narrowed>, ExportError> {
    let damage = |precision: &Precision<'_>| -> Result<f64, ExportError> {
        Ok(total_damage(graph, &export_with(graph, calibration, precision, Room::Smallest)?, states))
    };
    let most = damage(precision)? * (1.0 + tolerance);
    let candidates = (0..graph.tensors.len()).filter(|&tensor| graph.tensors[tensor].role == Role::Residual);
    let mut alone = Vec::new();
    for tensor in candidates {
        precision.narrow[tensor] = true;
        alone.push((damage(precision)?, tensor));
        precision.narrow[tensor] = false;
    }
    alone.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut decided = Vec::new();
    for (_, tensor) in alone {
        precision.narrow[tensor] = true;
        let damage = damage(precision)?;
        let kept = damage <= most;
        precision.narrow[tensor] = kept;
        decided.push(Narrowed { tensor, damage, kept });
    }
    Ok(decided)
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::weights::compensated;
    use super::super::{Ends, calibrate, windows};
    use super::*;

    #[test]
    fn a_budget_is_kept_with_the_least_damage() {
        let graph = network(5, Some(2));
        let (calibration, states) = (calibrate(&graph, 1, 12, Ends::default()), States::draw(&graph, 2, 6));
        let windows = windows(&graph, 1, 12);
        let nibbles = compensated(&graph, &windows);
        let choose = |budget| within_budget(&graph, &calibration, &nibbles, &states, budget);
        let len = |weights: &[Rounding<'_>]| {
            let precision = Precision { weights: weights.to_vec(), ..Precision::bytes(&graph) };
            export_with(&graph, &calibration, &precision, Room::Smallest).unwrap()
        };
        let [all, none] = [&nibbles, &bytes(&graph)].map(|weights| len(weights));
        let [least, most] = [&all, &none].map(|exported| exported.file.len());
        assert!(choose(most).unwrap().iter().all(|rounding| rounding.bits() == WeightBits::Eight));
        let budget = (least + most) / 2;
        let chosen = len(&choose(budget).unwrap());
        assert!(chosen.file.len() <= budget && chosen.file.len() > least, "{} of {budget}", chosen.file.len());
        let damage = |exported| total_damage(&graph, exported, &states);
        assert!(damage(&none) < damage(&chosen) && damage(&chosen) < damage(&all));
        // The other half of the weights would have done more damage.
        let others: Vec<Rounding<'_>> = choose(budget)
            .unwrap()
            .iter()
            .zip(&nibbles)
            .map(|(chosen, nibbles)| if chosen.bits() == WeightBits::Four { Rounding::Bytes } else { *nibbles })
            .collect();
        assert!(damage(&chosen) < damage(&len(&others)));
        let error = choose(least - 1).unwrap_err().to_string();
        assert!(error.contains(&least.to_string()), "{error}");
    }

    #[test]
    fn tensors_become_narrow_within_the_tolerance() {
        let graph = network(6, None);
        let (calibration, states) = (calibrate(&graph, 1, 12, Ends::default()), States::draw(&graph, 2, 6));
        let kept = |tolerance| {
            let mut precision = Precision::bytes(&graph);
            let decided = narrow(&graph, &calibration, &mut precision, &states, tolerance).unwrap();
            let count = precision.narrow.iter().filter(|&&narrow| narrow).count();
            assert_eq!(count, decided.iter().filter(|one| one.kept).count());
            (count, export_with(&graph, &calibration, &precision, Room::Smallest).unwrap())
        };
        let [(none, wide), (some, _), (all, narrowed)] = [0.0, 1.0, 1e9].map(kept);
        assert!(none <= some && some < all, "{none} {some} {all}");
        assert_eq!(all, graph.tensors.iter().filter(|tensor| tensor.role == Role::Residual).count());
        let arena = |file: &[u8]| Model::parse(file).unwrap().arena_len();
        assert!(arena(&narrowed.file) < arena(&wide.file));
    }
}
