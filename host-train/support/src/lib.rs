//! Files that are whole or absent, progress on standard error, logs of training.

pub mod csv_log;
pub mod dashboard;
pub mod files;
pub mod progress;
pub mod tensorboard;
