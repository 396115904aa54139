//! Cycles by a model, from the blocks that ran in the emulator: what no emulator can measure.
//!
//! Every model assumes memory without wait states and caches that hit. None was compared with a real chip.

mod cortex_m4;
mod llvm_mca;
mod thumb;

use crate::board::Board;
use crate::elf::Firmware;
use crate::emulator::Block;
use anyhow::Result;

/// How cycles are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// The Cortex-M4's table: each instruction has its cycles, a taken branch two more.
    CortexM4Table,
    /// LLVM's machine code analyzer for a processor: each block as if it ran again and again.
    LlvmMca(&'static str),
}

impl Model {
    /// The models for a board's code, its own processor's first.
    pub(crate) fn of(board: &Board) -> &'static [Model] {
        match board.name {
            "qemu-m4" => &[Model::CortexM4Table],
            "qemu-m7" => &[Model::LlvmMca("cortex-m7")],
            "qemu-m33" => &[Model::LlvmMca("cortex-m33")],
            "qemu-m55" => &[Model::LlvmMca("cortex-m55"), Model::LlvmMca("cortex-m85")],
            _ => &[],
        }
    }

    /// The cycles of each span; `Err` says why there are none.
    pub(crate) fn cycles(self, firmware: &Firmware, spans: &[Vec<Block>]) -> Result<Vec<f64>> {
        match self {
            Model::CortexM4Table => spans.iter().map(|blocks| cortex_m4::cycles(firmware, blocks)).collect(),
            Model::LlvmMca(processor) => llvm_mca::cycles(processor, firmware, spans),
        }
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Model::CortexM4Table => f.write_str("Cortex-M4 table"),
            Model::LlvmMca(processor) => write!(f, "llvm-mca {processor}"),
        }
    }
}
