//! Training: the optimizer, the loop that can be killed, and the teacher's loss.

mod adamw;
mod fit;
mod teacher;

pub use adamw::{AdamW, Decay, OptimizerConfig};
pub use fit::{Fit, Interrupted, Progressing, Saved, interrupt_flag};
pub(crate) use teacher::StepRandom;
pub use teacher::{Batch, TeacherConfig, TeacherTask};
