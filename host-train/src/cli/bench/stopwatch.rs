//! Times training as an observer of it.

use std::time::{Duration, Instant};

use super::{Speed, machine};
use crate::cli::settings::BackendName;
use crate::trainer::{Done, Observer, Saved, Verdict};

/// A group of steps takes at least this long.
const GROUP: Duration = Duration::from_millis(100);

/// Groups to time, at least.
const GROUPS: usize = 3;

/// Steps of the warm-up after the first one, at least; two where they take longer than all timing.
const WARM_UP: usize = 5;

/// Waits for the first step, lets training warm up, times groups of steps, stops.
pub(super) struct Stopwatch {
    begun: Instant,
    wanted: Duration,
    batch: usize,
    backend: BackendName,
    phase: Phase,
    to_first_step: Duration,
    /// Images a second of each group.
    rates: Vec<f64>,
    loss: f32,
    memory: Option<u64>,
}

/// What is being done.
enum Phase {
    First,
    WarmUp { since: Instant, steps: usize },
    Timing { since: Instant, group: Instant, steps: usize },
}

impl Stopwatch {
    /// Of a command that began at `begun`; it times for `wanted`.
    pub(super) fn new(begun: Instant, wanted: Duration, batch: usize, backend: BackendName) -> Self {
        let (phase, to_first_step, rates) = (Phase::First, Duration::ZERO, Vec::new());
        Self { begun, wanted, batch, backend, phase, to_first_step, rates, loss: 0.0, memory: None }
    }

    /// What was measured.
    pub(super) fn speed(mut self, parameters: usize) -> Speed {
        self.rates.sort_by(f64::total_cmp);
        let groups = self.rates.len();
        Speed {
            images_per_second: (self.rates[(groups - 1) / 2] + self.rates[groups / 2]) / 2.0,
            least: self.rates[0],
            most: self.rates[groups - 1],
            groups,
            seconds_to_first_step: self.to_first_step.as_secs_f64(),
            memory_bytes: self.memory,
            loss: self.loss,
            parameters,
        }
    }

    /// `count` steps, none of them heard before, are done at `now`.
    fn hear(&mut self, count: usize, now: Instant) -> Verdict {
        let wanted = self.wanted;
        match &mut self.phase {
            Phase::First => {
                self.to_first_step = now - self.begun;
                self.phase = Phase::WarmUp { since: now, steps: 0 };
            }
            Phase::WarmUp { since, steps } => {
                *steps += count;
                let (took, steps) = (now - *since, *steps);
                if (steps >= WARM_UP && took >= wanted / 5) || (steps >= 2 && took >= wanted) {
                    self.phase = Phase::Timing { since: now, group: now, steps: 0 };
                }
            }
            Phase::Timing { since, group, steps } => {
                *steps += count;
                let took = now - *group;
                if took >= GROUP {
                    self.rates.push(self.batch as f64 * *steps as f64 / took.as_secs_f64());
                    (*group, *steps) = (now, 0);
                }
                if now - *since >= wanted && self.rates.len() >= GROUPS {
                    return Verdict::Stop;
                }
            }
        }
        Verdict::GoOn
    }
}

impl Observer for Stopwatch {
    fn begin(&mut self, _: &Saved) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_due(&self, step: u64, _: u64) -> bool {
        step == 1
    }

    fn steps(&mut self, done: &[Done], _: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict> {
        self.loss = done.last().map_or(self.loss, |done| done.loss);
        let verdict = self.hear(done.len(), Instant::now());
        if verdict == Verdict::Stop {
            self.memory = machine::memory(self.backend);
        }
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 20 ms, but a first one of a second and a slow third group.
    #[test]
    fn the_first_steps_do_not_count_and_a_slow_group_does_not_move_the_median() {
        let begun = Instant::now();
        let mut stopwatch = Stopwatch::new(begun, Duration::from_millis(500), 10, BackendName::default());
        let mut now = begun + Duration::from_secs(1);
        let (mut steps, mut verdict) = (1, stopwatch.hear(1, now));
        while verdict == Verdict::GoOn {
            steps += 1;
            now += Duration::from_millis(if steps == 18 { 220 } else { 20 });
            verdict = stopwatch.hear(1, now);
        }
        let speed = stopwatch.speed(7);
        assert_eq!((speed.groups, speed.parameters, speed.seconds_to_first_step), (3, 7, 1.0));
        assert!((speed.images_per_second - 500.0).abs() < 1e-6 && speed.most == speed.images_per_second, "{speed:?}");
        assert!(speed.least < 250.0, "{speed:?}");
    }

    /// As a GPU's are: read once a second, 50 at a time.
    #[test]
    fn steps_that_are_read_together_are_counted_each() {
        let begun = Instant::now();
        let mut stopwatch = Stopwatch::new(begun, Duration::from_secs(3), 2, BackendName::default());
        let mut now = begun + Duration::from_secs(9);
        let mut verdict = stopwatch.hear(1, now);
        while verdict == Verdict::GoOn {
            now += Duration::from_secs(1);
            verdict = stopwatch.hear(50, now);
        }
        let speed = stopwatch.speed(1);
        assert_eq!((speed.images_per_second, speed.groups, speed.seconds_to_first_step), (100.0, 3, 9.0));
    }

    #[test]
    fn steps_longer_than_all_timing_are_timed_three_times_after_two() {
        let begun = Instant::now();
        let mut stopwatch = Stopwatch::new(begun, Duration::from_millis(500), 1, BackendName::default());
        let stops: Vec<bool> =
            (1..=6).map(|step| stopwatch.hear(1, begun + Duration::from_secs(step)) == Verdict::Stop).collect();
        assert_eq!(stops, [false, false, false, false, false, true]);
        let speed = stopwatch.speed(1);
        assert_eq!((speed.images_per_second, speed.groups), (1.0, 3));
    }
}
