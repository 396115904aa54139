//! Samples of a `.mote` file drawn on this machine, by the code that runs on the chip.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use mote_core::{Generator, Model, Request, aligned};
use rayon::prelude::*;

use super::npy::Samples;

/// Draws `n` samples: sample i is stream `(seed, i)` with class `i % classes`. Samples are drawn in parallel; `progress`
/// hears how many are done, from any thread.
///
/// # Errors
/// If `file` is not a model this version reads.
pub fn draw(file: &[u8], seed: u64, n: usize, progress: impl Fn(usize) + Sync) -> anyhow::Result<Samples> {
    let model = Model::parse(file).context("not a usable model")?;
    let mut pixels = vec![0; n * model.sample_len()];
    let done = AtomicUsize::new(0);
    let arena = || vec![0u8; model.arena_len() + 3];
    pixels.par_chunks_exact_mut(model.sample_len()).enumerate().try_for_each_init(arena, |arena, (index, out)| {
        let class = (index % usize::from(model.classes())) as u16;
        let mut generator = Generator::new(&model, aligned(arena)).context("cannot use the arena")?;
        generator.start(Request { class, seed, sample: index as u64, first_row: 0 })?;
        generator.finish();
        out.iter_mut().zip(generator.pixels()).for_each(|(out, pixel)| *out = pixel);
        progress(1 + done.fetch_add(1, Ordering::Relaxed));
        anyhow::Ok(())
    })?;
    Ok(Samples { pixels, shape: [n, model.height(), model.width(), model.channels()] })
}
