//! What the operations of a `.mote` file are in words, and what they cost: bytes of flash, and instructions on the emulated
//! processors whose kernels were counted.

mod constants;
mod instructions;
mod words;

pub use constants::Constants;
pub use instructions::Prices;
pub use words::in_words;
