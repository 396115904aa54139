//! What crosses the crates: see `tests/`.
