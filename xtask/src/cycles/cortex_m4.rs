//! The Cortex-M4's cycles, by the table in its Technical Reference Manual (r0p1, 3.3.1 and 3.3.2) with these choices:
//!
//! | instruction | cycles |
//! |---|---|
//! | one load | 2; 1 right behind another single load that does not give it its address |
//! | one store | 1; 2 at a register offset that is not right behind a load |
//! | n registers loaded or stored (`LDRD`, `LDM`, `PUSH`, ...) | 1 + n |
//! | `SDIV`, `UDIV` | 12, the most they take |
//! | `TBB`, `TBH`, `MRS`, `MSR`, exclusive accesses | 2 |
//! | everything else, skipped by its condition or not: `MUL`, `SMLAD`, `SMMULR`, `SMULL`, branches, `IT` | 1 |
//! | a taken branch, of whatever kind | 2 more |
//!
//! The last is the convention of the peers' figures; the manual says 1 to 3. A block's first load never counts as behind
//! another one.

use super::thumb::{Kind, kinds};
use crate::elf::Firmware;
use crate::emulator::Block;
use anyhow::{Context, Result};

const DIVIDE: u64 = 12;
const TAKEN_BRANCH: u64 = 2;

/// The cycles of all blocks together.
pub(super) fn cycles(firmware: &Firmware, blocks: &[Block]) -> Result<f64> {
    let mut sum = 0;
    for block in blocks {
        let code = firmware.code(block.address, block.len)?;
        let once = straight(code).with_context(|| {
            format!("the code at {:#x} has instructions that the Cortex-M4's table lacks", block.address)
        })?;
        sum += once * block.executions + TAKEN_BRANCH * block.taken;
    }
    Ok(sum as f64)
}

/// The cycles of straight code whose last branch is not taken.
fn straight(code: &[u8]) -> Option<u64> {
    let mut sum = 0;
    // What the instruction before has loaded, if it was a single load.
    let mut loaded = None;
    for kind in kinds(code)? {
        sum += match kind {
            Kind::Load { base, index, .. } if loaded.is_some_and(|it| it != base && Some(it) != index) => 1,
            Kind::Load { .. } => 2,
            Kind::Store { indexed: true } if loaded.is_none() => 2,
            Kind::Store { .. } => 1,
            Kind::Several(registers) => 1 + u64::from(registers),
            Kind::Divide => DIVIDE,
            Kind::Special => 2,
            Kind::Other => 1,
        };
        loaded = match kind {
            Kind::Load { dest, .. } => Some(dest),
            _ => None,
        };
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles_of(halves: &[u16]) -> Option<u64> {
        straight(&halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>())
    }

    const LDR_R1_R2: u16 = 0x6811;
    const LDR_R3_R2: u16 = 0x6813;
    const LDR_R4_R1: u16 = 0x680C;
    const LDR_R4_R2_R1: u16 = 0x5854;
    const STR_R1_R2: u16 = 0x6011;
    const STR_R1_R2_R3: u16 = 0x50D1;
    const ADDS: u16 = 0x1840;
    const SMLAD: [u16; 2] = [0xFB21, 0x3002];
    const LDRD: [u16; 2] = [0xE8F0, 0x2302];
    const SDIV: [u16; 2] = [0xFB91, 0xF0F2];

    #[test]
    fn loads_in_a_row_are_pipelined_unless_one_gives_the_next_its_address() {
        assert_eq!(cycles_of(&[LDR_R1_R2]), Some(2));
        assert_eq!(cycles_of(&[LDR_R1_R2, LDR_R3_R2]), Some(3));
        assert_eq!(cycles_of(&[LDR_R1_R2, LDR_R3_R2, LDR_R1_R2]), Some(4));
        assert_eq!(cycles_of(&[LDR_R1_R2, LDR_R4_R1]), Some(4));
        assert_eq!(cycles_of(&[LDR_R1_R2, LDR_R4_R2_R1]), Some(4));
        assert_eq!(cycles_of(&[LDR_R1_R2, ADDS, LDR_R3_R2]), Some(5));
        assert_eq!(cycles_of(&[STR_R1_R2, LDR_R3_R2]), Some(3));
    }

    #[test]
    fn a_store_is_one_cycle_unless_its_offset_is_a_register() {
        assert_eq!(cycles_of(&[STR_R1_R2]), Some(1));
        assert_eq!(cycles_of(&[STR_R1_R2_R3]), Some(2));
        assert_eq!(cycles_of(&[LDR_R1_R2, STR_R1_R2_R3]), Some(3));
    }

    /// Half a quad of the convolution's inner loop: three double loads and eight `SMLAD`.
    #[test]
    fn a_double_load_is_three_cycles_and_a_dual_product_one() {
        let half_quad = [&LDRD[..], &LDRD, &SMLAD.repeat(4), &LDRD, &SMLAD.repeat(4)].concat();
        assert_eq!(cycles_of(&half_quad), Some(3 * 3 + 8));
        assert_eq!(cycles_of(&SDIV), Some(12));
        assert_eq!(cycles_of(&[0xB530]), Some(4), "push of three");
        assert_eq!(cycles_of(&[0xED90, 0x0A00]), None, "vldr");
    }
}
