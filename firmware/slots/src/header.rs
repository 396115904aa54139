//! What stands before a model in its slot: where every byte is.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u8 x 4 | magic `MSLT` |
//! | 4 | u16 | version of this table, 1 |
//! | 6 | u16 | 1 if the signature is given, else 0 |
//! | 8 | u32 | sequence number |
//! | 12 | u32 | length of the model |
//! | 16 | u32 | CRC-32 of the model |
//! | 20 | u8 x 64 | ed25519 signature of the model (RFC 8032, the file's bytes as they are), else 0 |
//! | 84 | u32 | CRC-32 of the bytes before |
//! | 88 | | 0xFF up to 256 |
//! | 256 | u8 x 4 | commit record: magic `DONE` |
//! | 260 | u32 | the header's CRC-32 once more |
//! | 264 | | 0xFF up to 512, where the model begins |
//!
//! Little-endian. Header and commit record have 256 bytes each, so that no flash's word holds parts of both.

use crate::{BLOCK, Fault};
use embedded_storage::nor_flash::ReadNorFlash;
use mote_core::format::checksum;

/// The version that this build reads and writes.
pub const VERSION: u16 = 1;
/// The first four bytes of a slot.
pub const MAGIC: [u8; 4] = *b"MSLT";
/// The first four bytes of the commit record.
pub const COMMIT_MAGIC: [u8; 4] = *b"DONE";
/// Bytes before the model.
pub const PREFIX_LEN: usize = 2 * BLOCK;

/// Bytes of the header that are not filling.
pub(crate) const HEADER_LEN: usize = 88;
/// Bytes of the commit record that are not filling.
pub(crate) const COMMIT_LEN: usize = 8;

const SIGNED: u16 = 1;

/// What an update says of its model before the model comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Length in bytes.
    pub len: u32,
    /// CRC-32 of all bytes, as [`mote_core::format::checksum`] gives it.
    pub checksum: u32,
    /// The ed25519 signature of all bytes, if there is one.
    pub signature: Option<[u8; 64]>,
}

impl Manifest {
    /// The manifest of a model that is not signed. A length beyond 32 bits fits no slot and is cut to a length that fits
    /// none either.
    pub fn of(model: &[u8]) -> Manifest {
        let len = u32::try_from(model.len()).unwrap_or(u32::MAX);
        Manifest { len, checksum: checksum(model), signature: None }
    }
}

/// A slot's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the slot holds.
    pub manifest: Manifest,
    /// Its place in the order of updates.
    pub sequence: u32,
}

impl Header {
    /// The bytes of a committed slot up to its model: for tools that write a slot at once.
    pub fn prefix(&self) -> [u8; PREFIX_LEN] {
        let mut bytes = [0xFF; PREFIX_LEN];
        let (header, commit) = bytes.split_at_mut(BLOCK);
        header.copy_from_slice(&self.block());
        commit.copy_from_slice(&self.commit_block());
        bytes
    }

    /// The header's block.
    pub(crate) fn block(&self) -> [u8; BLOCK] {
        let Manifest { len, checksum: model_checksum, signature } = self.manifest;
        let flags = if signature.is_some() { SIGNED } else { 0 };
        let mut block = [0xFF; BLOCK];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&flags.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&len.to_le_bytes());
        put(&model_checksum.to_le_bytes());
        put(&signature.unwrap_or([0; 64]));
        let own = checksum(&block[..HEADER_LEN - 4]);
        block[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&own.to_le_bytes());
        block
    }

    /// The commit record's block.
    pub(crate) fn commit_block(&self) -> [u8; BLOCK] {
        let mut block = [0xFF; BLOCK];
        block[..4].copy_from_slice(&COMMIT_MAGIC);
        block[4..8].copy_from_slice(&self.block()[HEADER_LEN - 4..HEADER_LEN]);
        block
    }

    fn parse(block: &[u8; BLOCK]) -> Result<Header, Fault> {
        if block.iter().all(|&byte| byte == 0xFF) {
            return Err(Fault::Erased);
        }
        let u16_at = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        if block[..4] != MAGIC || checksum(&block[..HEADER_LEN - 4]) != u32_at(HEADER_LEN - 4) {
            return Err(Fault::Header);
        }
        if u16_at(4) != VERSION {
            return Err(Fault::Version { found: u16_at(4) });
        }
        let signature = match u16_at(6) {
            0 => None,
            SIGNED => block[20..].first_chunk().copied(),
            _ => return Err(Fault::Header),
        };
        let manifest = Manifest { len: u32_at(12), checksum: u32_at(16), signature };
        Ok(Header { manifest, sequence: u32_at(8) })
    }
}

/// The header of a committed slot.
pub(crate) fn read<F: ReadNorFlash>(flash: &mut F, offset: u32) -> Result<Header, Fault> {
    let mut block = [0; BLOCK];
    flash.read(offset, &mut block).map_err(|_| Fault::Unreadable)?;
    let header = Header::parse(&block)?;
    flash.read(offset + BLOCK as u32, &mut block).map_err(|_| Fault::NotCommitted)?;
    if block[..COMMIT_LEN] != header.commit_block()[..COMMIT_LEN] {
        return Err(Fault::NotCommitted);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { manifest: Manifest { len: 1000, checksum: 0x1234_5678, signature: Some([9; 64]) }, sequence: 41 };

    #[test]
    fn every_byte_is_where_the_table_says() {
        let prefix = HEADER.prefix();
        assert_eq!(prefix[..8], *b"MSLT\x01\0\x01\0");
        assert_eq!(prefix[8..20], [41, 0, 0, 0, 0xE8, 3, 0, 0, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(prefix[20..84], [9; 64]);
        assert_eq!(prefix[84..88], checksum(&prefix[..84]).to_le_bytes());
        assert_eq!(prefix[256..260], *b"DONE");
        assert_eq!(prefix[260..264], prefix[84..88]);
        assert!(prefix[88..256].iter().chain(&prefix[264..]).all(|&byte| byte == 0xFF));
    }

    #[test]
    fn a_header_survives_writing_and_any_flipped_bit_does_not() {
        let block = HEADER.block();
        assert_eq!(Header::parse(&block), Ok(HEADER));
        for bit in 0..8 * HEADER_LEN {
            let mut damaged = block;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&damaged), Err(Fault::Header), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut block = HEADER.block();
        block[4] = 2;
        let own = checksum(&block[..84]);
        block[84..88].copy_from_slice(&own.to_le_bytes());
        assert_eq!(Header::parse(&block), Err(Fault::Version { found: 2 }));
    }
}
