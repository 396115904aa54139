//! What flashing writes, and where: the firmware's bytes, and the slots' with a model in them.

use crate::board::Board;
use crate::elf::Firmware;
use anyhow::{Result, bail};
use mote_core::Model;
use mote_slots::{Header, Manifest, PREFIX_LEN};

/// Bytes for one place in flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// What they are, for people.
    pub(crate) what: &'static str,
    /// Where the first one goes.
    pub(crate) address: u32,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// The slots as they are after flashing over a cable: the model in slot A, first in the order of updates, and nothing in
/// slot B, whose header would otherwise count as newer. What slot B held besides stays, and nothing reads it.
pub(crate) fn slots(board: &Board, model: &Model<'_>, signature: Option<[u8; 64]>) -> [Part; 2] {
    let manifest = Manifest { signature, ..Manifest::of(model.bytes()) };
    let mut bytes = Header { manifest, sequence: 1 }.prefix().to_vec();
    bytes.extend(model.bytes());
    // Whole words, as debug probes want them.
    bytes.resize(bytes.len().next_multiple_of(board.memory.write as usize), 0xFF);
    [
        Part { what: "slot A: the model", address: board.memory.slot(0).start, bytes },
        Part { what: "slot B: no model", address: board.memory.slot(1).start, bytes: vec![0xFF; PREFIX_LEN] },
    ]
}

/// # Errors
/// With the numbers, if the model does not fit a slot or its working memory does not fit the arena.
pub(crate) fn check_fit(board: &Board, model: &Model<'_>, arena: u64) -> Result<()> {
    let slot = u64::from(board.memory.slot(0).len) - PREFIX_LEN as u64;
    let (file, needed) = (model.bytes().len() as u64, model.arena_len() as u64);
    if file > slot {
        bail!(
            "the model has {file} bytes, a slot on {} takes {slot}: {} too many; make a smaller student",
            board.name,
            file - slot
        );
    }
    if needed > arena {
        bail!(
            "the model needs {needed} bytes of arena, the firmware for {} has {arena}: {} too few; make a smaller student",
            board.name,
            needed - arena
        );
    }
    Ok(())
}

/// # Errors
/// If the firmware was linked for other addresses than the board's table says, or does not fit its flash or RAM.
pub(crate) fn check_firmware(board: &Board, firmware: &Firmware) -> Result<()> {
    let memory = &board.memory;
    let linked = firmware.model_region()?;
    let expected = (u64::from(memory.slots.start), u64::from(memory.slots.len));
    if linked != expected {
        bail!(
            "{} was linked for slots at {:#x} ({} bytes), but the table of boards has them at {:#x} ({} bytes): \
             make firmware/{}/memory.x and xtask/src/board.rs agree",
            firmware.path.display(),
            linked.0,
            linked.1,
            expected.0,
            expected.1,
            board.package
        );
    }
    let (used, room) = (firmware.flash, memory.firmware.len);
    if used > u64::from(room) {
        bail!("the firmware has {used} bytes, its flash on {} {room}: shorten it, or move the slots", board.name);
    }
    if firmware.ram > u64::from(memory.ram.len) {
        bail!("the firmware takes {} bytes of RAM, {} has {}", firmware.ram, board.name, memory.ram.len);
    }
    Ok(())
}

/// What of the firmware's file lies in flash: at the addresses where it is stored, not where it runs.
pub(crate) fn firmware(board: &Board, firmware: &Firmware) -> Result<Vec<Part>> {
    let part = |(address, bytes): &(u64, Vec<u8>)| {
        let address = u32::try_from(*address)?;
        Ok(Part { what: "firmware", address, bytes: bytes.clone() })
    };
    let parts = firmware.loaded.iter().map(part).collect::<Result<Vec<Part>>>()?;
    let first = board.memory.bootloader.unwrap_or(board.memory.firmware).start;
    let outside = |part: &&Part| {
        part.address < first || u64::from(part.address) + part.bytes.len() as u64 > board.memory.firmware.end()
    };
    if let Some(part) = parts.iter().find(outside) {
        bail!(
            "the firmware has {} bytes at {:#x}, outside of its flash on {}: check memory.x",
            part.bytes.len(),
            part.address,
            board.name
        );
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{HARDWARE, boards};
    use mote_core::selftest;

    fn with_model(test: impl FnOnce(&Model<'_>)) {
        let mut file = [0; 8192];
        test(&selftest::write_model(&mut file).expect("the self-test's model"));
    }

    #[test]
    fn a_model_lies_behind_its_header_in_slot_a_and_slot_b_is_empty() {
        with_model(|model| {
            for board in boards() {
                let [a, b] = slots(board, model, None);
                assert_eq!(a.address, board.memory.slots.start);
                assert_eq!(a.bytes[PREFIX_LEN..][..model.bytes().len()], *model.bytes());
                assert!(a.bytes.len().is_multiple_of(board.memory.write as usize));
                assert_eq!(b.address, board.memory.slots.start + board.memory.slots.len / 2);
                assert!(b.bytes.iter().all(|&byte| byte == 0xFF));
            }
        });
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        with_model(|model| {
            let board = &HARDWARE[0];
            check_fit(board, model, model.arena_len() as u64).unwrap();
            let error = check_fit(board, model, model.arena_len() as u64 - 4).unwrap_err().to_string();
            assert!(error.contains(&model.arena_len().to_string()) && error.contains("4 too few"), "{error}");
        });
    }
}
