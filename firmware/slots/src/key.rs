//! Signed models: ed25519 (RFC 8032) over the file's bytes as they are, so that other tools can sign and check too.

use crate::{Fault, Manifest, read_all};
use ed25519_compact::Signature;
use embedded_storage::nor_flash::ReadNorFlash;

/// An ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The key that the build was given in the environment variable `MOTE_PUBLIC_KEY`, 64 hexadecimal digits:
/// `cargo xtask flash --key` sets it. Every [`Slots`](crate::Slots) then refuses what is not signed with it.
pub const SIGNING_REQUIRED_BY_BUILD: Option<PublicKey> = match option_env!("MOTE_PUBLIC_KEY") {
    Some(hex) => Some(PublicKey::from_hex(hex).expect("MOTE_PUBLIC_KEY must have 64 hexadecimal digits")),
    None => None,
};

impl PublicKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The key that 64 hexadecimal digits name.
    pub const fn from_hex(hex: &str) -> Option<PublicKey> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        let mut i = 0;
        while i < 64 {
            let digit = match digits[i] {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                digit @ b'A'..=b'F' => digit - b'A' + 10,
                _ => return None,
            };
            bytes[i / 2] = bytes[i / 2] << 4 | digit;
            i += 1;
        }
        Some(PublicKey(bytes))
    }

    /// Whether the model in flash is signed with this key. It is read once, piece by piece.
    pub(crate) fn check<F: ReadNorFlash>(&self, flash: &mut F, offset: u32, manifest: &Manifest) -> Result<(), Fault> {
        let signature = Signature::new(manifest.signature.ok_or(Fault::Unsigned)?);
        let key = ed25519_compact::PublicKey::new(self.0);
        let mut state = key.verify_incremental(&signature).map_err(|_| Fault::Signature)?;
        read_all(flash, offset, manifest.len, |part| state.absorb(part))?;
        state.verify().map_err(|_| Fault::Signature)
    }
}
