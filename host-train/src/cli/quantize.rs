//! `mote-train quantize`.

mod report;

use std::path::PathBuf;

use burn::backend::{Autodiff, Flex};
use mote_core::kernel::WeightBits;
use mote_core::model::Op;
use mote_core::plan::Room;
use mote_core::{Generator, Model, Request, aligned};
use serde::Serialize;

use super::student::{self, CALIBRATION_SEED};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::progress::Progress;
use crate::quantize::{
    Calibration, Exported, Graph, NoObserver, Precision, Sampler, States, Windows, bytes, compensated, damage_of,
    export_again, export_with, narrow, nearest, windows, within_budget,
};
use crate::quantize_aware::{QuantizeAwareConfig, train};
use crate::run_dir::RunDir;

/// States of decisions and of training are those of other samples than calibration's and evaluation's.
pub(super) const STATES_SEED: u64 = CALIBRATION_SEED + 1;
/// Samples on whose states what is stored in fewer bits is decided.
const DECIDING: usize = 20;

/// Calibrates the run's student on its own sampling trajectories and writes a model of integers.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    student: student::Args,
    /// The model's file [default: DIR/model.mote]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Bytes of arena that the chip has room for: more than the least make drawing faster [default: as a chip with 64 KiB of RAM]
    #[arg(long, value_name = "BYTES", value_parser = super::amount)]
    arena: Option<usize>,
    /// Bits of weights and of activations
    #[arg(long, value_enum, default_value_t, conflicts_with = "budget")]
    bits: Bits,
    /// Weights of 4 bits in as many layers as the file needs to have at most so many bytes: those where they do least damage
    #[arg(long, value_name = "BYTES", value_parser = super::amount)]
    budget: Option<usize>,
    /// How weights of 4 bits are rounded
    #[arg(long, value_enum, default_value_t)]
    rounding: RoundingName,
    /// Store tensors of the residual stream in 8 bits instead of 16, those that do least damage first, as long as the mean
    /// squared error in x0 grows by at most so many percent: a smaller arena
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    narrow: f64,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    report: report::ReportArgs,
}

/// Bits of weights and of activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Bits {
    /// 8 and 8 (16 in the residual stream)
    #[default]
    W8a8,
    /// 4 and 8: half the flash, more damage
    W4a8,
}

/// How weights of 4 bits are rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum RoundingName {
    /// So that the layer's results change least on calibration's windows
    #[default]
    Compensated,
    /// Each to the nearest step
    Nearest,
}

/// Training of the rounded network to say what the float student says.
#[derive(Debug, clap::Args)]
struct TrainingArgs {
    /// Steps of quantization-aware training; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0)]
    train_steps: u64,
    /// Its greatest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 1e-4)]
    learning_rate: f64,
    /// States a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Trajectories of the student whose states are trained on
    #[arg(long, value_name = "N", default_value_t = 400)]
    trajectories: usize,
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
    /// Layers whose weights have 4 bits.
    layers_of_4_bits: Vec<usize>,
    /// Steps of quantization-aware training.
    training_steps: u64,
    /// Root mean square difference of int8 from float samples of the same noise, data from -1 to 1.
    difference_from_float: f32,
}

/// Samples on which int8 is compared with float.
const COMPARED: u64 = 50;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (graph, calibration) = args.student.calibrated()?;
    let quantized = args.quantize(&graph, &calibration)?;
    let exported = &quantized.exported;
    let model = Model::parse(&exported.file)?;
    let difference = difference_from_float(&graph, &model)?;

    let run = &args.student.student.run;
    let out = args.out.unwrap_or_else(|| run.join("model.mote"));
    files::write_atomically(&out, &exported.file)?;
    let record = Record {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        file_sha256: files::sha256(&exported.file),
        file_bytes: exported.file.len(),
        arena_bytes: model.arena_len(),
        macs_per_pass: graph.macs(),
        calibration_samples: args.student.samples,
        calibration_seed: CALIBRATION_SEED,
        layers_of_4_bits: layers_of_4_bits(&model),
        training_steps: args.training.train_steps,
        difference_from_float: difference,
    };
    RunDir::create(run)?.record("model", &record)?;
    println!(
        "Wrote {}: {} bytes, arena {} bytes, {:.2} M multiply-accumulates a pass, {} passes; integers differ from floats by {:.4} \
         (root mean square, data from -1 to 1)",
        out.display(),
        record.file_bytes,
        record.arena_bytes,
        record.macs_per_pass as f64 / 1e6,
        model.rows(),
        difference
    );
    args.report.write(run, &graph, &quantized, args.student.samples as usize)
}

/// A file and the network that it was made of: the student's, or the student's trained for its rounding.
struct Quantized {
    graph: Graph,
    exported: Exported,
}

impl Args {
    fn quantize(&self, graph: &Graph, calibration: &Calibration) -> anyhow::Result<Quantized> {
        let room = self.arena.map_or(Room::Usual, Room::Bytes);
        let seen: Vec<Option<Windows>> = match (self.bits, self.budget, self.rounding) {
            (Bits::W8a8, None, _) | (_, _, RoundingName::Nearest) => Vec::new(),
            _ => windows(graph, CALIBRATION_SEED, self.student.samples as usize),
        };
        let nibbles = || match self.rounding {
            RoundingName::Compensated => compensated(graph, &seen),
            RoundingName::Nearest => nearest(graph),
        };
        let states = || States::draw(graph, STATES_SEED, DECIDING);
        let weights = match (self.bits, self.budget) {
            (_, Some(budget)) => within_budget(graph, calibration, &nibbles(), &states(), budget)?,
            (Bits::W4a8, None) => nibbles(),
            (Bits::W8a8, None) => bytes(graph),
        };
        let mut precision = Precision { weights, ..Precision::bytes(graph) };
        if self.narrow > 0.0 {
            let decided = narrow(graph, calibration, &mut precision, &states(), self.narrow / 100.0)?;
            for one in &decided {
                let [height, width, channels] = graph.tensors[one.tensor].shape;
                let bits = if one.kept { 8 } else { 16 };
                println!(
                    "tensor {:>2}, {height}x{width}x{channels}: {bits} bits; error in x0 with 8: {:.5}",
                    one.tensor,
                    one.damage.sqrt()
                );
            }
        }
        let exported = export_with(graph, calibration, &precision, room)?;
        if self.training.train_steps == 0 {
            return Ok(Quantized { graph: graph.clone(), exported });
        }
        let trained = self.training.train(graph, &exported)?;
        let after = export_again(&trained, &exported, room)?;
        let unseen = States::draw(graph, SAMPLING_SEED, DECIDING);
        println!(
            "Trained for {} steps: error in x0 {:.5} before, {:.5} after (root mean square, data from -1 to 1)",
            self.training.train_steps,
            damage_of(graph, graph, &exported, &unseen).sqrt(),
            damage_of(graph, &trained, &after, &unseen).sqrt()
        );
        Ok(Quantized { graph: trained, exported: after })
    }
}

impl TrainingArgs {
    fn train(&self, graph: &Graph, exported: &Exported) -> anyhow::Result<Graph> {
        let Self { train_steps: steps, learning_rate, batch, trajectories } = *self;
        let wrong = |what: &str| Err(super::Usage(format!("{what} must be greater than 0")).into());
        if batch == 0 || trajectories == 0 {
            return wrong(if batch == 0 { "--batch" } else { "--trajectories" });
        }
        if learning_rate.is_nan() || learning_rate <= 0.0 {
            return wrong("--learning-rate");
        }
        let config = QuantizeAwareConfig { steps, batch, learning_rate, seed: STATES_SEED };
        let states = States::draw(graph, STATES_SEED, trajectories);
        let bar = Progress::new("training for quantization");
        let report = |done: u64, loss: f32| bar.update_with(done as usize, steps as usize, &format!("loss {loss:.6}"));
        let trained = train::<Autodiff<Flex>>(graph, exported, &states, &config, report)?;
        bar.finish();
        Ok(trained)
    }
}

fn layers_of_4_bits(model: &Model<'_>) -> Vec<usize> {
    let four = |&op: &u16| matches!(model.op(op), Op::Conv(conv) if conv.weight_bits() == WeightBits::Four);
    (0..model.ops()).filter(four).map(usize::from).collect()
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
