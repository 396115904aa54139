//! Progress on standard error: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const EVERY: Duration = Duration::from_secs(10);

/// One task's progress.
#[derive(Debug)]
pub struct Progress {
    task: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    /// When the last plain line was written.
    last: Mutex<Instant>,
}

impl Progress {
    /// A task that has not begun.
    pub fn new(task: &str) -> Self {
        let template = "{msg} {wide_bar} {pos}/{len}, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        if let Some(bar) = &bar {
            bar.set_message(task.to_owned());
        }
        let now = Instant::now();
        Self { task: task.to_owned(), bar, begun: now, last: Mutex::new(now) }
    }

    /// `done` of `of` parts are done; calls from several threads may come in any order.
    pub fn update(&self, done: usize, of: usize) {
        self.update_with(done, of, "");
    }

    /// The same, with a word on how it goes, such as the loss.
    pub fn update_with(&self, done: usize, of: usize, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            if !note.is_empty() {
                bar.set_message(format!("{}, {note}", self.task));
            }
            return;
        }
        let mut last = self.last.lock().expect("no panic while held");
        if last.elapsed() >= EVERY {
            *last = Instant::now();
            let elapsed = self.begun.elapsed().as_secs_f64();
            let left = elapsed / done.max(1) as f64 * of.saturating_sub(done) as f64;
            let rate = done as f64 / elapsed;
            let comma = if note.is_empty() { "" } else { ", " };
            eprintln!("{}{comma}{note}: {done}/{of}, {rate:.1}/s, {left:.0} s left", self.task);
        }
    }

    /// Leaves the finished bar where it is.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
