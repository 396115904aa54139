//! Files that are whole or absent, and progress on standard error.

pub mod files;
pub mod progress;
