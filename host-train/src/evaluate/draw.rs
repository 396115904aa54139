//! Samples of a `.mote` file drawn on this machine, by the code that runs on the chip.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use mote_core::pixels::to_u8;
use mote_core::quant::STATE_ONE;
use mote_core::{Generator, Model, Request, aligned};
use rayon::prelude::*;

use super::npy::Samples;
use crate::dataset::{SampleShape, Values};

/// Draws `n` samples: sample i is stream `(seed, i)` with class `i % classes`. Images are the chip's pixels, all
/// else is the state as floats. Samples are drawn in parallel; `progress` hears how many are done, from any thread.
///
/// # Errors
/// If `file` is not a model this version reads.
pub fn draw(file: &[u8], seed: u64, n: usize, progress: impl Fn(usize) + Sync) -> anyhow::Result<Samples> {
    let model = Model::parse(file).context("not a usable model")?;
    let shape = SampleShape { height: model.height(), width: model.width(), channels: model.channels() };
    let mut states = vec![0; n * shape.len()];
    let done = AtomicUsize::new(0);
    let arena = || vec![0u8; model.arena_len() + 3];
    states.par_chunks_exact_mut(shape.len()).enumerate().try_for_each_init(arena, |arena, (index, out)| {
        let class = (index % usize::from(model.classes())) as u16;
        let mut generator = Generator::new(&model, aligned(arena)).context("cannot use the arena")?;
        generator.start(Request { class, seed, sample: index as u64, ..Request::default() })?;
        generator.finish();
        out.copy_from_slice(generator.state());
        progress(1 + done.fetch_add(1, Ordering::Relaxed));
        anyhow::Ok(())
    })?;
    let values = match shape.is_image() {
        true => Values::Bytes(states.into_iter().map(to_u8).collect()),
        false => Values::Floats(states.into_iter().map(|x| f32::from(x) / f32::from(STATE_ONE)).collect()),
    };
    Ok(Samples { values, shape })
}
