//! Training: the optimizer, averages of the weights, the loop that can be killed, and the teacher's loss.

mod adamw;
mod batch;
mod checkpoint;
mod ema;
mod fit;
mod guard;
mod lead;
mod learning_rate;
mod loss_by_noise;
mod post_hoc;
mod progressing;
mod run_log;
mod step_random;
mod teacher;
#[cfg(test)]
mod tests;
mod validation;
mod watch;

pub use adamw::{AdamW, OptimizerConfig};
pub use batch::Batch;
pub use checkpoint::{Checkpoints, Keep, Saved, read_denoiser};
pub use ema::{Ema, Profile, Snapshots};
pub use fit::{Diverged, Done, Fit, Interrupted, Observer, Part, Task, Verdict, interrupt_flag};
pub use guard::Divergence;
pub use learning_rate::Decay;
pub use loss_by_noise::{Bin, LossByNoise};
pub use post_hoc::{Average, Combination, combine};
pub use progressing::Progressing;
pub use run_log::RunLog;
pub(crate) use step_random::StepRandom;
pub use teacher::{Placement, Plan, TeacherConfig, TeacherTask};
pub use validation::{Validated, Validation};
pub use watch::{Best, Watch, WatchConfig, Watching};
