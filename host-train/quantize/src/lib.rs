//! From a float network to a `.mote` file.
//!
//! A trained denoiser is first lowered to a [`Graph`]: the operations that core has, with float constants, the conditioning
//! already folded to one gain and bias a channel for each (row, class). [`calibrate`] runs it on its own sampling
//! trajectories to see every tensor's range; [`export`] chooses scales, rounds constants and writes the file. None of this
//! needs a tensor library, so what is measured here is exactly what is exported.

mod agreement;
mod calibrate;
mod choose;
mod damage;
mod export;
mod fake_quant;
mod graph;
pub mod onnx;
#[cfg(test)]
pub(crate) mod random_network;
mod run;
mod weights;
mod windows;

pub use agreement::{Agreement, BINS, CompareError, Histogram, compare, first_divergence, limits};
pub use calibrate::{Calibration, Ends, calibrate, calibrate_rows};
pub use choose::{BudgetError, Narrowed, narrow, within_budget};
pub use damage::{Input, States, damage_of, damage_with_scales_by_row, damages, inputs, total_damage};
pub use export::{ExportError, Exported, Precision, Table, export, export_again, export_with, tables};
pub use fake_quant::FakeQuant;
pub use graph::{Activation, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, Role, TooLarge};
pub use run::{NoObserver, Observer, Sampler};
pub use weights::{Rounding, bytes, compensated, largest_weight, nearest};
pub use windows::{Windows, windows};
