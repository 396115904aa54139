//! `mote-train report`.

use std::path::PathBuf;

use super::data::DataArgs;
use crate::evaluate::report::{ChipFiles, Inputs, report};
use crate::evaluate::score::Part;
use crate::progress::Progress;

/// Writes report.json and sheet.png into the run's folder and prints the table.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The int8 model [default: model.mote in the run's folder]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Samples drawn by the chip, an .npy file
    #[arg(long, value_name = "FILE", requires = "chip_stats")]
    chip: Option<PathBuf>,
    /// What was counted on the chip, a .json file
    #[arg(long, value_name = "FILE", requires = "chip")]
    chip_stats: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let loaded = args.data.load(None)?;
    let model = args.model.unwrap_or_else(|| args.run.join("model.mote"));
    let inputs = Inputs {
        run: &args.run,
        model: &model,
        chip: args.chip.zip(args.chip_stats).map(|(samples, stats)| ChipFiles { samples, stats }),
        dataset: &loaded.dataset,
        judge_sha256: loaded.judge_sha256.clone(),
    };
    let scorer = loaded.scorer(Part::HeldOut)?;
    let progress = Progress::new("drawing int8 samples");
    let report = report(&inputs, &scorer, |done, of| progress.update(done, of))?;
    progress.finish();
    print!("{report}");
    println!("Wrote {} and {}", args.run.join("report.json").display(), args.run.join("sheet.png").display());
    Ok(())
}
