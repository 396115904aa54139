//! UF2 files: what the boot ROMs of RP2040 and RP2350 take from the drive that they show on USB.
//!
//! The format is Microsoft's "USB Flashing Format"; families, and what the ROMs do with blocks, are in the datasheets (RP2040
//! 2.8.4, RP2350 5.5). Blocks carry 256 bytes, the flash's page; every sector of 4 KiB that has any byte to write is written
//! whole, because the ROM erases it.

use super::image::Part;
use std::collections::BTreeMap;

/// Bytes of a block of the file.
const BLOCK: usize = 512;
/// Bytes of flash in a block.
const PAGE: usize = 256;
/// Bytes that the flash erases at a time.
const SECTOR: u32 = 4096;
/// In the flags: the family is given where other files give their size.
const FAMILY_PRESENT: u32 = 0x2000;

/// The families of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// RP2040.
    Rp2040,
    /// RP2350, a secure image for its Arm cores.
    Rp2350ArmSecure,
    /// RP2350, at the addresses as they are, whatever partitions there are.
    Absolute,
}

impl Family {
    /// Its number in the file.
    pub(crate) fn id(self) -> u32 {
        match self {
            Family::Rp2040 => 0xE48B_FF56,
            Family::Absolute => 0xE48B_FF57,
            Family::Rp2350ArmSecure => 0xE48B_FF59,
        }
    }
}

/// The file that puts these parts into flash.
pub(crate) fn file(family: Family, parts: &[Part]) -> Vec<u8> {
    let mut sectors: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for part in parts {
        for (at, &byte) in (part.address..).zip(&part.bytes) {
            let sector = sectors.entry(at / SECTOR).or_insert_with(|| vec![0xFF; SECTOR as usize]);
            sector[(at % SECTOR) as usize] = byte;
        }
    }
    let mut file = Vec::new();
    if family == Family::Rp2350ArmSecure {
        file.extend(before_arm_image());
    }
    let pages = sectors.iter().flat_map(|(&sector, bytes)| (sector * SECTOR..).step_by(PAGE).zip(bytes.chunks(PAGE)));
    let total = (sectors.len() * SECTOR as usize / PAGE) as u32;
    for (number, (address, page)) in (0..).zip(pages) {
        file.extend(block(family, address, number, total, page));
    }
    file
}

/// RP2350's first silicon takes an image's first block for the end of a file (erratum RP2350-E10) unless a block of the
/// absolute family comes before it: one of two, so that the file is never complete, for the last page that flash can have.
fn before_arm_image() -> [u8; BLOCK] {
    block(Family::Absolute, 0x10FF_FF00, 0, 2, &[0xEF; PAGE])
}

fn block(family: Family, address: u32, number: u32, total: u32, page: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let header = [0x0A32_4655, 0x9E5D_5157, FAMILY_PRESENT, address, page.len() as u32, number, total, family.id()];
    for (field, value) in block.chunks_mut(4).zip(header) {
        field.copy_from_slice(&u32::to_le_bytes(value));
    }
    block[32..32 + page.len()].copy_from_slice(page);
    block[BLOCK - 4..].copy_from_slice(&0x0AB1_6F30_u32.to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(address: u32, bytes: Vec<u8>) -> Part {
        Part { what: "test", address, bytes }
    }

    /// The eight words of a block's header.
    fn header(block: &[u8]) -> [u32; 8] {
        std::array::from_fn(|i| u32::from_le_bytes(block[4 * i..4 * i + 4].try_into().unwrap()))
    }

    #[test]
    fn a_block_has_the_fields_of_the_specification() {
        let file = file(Family::Rp2040, &[part(0x1000_0000, vec![1, 2, 3])]);
        assert_eq!(file.len(), 512 * 16, "a sector of 16 pages");
        let first = &file[..512];
        assert_eq!(&first[..4], b"UF2\n");
        assert_eq!(header(first), [0x0A32_4655, 0x9E5D_5157, 0x2000, 0x1000_0000, 256, 0, 16, 0xE48B_FF56]);
        assert_eq!(first[32..36], [1, 2, 3, 0xFF], "data, then erased flash");
        assert!(first[32 + 256..508].iter().all(|&byte| byte == 0), "beyond the payload");
        assert_eq!(first[508..], [0x30, 0x6F, 0xB1, 0x0A]);
        let last = header(&file[15 * 512..]);
        assert_eq!((last[3], last[5], last[6]), (0x1000_0F00, 15, 16));
    }

    #[test]
    fn parts_share_sectors_and_gaps_are_left_out() {
        let parts = [part(0x1000_0FFF, vec![7, 8]), part(0x1000_1002, vec![9]), part(0x1010_0000, vec![5; 4097])];
        let file = file(Family::Absolute, &parts);
        let blocks: Vec<[u32; 8]> = file.chunks(512).map(header).collect();
        let sectors: Vec<u32> = blocks.iter().step_by(16).map(|block| block[3]).collect();
        assert_eq!(sectors, [0x1000_0000, 0x1000_1000, 0x1010_0000, 0x1010_1000]);
        assert!(
            blocks.iter().enumerate().all(|(i, block)| (block[5], block[6], block[7]) == (i as u32, 64, 0xE48B_FF57))
        );
        let second_sector = &file[16 * 512..][32..][..4];
        assert_eq!(second_sector, [8, 0xFF, 9, 0xFF]);
    }

    /// The RP2350's datasheet, erratum RP2350-E10; the pico-sdk's tools write the same first block.
    #[test]
    fn an_arm_image_for_rp2350_follows_an_absolute_block() {
        let file = file(Family::Rp2350ArmSecure, &[part(0x1000_0000, vec![1])]);
        assert_eq!(header(&file)[3..], [0x10FF_FF00, 256, 0, 2, 0xE48B_FF57]);
        assert!(file[32..288].iter().all(|&byte| byte == 0xEF));
        assert_eq!(header(&file[512..])[3..], [0x1000_0000, 256, 0, 16, 0xE48B_FF59]);
    }
}
