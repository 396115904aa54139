//! How long a sample would take on common chips: an estimate, never measured on any of them.
//!
//! The prices of operations are `mote-costs`'; noise and the state's update are left out. `core/docs/memory.md` compares the estimate with what the emulator counts for a whole network.

use anyhow::Result;
use mote_core::Model;
use mote_costs::Prices;
use std::fmt::Write;

/// A chip that people have.
struct Chip {
    name: &'static str,
    processor: &'static str,
    mhz: f64,
    /// The emulated board whose costs are taken.
    board: &'static str,
    /// Assumed where the board's cycles are not modelled.
    cycles_per_instruction: f64,
}

const fn chip(
    name: &'static str,
    processor: &'static str,
    mhz: f64,
    board: &'static str,
    cycles_per_instruction: f64,
) -> Chip {
    Chip { name, processor, mhz, board, cycles_per_instruction }
}

/// Clocks are the highest that the makers state.
const CHIPS: [Chip; 8] = [
    chip("RP2040", "Cortex-M0+", 133.0, "qemu-m0", 1.4),
    chip("RP2350", "Cortex-M33", 150.0, "qemu-m33", 1.4),
    chip("STM32F405", "Cortex-M4", 168.0, "qemu-m4", 1.5),
    chip("STM32H743", "Cortex-M7", 480.0, "qemu-m7", 1.0),
    chip("nRF52840", "Cortex-M4", 64.0, "qemu-m4", 1.5),
    chip("nRF5340", "Cortex-M33", 128.0, "qemu-m33", 1.4),
    chip("Alif Ensemble E3", "Cortex-M55", 400.0, "qemu-m55", 1.4),
    chip("ESP32-C3", "RV32IMC", 160.0, "qemu-rv32", 1.3),
];

/// The estimate for each chip.
pub(super) fn table(model: &Model<'_>, out: &mut String) -> Result<()> {
    writeln!(out, "\nestimated time, never measured on hardware: memory without wait states, one core")?;
    writeln!(
        out,
        "{:<17} {:<11} {:>5} {:>16} {:>6} {:>10} {:>10}  cycles by",
        "chip", "processor", "MHz", "instr. a pass", "a MAC", "ms a pass", "ms a sample"
    )?;
    let macs = super::macs(model);
    let mut worst = 0.0f64;
    for chip in &CHIPS {
        let instructions = Prices::instructions(chip.board)?;
        worst = worst.max(instructions.error());
        let count = instructions.pass(model);
        let (cycles, by) = match Prices::cycles(chip.board) {
            Ok(prices) => (prices.pass(model), "bench kernels".to_owned()),
            Err(_) => (
                count * chip.cycles_per_instruction,
                format!("{} an instruction, assumed", chip.cycles_per_instruction),
            ),
        };
        let ms = cycles / chip.mhz / 1e3;
        writeln!(
            out,
            "{:<17} {:<11} {:>5} {count:>16.0} {:>6.2} {ms:>10.1} {:>11.1}  {by}",
            chip.name,
            chip.processor,
            chip.mhz,
            count / macs as f64,
            ms * f64::from(model.rows())
        )?;
    }
    writeln!(
        out,
        "Instructions are those that `bench kernels` counted, modelled as so much for each multiply-accumulate, output,"
    )?;
    writeln!(
        out,
        "gathered and widened value; that misses no convolution of the bench by more than {:.0} %.",
        100.0 * worst
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chip_has_costs() {
        for chip in &CHIPS {
            let prices = Prices::instructions(chip.board).unwrap();
            assert!(prices.error() < 0.35, "{}: {}", chip.name, prices.error());
        }
    }
}
