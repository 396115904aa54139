//! `mote-train quantize`.

use std::path::PathBuf;

use mote_core::plan::Room;
use mote_core::{Generator, Model, Request, aligned};
use serde::Serialize;

use super::student::{self, CALIBRATION_SEED};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::quantize::{Graph, NoObserver, Sampler, export};
use crate::run_dir::RunDir;

/// Calibrates the run's student on its own sampling trajectories and writes the int8 model.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    student: student::Args,
    /// The model's file [default: DIR/model.mote]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Bytes of arena that the chip has room for: more than the least make drawing faster [default: as a chip with 64 KiB of RAM]
    #[arg(long, value_name = "BYTES")]
    arena: Option<usize>,
}

/// What the manifest says of the quantized model.
#[derive(Serialize)]
struct Record {
    command: String,
    file_sha256: String,
    file_bytes: usize,
    arena_bytes: usize,
    macs_per_pass: usize,
    calibration_samples: u32,
    calibration_seed: u64,
    /// Root mean square difference of int8 from float samples of the same noise, data from -1 to 1.
    difference_from_float: f32,
}

/// Samples on which int8 is compared with float.
const COMPARED: u64 = 50;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (graph, calibration) = args.student.calibrated()?;
    let exported = export(&graph, &calibration, args.arena.map_or(Room::Usual, Room::Bytes))?;
    let model = Model::parse(&exported.file)?;
    let difference = difference_from_float(&graph, &model)?;

    let out = args.out.unwrap_or_else(|| args.student.run.join("model.mote"));
    files::write_atomically(&out, &exported.file)?;
    let record = Record {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        file_sha256: files::sha256(&exported.file),
        file_bytes: exported.file.len(),
        arena_bytes: model.arena_len(),
        macs_per_pass: graph.macs(),
        calibration_samples: args.student.samples,
        calibration_seed: CALIBRATION_SEED,
        difference_from_float: difference,
    };
    RunDir::create(&args.student.run)?.record("model", &record)?;
    println!(
        "Wrote {}: {} bytes, arena {} bytes, {:.2} M multiply-accumulates a pass, {} passes; int8 differs from float by {:.4} \
         (root mean square, data from -1 to 1)",
        out.display(),
        record.file_bytes,
        record.arena_bytes,
        record.macs_per_pass as f64 / 1e6,
        model.rows(),
        difference
    );
    Ok(())
}

fn difference_from_float(graph: &Graph, model: &Model<'_>) -> anyhow::Result<f32> {
    let mut arena = vec![0u8; model.arena_len() + 3];
    let mut generator = Generator::new(model, aligned(&mut arena))?;
    let mut float = Sampler::new(graph);
    let (mut squares, mut count) = (0.0, 0usize);
    for sample in 0..COMPARED {
        let class = (sample % graph.classes as u64) as u16;
        let request = Request { class, seed: SAMPLING_SEED, sample, ..Request::default() };
        generator.start(request)?;
        generator.finish();
        let expected = float.draw(request, &mut NoObserver);
        for (want, &got) in expected.iter().zip(generator.state()) {
            squares += (want - f32::from(got) / f32::from(mote_core::quant::STATE_ONE)).powi(2);
            count += 1;
        }
    }
    Ok((squares / count as f32).sqrt())
}
