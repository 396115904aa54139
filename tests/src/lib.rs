//! What crosses Mote's crates. The tests are in `tests/`; here is what they share.

pub mod placement;
pub mod programs;
pub mod unet;
