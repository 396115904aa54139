//! The one front door: `cargo xtask <verb>`.
fn main() {}
