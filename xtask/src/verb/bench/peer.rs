//! What CMSIS-NN was measured to cost.

use super::Row;
use crate::board::Board;
use anyhow::{Context, Result};
use serde_json::Value;

const CMSIS_NN: &str = include_str!("../../../data/cmsis_nn.json");

/// The operation whose figure stands beside GroupNorm's, which CMSIS-NN has not.
const FOR_GROUP_NORM: &str = "add";

/// A peer's figures for a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peer {
    /// Instructions.
    pub(super) per_unit: f64,
    /// Modelled cycles of the Cortex-M4.
    pub(super) cycles_per_unit: Option<f64>,
}

/// Puts the peer's figures beside ours.
pub(super) fn add(rows: &mut [Row], board: &Board) -> Result<()> {
    let file: Value = serde_json::from_str(CMSIS_NN)?;
    let peers = file["rows"].as_array().context("the peer's figures have no rows")?;
    for row in rows {
        let op = if row.op.starts_with("group norm") { FOR_GROUP_NORM } else { &row.op };
        let is_it = |peer: &&Value| peer["op"] == op && (peer["shape"].is_null() || peer["shape"] == *row.shape);
        row.peer = peers.iter().find(is_it).and_then(|peer| {
            let per_unit = peer["instructions"][column(board)].as_f64()?;
            Some(Peer { per_unit, cycles_per_unit: peer["m4_cycles"].as_f64().filter(|_| board.name == "qemu-m4") })
        });
    }
    Ok(())
}

/// The peer's processor that a board is compared with.
fn column(board: &Board) -> &'static str {
    match board.name {
        "qemu-m0" => "Cortex-M0+",
        // It has no RISC-V code: the Arm without DSP instructions is the nearest.
        "qemu-rv32" => "Cortex-M3",
        _ => board.processor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::EMULATED;

    #[test]
    fn every_board_has_figures_for_every_operation() {
        let file: Value = serde_json::from_str(CMSIS_NN).unwrap();
        for row in file["rows"].as_array().unwrap() {
            for board in &EMULATED {
                assert!(row["instructions"][column(board)].as_f64().unwrap() > 0.0, "{} on {}", row["op"], board.name);
            }
        }
    }
}
