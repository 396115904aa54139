//! The kernels on this machine: instructions where the system counts them (Linux on a processor whose counters it may
//! read), else time.

use super::{HOST, Quantity, Report, Row, take_off};
use anyhow::Result;
use kernel_cases::{Case, Memory, Meter};
use std::time::Instant;

/// How often everything runs; the least of each case counts.
const ROUNDS: usize = 100;

/// Measures every case.
pub(super) fn measure() -> Result<Report> {
    let (quantity, reading) = gauge();
    let mut memory = Box::new(Memory::new());
    let mut least = Least { reading, begun_at: 0, next: 0, rows: Vec::new() };
    for _ in 0..ROUNDS {
        least.next = 0;
        kernel_cases::run(&mut memory, &mut least);
    }
    let mut rows = least.rows;
    take_off(&mut rows)?;
    let notes = match quantity {
        Quantity::Instructions => Vec::new(),
        Quantity::Nanoseconds => vec!["instructions: this system does not count them, so this is time".to_owned()],
    };
    Ok(Report { target: HOST, processor: "this machine", quantity, models: Vec::new(), notes, rows })
}

/// What is read before and after a kernel, and grows by what the kernel costs.
fn gauge() -> (Quantity, Box<dyn FnMut() -> u64>) {
    #[cfg(target_os = "linux")]
    if let Ok(mut counter) = perf_event::Builder::new().build()
        && counter.enable().is_ok()
    {
        return (Quantity::Instructions, Box::new(move || counter.read().unwrap_or_default()));
    }
    let started = Instant::now();
    (Quantity::Nanoseconds, Box::new(move || started.elapsed().as_nanos() as u64))
}

/// The least of each case.
struct Least {
    reading: Box<dyn FnMut() -> u64>,
    begun_at: u64,
    /// Which case comes next in this round.
    next: usize,
    rows: Vec<Row>,
}

impl Meter for Least {
    fn begin(&mut self) {
        self.begun_at = (self.reading)();
    }

    fn end(&mut self, case: &Case) {
        let amount = (self.reading)() - self.begun_at;
        let Case { op, shape, work, scratch_bytes, beyond } = *case;
        match self.rows.get_mut(self.next) {
            Some(row) => row.amount = row.amount.min(amount),
            None => self.rows.push(Row::new(op, shape, work, scratch_bytes as u64, beyond, amount)),
        }
        self.next += 1;
    }
}
