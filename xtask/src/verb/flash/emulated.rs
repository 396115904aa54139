//! An emulated board's flash, as files that stay between runs: the firmware's ELF file, and the slots' bytes.

use super::image::{self, Part};
use crate::board::Board;
use crate::elf::Firmware;
use crate::images::write_whole;
use crate::places::target_dir;
use anyhow::{Context, Result};
use mote_core::Model;
use std::fs;
use std::path::{Path, PathBuf};

/// An emulated board's flash.
pub(crate) struct Flash {
    /// The firmware's ELF file.
    pub(crate) firmware: PathBuf,
    /// The slots' bytes, as long as the slots.
    pub(crate) slots: PathBuf,
}

impl Flash {
    /// A board's files: in this folder, or where they lie if none is named.
    pub(crate) fn of(board: &Board, folder: Option<&Path>) -> Flash {
        match folder {
            Some(folder) => Flash::in_folder(folder),
            None => Flash::in_folder(&target_dir().join("emulated").join(board.name)),
        }
    }

    /// Its files in a folder.
    pub(crate) fn in_folder(folder: &Path) -> Flash {
        Flash { firmware: folder.join("firmware.elf"), slots: folder.join("slots.bin") }
    }

    /// Puts a model into the slots, as flashing does.
    pub(crate) fn write_model(&self, board: &Board, model: &Model<'_>) -> Result<()> {
        self.write(board, None, &image::slots(board, model, None))
    }

    /// The firmware that was flashed before, if any was.
    pub(super) fn installed(&self) -> Option<Result<Firmware>> {
        self.firmware.exists().then(|| Firmware::read(&self.firmware))
    }

    /// Writes the firmware, if it is given, and the parts of the slots.
    pub(super) fn write(&self, board: &Board, firmware: Option<&Path>, slots: &[Part]) -> Result<()> {
        if let Some(firmware) = firmware {
            let bytes = fs::read(firmware).with_context(|| format!("cannot read {}", firmware.display()))?;
            write_whole(&self.firmware, &bytes)?;
        }
        let region = board.memory.slots;
        // What was never flashed, or had another size, is an erased flash.
        let mut bytes = fs::read(&self.slots).unwrap_or_default();
        if bytes.len() != region.len as usize {
            bytes = vec![0xFF; region.len as usize];
        }
        for part in slots {
            let at = (part.address - region.start) as usize;
            bytes[at..at + part.bytes.len()].copy_from_slice(&part.bytes);
        }
        write_whole(&self.slots, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::EMULATED;

    #[test]
    fn what_is_not_flashed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (flash, board) = (Flash::in_folder(folder.path()), &EMULATED[0]);
        let elf = folder.path().join("built");
        fs::write(&elf, "firmware").unwrap();
        flash.write(board, Some(&elf), &[]).unwrap();
        let slots = fs::read(&flash.slots).unwrap();
        assert_eq!(slots.len(), board.memory.slots.len as usize);
        assert!(slots.iter().all(|&byte| byte == 0xFF));

        let part = |slot, bytes| Part { what: "test", address: board.memory.slot(slot).start, bytes };
        flash.write(board, None, &[part(1, vec![1, 2])]).unwrap();
        flash.write(board, None, &[part(0, vec![3])]).unwrap();
        let slots = fs::read(&flash.slots).unwrap();
        let second = (board.memory.slots.len / 2) as usize;
        assert_eq!((slots[0], &slots[second..second + 3]), (3, &[1, 2, 0xFF][..]));
        assert_eq!(fs::read(&flash.firmware).unwrap(), b"firmware");
    }
}
