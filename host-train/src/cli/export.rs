//! `mote-train export`.

use std::path::PathBuf;

use super::student;
use crate::files;
use crate::quantize::onnx::to_onnx;

/// Writes the run's student as an ONNX network for other runtimes, quantized like the int8 model.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    student: student::Args,
    /// The network's file
    #[arg(long, value_name = "FILE")]
    onnx: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (graph, calibration) = args.student.calibrated()?;
    let file = to_onnx(&graph, &calibration);
    files::write_atomically(&args.onnx, &file)?;
    let conditions = graph.rows.len() * graph.classes;
    println!(
        "Wrote {}: {} bytes, inputs x and condition (row * {} + class, below {conditions}), output f",
        args.onnx.display(),
        file.len(),
        graph.classes
    );
    Ok(())
}
