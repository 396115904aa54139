//! `inspect`: everything about a `.mote` file, before anything is flashed.

mod estimate;
mod layers;
mod memory;
mod picture;

use crate::model_file;
use anyhow::Result;
use clap::Args;
use mote_core::model::Op;
use mote_core::{Generator, Model};
use std::fmt::Write;
use std::path::PathBuf;

/// The step table's unit: coefficients are Q20.
const Q20: f64 = (1 << 20) as f64;

/// Arguments of `inspect`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The .mote file
    file: PathBuf,
    /// Also draw what lies where in the arena, as an .svg or a .png file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Prints the model's totals, step table, operations, file, memory and estimated times.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let model = model_file::read(&arguments.file)?;
    print!("{}", report(&model)?);
    if let Some(path) = &arguments.plot {
        picture::write(&model, path)?;
        println!("\n{}", path.display());
    }
    Ok(())
}

fn report(model: &Model<'_>) -> Result<String> {
    let mut out = String::new();
    summary(model, &mut out)?;
    steps(model, &mut out)?;
    layers::operations(model, &mut out)?;
    layers::tensors(model, &mut out)?;
    layers::sections(model, &mut out)?;
    memory::chart(model, &mut out)?;
    estimate::table(model, &mut out)?;
    Ok(out)
}

fn summary(model: &Model<'_>, out: &mut String) -> Result<()> {
    let (file, arena, rows, macs) = (model.bytes().len(), model.arena_len(), model.rows(), macs(model));
    let generator = size_of::<Generator<'_, '_>>() + size_of::<Model<'_>>();
    writeln!(out, "{} ({:08x})", model.name(), model.checksum())?;
    writeln!(out, "  sample      {} x {} x {}", model.height(), model.width(), model.channels())?;
    writeln!(out, "  classes     {}", model.classes())?;
    writeln!(out, "  flash       {file} bytes: this file, beside the program")?;
    writeln!(out, "  RAM         {arena} bytes of arena and at most {generator} of generator, beside the stack")?;
    writeln!(out, "  one pass    {} operations, {macs} multiply-accumulates", model.ops())?;
    writeln!(out, "  one sample  {rows} passes, {} multiply-accumulates", macs * u64::from(rows))?;
    Ok(())
}

fn steps(model: &Model<'_>, out: &mut String) -> Result<()> {
    writeln!(out, "\nstep table: x0 = clamp(p x + q f), then x <- a x + b x0 + b_prev x0_prev + c z")?;
    writeln!(
        out,
        "{:>4} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "row", "timestep", "p", "q", "a", "b", "b_prev", "c"
    )?;
    for index in 0..model.rows() {
        let row = model.row(index);
        write!(out, "{index:>4} {:>8}", row.timestep)?;
        for coefficient in [row.p, row.q, row.a, row.b, row.b_prev, row.c] {
            write!(out, " {:>9.5}", f64::from(coefficient) / Q20)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn op_macs(op: &Op<'_>) -> u64 {
    match op {
        Op::Conv(op) => op.shape.macs(),
        Op::Attention(op) => op.shape.macs(),
    }
}

fn macs(model: &Model<'_>) -> u64 {
    (0..model.ops()).map(|index| op_macs(&model.op(index))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::selftest;

    /// The report of the self-test's model. To accept a new one: `UPDATE=1 cargo test -p xtask inspect`.
    #[test]
    fn the_report_of_the_self_tests_model_is_the_golden_one() {
        const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/inspect_selftest.txt");
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        let report = report(&model).unwrap();
        // Times change with the kernels.
        let (report, times) = report.split_once("\nestimated time").unwrap();
        assert!(times.lines().count() > 8, "{times}");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(GOLDEN, report).unwrap();
        }
        assert_eq!(report, std::fs::read_to_string(GOLDEN).unwrap());
    }

    #[test]
    fn no_line_is_wider_than_140_columns() {
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        for line in report(&model).unwrap().lines() {
            assert!(line.chars().count() <= 140, "{line}");
        }
    }
}
