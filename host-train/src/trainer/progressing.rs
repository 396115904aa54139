//! Training on the progress bar.

use std::collections::VecDeque;

use super::checkpoint::Saved;
use super::fit::{Done, Observer, Verdict};
use crate::progress::Progress;

/// Losses averaged for display.
const WINDOW: usize = 100;

/// The last losses.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(VecDeque<f32>);

impl Recent {
    pub(super) fn hear(&mut self, loss: f32) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(loss);
    }

    pub(super) fn mean(&self) -> f32 {
        self.0.iter().sum::<f32>() / self.0.len() as f32
    }
}

/// Shows one of several stages on a bar.
pub struct Progressing<'a> {
    bar: &'a Progress,
    before: u64,
    total: u64,
    recent: Recent,
}

impl<'a> Progressing<'a> {
    /// A stage after `before` steps of other stages, of `total` of all.
    pub fn new(bar: &'a Progress, before: u64, total: u64) -> Self {
        Self { bar, before, total, recent: Recent::default() }
    }
}

impl Observer for Progressing<'_> {
    fn begin(&mut self, saved: &Saved) -> anyhow::Result<()> {
        saved.losses.iter().for_each(|&loss| self.recent.hear(loss));
        Ok(())
    }

    fn is_due(&self, _: u64, _: u64) -> bool {
        false
    }

    fn steps(&mut self, done: &[Done], _: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict> {
        done.iter().for_each(|done| self.recent.hear(done.loss));
        let (at, of) = (self.before + done.last().map_or(0, |done| done.step), self.total);
        self.bar.update_with(at as usize, of as usize, &format!("loss {:.4}", self.recent.mean()));
        Ok(Verdict::GoOn)
    }
}
