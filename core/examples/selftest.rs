//! The self-test as a WebAssembly module: what `tests/tests/wasm.rs` runs, and a first step into a browser.

use mote_core::kernel::{Chosen, parity};
use mote_core::selftest;

/// The self-test's checksum, [`selftest::EXPECTED`] if all is well; 0 if anything differs.
#[unsafe(no_mangle)]
pub extern "C" fn run_selftest() -> u32 {
    selftest::run().unwrap_or(0)
}

/// How many of the random cases below `cases` the chosen kernels compute as the reference does, up to the first that differs.
#[unsafe(no_mangle)]
pub extern "C" fn equal_cases(cases: u32) -> u32 {
    (0..cases).find(|&case| parity::check::<Chosen>(case).is_err()).unwrap_or(cases)
}
