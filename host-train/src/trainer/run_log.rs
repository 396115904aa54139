//! A training's numbers: CSV files, TensorBoard events, and the progress that the user sees.
//!
//! `train.csv` has a row a step, `validation.csv` and `scores.csv` one a measurement; the folder is TensorBoard's, too.
//! When training goes on from a checkpoint, what was logged after it is taken back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::Saved;
use super::fit::Done;
use super::progressing::Recent;
use crate::csv_log::{self, CsvLog};
use crate::dashboard::{Dashboard, Key, Message};
use crate::evaluate::noise_levels::noise_levels;
use crate::evaluate::score::Score;
use crate::progress::Progress;
use crate::tensorboard::EventWriter;
const TRAIN: &str = "step,loss,gradient_norm,learning_rate,seconds";
const SCORES: &str = "step,n,frechet,precision,recall,accuracy";
/// Time between two writings of the steps' numbers.
const FLUSH: Duration = Duration::from_secs(5);

/// What the user asked for since the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) stop: bool,
    pub(super) sample: bool,
}

/// A teacher's log.
pub struct RunLog {
    folder: PathBuf,
    /// Where the user sees it, if there is no dashboard.
    bar: Progress,
    dashboard: Option<Dashboard>,
    recent: Recent,
    begun: Instant,
    open: Option<Open>,
}

/// What is open while training.
struct Open {
    train: CsvLog,
    events: EventWriter,
    flushed: Instant,
}

impl RunLog {
    /// Logs in `folder`, and to the dashboard if there is one; plain progress if not.
    pub fn new(folder: PathBuf, title: &str, steps: u64, mut dashboard: Option<Dashboard>) -> Self {
        if let Some(dashboard) = &mut dashboard {
            dashboard.tell(&Message::Begin { steps, title: title.to_owned() });
        }
        let bar = Progress::new(title);
        Self { folder, bar, dashboard, recent: Recent::default(), begun: Instant::now(), open: None }
    }

    /// Training begins after the steps of `saved`.
    pub(super) fn begin(&mut self, saved: &Saved) -> anyhow::Result<()> {
        self.begun = Instant::now();
        for (step, &loss) in (1..).zip(&saved.losses) {
            self.recent.hear(loss);
            self.tell(Message::Before { step, loss: f64::from(loss) });
        }
        let train = CsvLog::open(&self.folder.join("train.csv"), TRAIN, saved.step())?;
        let events = EventWriter::create(&self.folder, saved.step() + 1)?;
        self.open = Some(Open { train, events, flushed: Instant::now() });
        Ok(())
    }

    /// A step is done.
    pub(super) fn step(&mut self, done: &Done) -> anyhow::Result<Wishes> {
        let &Done { step, steps, loss, norm, rate } = done;
        let seconds = format!("{:.3}", self.begun.elapsed().as_secs_f64());
        let open = self.open.as_mut().expect("a training begins before its first step");
        open.train.row(&[step.to_string(), loss.to_string(), norm.to_string(), format!("{rate:e}"), seconds])?;
        self.recent.hear(loss);
        let (loss, norm) = (f64::from(loss), f64::from(norm));
        let values = [("train/loss", loss), ("train/gradient_norm", norm), ("train/learning_rate", rate)];
        open.events.scalars(step, &values)?;
        if open.flushed.elapsed() >= FLUSH || step == steps {
            open.train.flush()?;
            open.events.flush()?;
            open.flushed = Instant::now();
        }
        match &mut self.dashboard {
            Some(dashboard) if dashboard.is_there() => {
                dashboard.tell(&Message::Step { step, loss, rate, norm });
                let keys = dashboard.keys();
                return Ok(Wishes { stop: keys.contains(&Key::Stop), sample: keys.contains(&Key::Sample) });
            }
            _ => self.bar.update_with(step as usize, steps as usize, &format!("loss {:.4}", self.recent.mean())),
        }
        Ok(Wishes::default())
    }

    /// What is done besides training, while it is done.
    pub(super) fn note(&mut self, note: &str) {
        self.tell(Message::Note(note.to_owned()));
    }

    fn tell(&mut self, message: Message) {
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.tell(&message);
        }
    }

    /// Logs a validation; whether it is the best so far.
    pub(super) fn validation(
        &mut self,
        step: u64,
        loss: f64,
        timesteps: &[usize],
        levels: &[f64],
    ) -> anyhow::Result<bool> {
        let header: String = timesteps.iter().map(|timestep| format!(",mse_{timestep}")).collect();
        let mut cells = vec![step.to_string(), loss.to_string()];
        cells.extend(levels.iter().map(f64::to_string));
        let csv = self.folder.join("validation.csv");
        let before = append(&csv, &format!("step,val_loss{header}"), 1, step, &cells)?;
        noise_levels(&csv, &self.folder.join("validation.png"), "Held-out loss by noise level")?;
        self.tell(Message::Validation { step, loss });
        self.measured("validation loss", format!("{loss:.4} at step {step}"));
        let tags: Vec<String> = timesteps.iter().map(|timestep| format!("validation/mse_{timestep}")).collect();
        let mut values = vec![("validation/loss", loss)];
        values.extend(tags.iter().map(String::as_str).zip(levels.iter().copied()));
        self.events(|events| events.scalars(step, &values))?;
        Ok(before.iter().all(|&least| loss < least))
    }

    /// Logs a score; whether it is the best so far.
    pub(super) fn score(&mut self, step: u64, score: &Score) -> anyhow::Result<bool> {
        let &Score { n, frechet, precision, recall, accuracy, .. } = score;
        let mut cells = vec![step.to_string(), n.to_string()];
        cells.extend([frechet, precision, recall].map(|value| value.to_string()));
        cells.push(accuracy.map(|accuracy| accuracy.to_string()).unwrap_or_default());
        let before = append(&self.folder.join("scores.csv"), SCORES, 2, step, &cells)?;
        self.measured("Fréchet distance", format!("{frechet:.3} of {n} at step {step}"));
        self.measured("precision, recall", format!("{precision:.3}, {recall:.3}"));
        let mut values = vec![("score/frechet", frechet), ("score/precision", precision), ("score/recall", recall)];
        if let Some(accuracy) = accuracy {
            self.measured("class accuracy", format!("{:.1} %", 100.0 * accuracy));
            values.push(("score/accuracy", accuracy));
        }
        self.events(|events| events.scalars(step, &values))?;
        Ok(before.iter().all(|&least| frechet < least))
    }

    /// Logs a picture of samples, a PNG file of `size` pixels.
    pub(super) fn picture(&mut self, step: u64, size: (u32, u32), png: &[u8]) -> anyhow::Result<()> {
        self.measured("samples", format!("step {step}"));
        self.events(|events| events.image(step, "samples", size, png))
    }

    /// The validations so far: step and loss.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn validations(&self) -> anyhow::Result<Vec<(u64, f64)>> {
        let path = self.folder.join("validation.csv");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&crate::files::read(&path)?).into_owned();
        let header = text.lines().next().unwrap_or("");
        let loss = |(step, row): (u64, String)| Some((step, row.split(',').nth(1)?.parse().ok()?));
        Ok(csv_log::rows(&path, header)?.into_iter().filter_map(loss).collect())
    }

    /// Training is over: the bar stays, the dashboard goes.
    pub fn finish(self) {
        if self.dashboard.is_none() {
            self.bar.finish();
        }
    }

    fn measured(&mut self, name: &str, value: String) {
        self.tell(Message::Measure { name: name.to_owned(), value });
    }

    fn events(&mut self, write: impl FnOnce(&mut EventWriter) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let open = self.open.as_mut().expect("a training begins before its first step");
        write(&mut open.events)?;
        open.events.flush()
    }
}

/// Adds the row of `step` to a log of measurements, without the later rows of a run that was stopped; the rows before have
/// these values in `column`.
fn append(path: &Path, header: &str, column: usize, step: u64, cells: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut log = CsvLog::open(path, header, step - 1)?;
    let value = |(_, row): (u64, String)| row.split(',').nth(column).and_then(|cell| cell.parse().ok());
    let before = csv_log::rows(path, header)?.into_iter().filter_map(value).collect();
    log.row(cells)?;
    log.flush()?;
    Ok(before)
}
