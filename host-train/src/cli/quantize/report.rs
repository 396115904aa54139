//! What quantization does, layer by layer: a table, a JSON file and a picture of histograms.

use std::fmt::Write;
use std::path::Path;

use mote_core::Model;
use mote_core::kernel::WeightBits;
use mote_core::model::{Element, Op};
use mote_costs::{Constants, Prices, in_words};
use serde::Serialize;

use super::{CALIBRATION_SEED, Quantized, STATES_SEED};
use crate::evaluate::histograms::{Panel, histograms};
use crate::files;
use crate::quantize::{
    Agreement, Graph, Histogram, Input, States, calibrate_rows, compare, damage_of, damage_with_scales_by_row, damages,
    inputs,
};

/// How to report.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// Also report layer by layer: signal to noise, damage, saturation, flash, instructions; a table, DIR/quantize.json and
    /// histograms in DIR/quantize.png
    #[arg(long)]
    report: bool,
    /// The emulated board whose counted kernels price instructions
    #[arg(long, value_name = "BOARD", default_value = "qemu-m4", requires = "report")]
    board: String,
    /// Samples on whose way the layers are compared, classes in turn
    #[arg(long, value_name = "N", default_value_t = 20, requires = "report",
          value_parser = clap::value_parser!(u32).range(1..))]
    report_samples: u32,
}

/// One layer.
#[derive(Debug, Serialize)]
struct Layer {
    op: usize,
    what: String,
    /// Of a weight; none of an attention.
    weight_bits: Option<u8>,
    output: String,
    /// Of its output in integers from its output in floats, everything before it being integers too.
    signal_to_noise_db: f64,
    /// Root mean square error in x0 (data from -1 to 1) when this layer alone is rounded.
    damage: f64,
    /// Share of its output's integers at the ends of their type.
    saturated: f64,
    /// Share of its normalized inputs that the table's ends cut off.
    cut_off: Option<f64>,
    /// Bytes of its constants.
    flash: usize,
    /// In a pass, on the board: a model fitted to counts.
    instructions: f64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    board: &'a str,
    states: usize,
    /// Root mean square error in x0 when every layer is rounded.
    total_damage: f64,
    /// The same if each row of the step table had activation scales of its own, which no file can have.
    total_damage_with_scales_by_row: f64,
    layers: Vec<Layer>,
}

impl ReportArgs {
    /// Writes the report of what the float network `graph` became, calibrated on `calibrated` samples, into `dir`, and prints
    /// it, where it was asked for.
    pub(super) fn write(
        &self,
        dir: &Path,
        graph: &Graph,
        quantized: &Quantized,
        calibrated: usize,
    ) -> anyhow::Result<()> {
        if !self.report {
            return Ok(());
        }
        let Quantized { graph: other, exported } = quantized;
        let model = Model::parse(&exported.file)?;
        let prices = Prices::instructions(&self.board)?;
        let samples = self.report_samples as usize;
        let agreements = compare(graph, &model, STATES_SEED, samples)?;
        let states = States::draw(graph, STATES_SEED, samples);
        let (damages, inputs) = (damages(other, exported, &states), inputs(other, exported, &states));
        let rows = calibrate_rows(other, CALIBRATION_SEED, calibrated);
        let layer = |op: usize| {
            let stored = model.op(op as u16);
            Layer {
                op,
                what: in_words(&stored),
                weight_bits: weight_bits(&stored),
                output: output_shape(&model, &stored),
                signal_to_noise_db: agreements[op].decibels(),
                damage: damages[op].sqrt(),
                saturated: agreements[op].stored.saturation(),
                cut_off: inputs[op].as_ref().map(Input::cut_off_share),
                flash: Constants::of(&model, &stored).total(),
                instructions: prices.op(&stored),
            }
        };
        let report = Report {
            board: &self.board,
            states: samples * graph.rows.len(),
            total_damage: damage_of(graph, other, exported, &states).sqrt(),
            total_damage_with_scales_by_row: damage_with_scales_by_row(graph, other, exported, &rows, &states).sqrt(),
            layers: (0..graph.ops.len()).map(layer).collect(),
        };
        let [json, png] = ["quantize.json", "quantize.png"].map(|name| dir.join(name));
        files::write_atomically(&json, serde_json::to_string_pretty(&report)?.as_bytes())?;
        let title = format!("{}: stored numbers of {} states", graph.name, report.states);
        let panels = panels(&model, &report.layers, &agreements, &inputs);
        files::write_atomically(&png, &histograms(&title, &panels).to_png()?)?;
        print!("{}", table(&report));
        println!("Wrote {} and {}", json.display(), png.display());
        Ok(())
    }
}

fn weight_bits(op: &Op<'_>) -> Option<u8> {
    match op {
        Op::Conv(conv) if conv.weight_bits() == WeightBits::Four => Some(4),
        Op::Conv(_) => Some(8),
        Op::Attention(_) => None,
    }
}

fn output_shape(model: &Model<'_>, op: &Op<'_>) -> String {
    let tensor = model.tensor(op.output());
    format!("{}x{}x{} {}", tensor.height, tensor.width, tensor.channels, type_name(tensor.element))
}

fn type_name(element: Element) -> &'static str {
    match element {
        Element::I8 => "i8",
        Element::I16 => "i16",
    }
}

fn table(report: &Report<'_>) -> String {
    let mut out = String::new();
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let mut line = |cells: [&str; 10]| {
        let [op, what, bits, output, snr, damage, saturated, cut_off, flash, instructions] = cells;
        _ = writeln!(
            out,
            "{op:>3}  {what:<35} {bits:>4} {output:<13} {snr:>6} {damage:>8} {saturated:>6} {cut_off:>7} {flash:>7} {instructions:>12}"
        );
    };
    line(["op", "what", "bits", "output", "SNR dB", "damage", "sat. %", "cut %", "flash", "instructions"]);
    for layer in &report.layers {
        line([
            &layer.op.to_string(),
            &layer.what,
            &layer.weight_bits.map_or(String::new(), |bits| bits.to_string()),
            &layer.output,
            &format!("{:.1}", layer.signal_to_noise_db),
            &format!("{:.5}", layer.damage),
            &percent(layer.saturated),
            &layer.cut_off.map_or(String::new(), percent),
            &layer.flash.to_string(),
            &format!("{:.0}", layer.instructions),
        ]);
    }
    let flash: usize = report.layers.iter().map(|layer| layer.flash).sum();
    let instructions: f64 = report.layers.iter().map(|layer| layer.instructions).sum();
    let total = format!("{:.5}", report.total_damage);
    line(["", "all", "", "", "", &total, "", "", &flash.to_string(), &format!("{instructions:.0}")]);
    _ = writeln!(
        out,
        "If each step had activation scales of its own, which no file can have, all would be {:.5}.",
        report.total_damage_with_scales_by_row
    );
    _ = writeln!(
        out,
        "bits: of a weight; SNR: the output's integers against floats, all before being integers; damage: root mean square error in x0, data from \
         -1 to 1,\nwith this layer alone rounded; sat.: integers at the ends of their type; cut: inputs beyond the table of the \
         activation;\nflash: bytes of constants; instructions: of a pass on {}, modelled on counted kernels. {} states.",
        report.board, report.states
    );
    out
}

/// A layer's normalized input, if it has one, and its output.
fn panels(model: &Model<'_>, layers: &[Layer], agreements: &[Agreement], inputs: &[Option<Input>]) -> Vec<Panel> {
    let panel = |title, stored: &Histogram, note, element, color| Panel {
        title,
        note,
        counts: stored.bins.to_vec(),
        ends: match element {
            Element::I8 => ["-128", "127"].map(str::to_owned),
            Element::I16 => ["-32768", "32767"].map(str::to_owned),
        },
        color,
    };
    let mut panels = Vec::new();
    for (layer, (agreement, input)) in layers.iter().zip(agreements.iter().zip(inputs)) {
        let (op, what) = (layer.op, layer.what.rsplit(", ").find(|part| *part != "added").unwrap_or_default());
        if let Some(input) = input {
            let note = format!("i8, {:.3} % beyond the table", 100.0 * input.cut_off_share());
            panels.push(panel(format!("{op} {what}: normalized input"), &input.stored, note, Element::I8, 2));
        }
        let element = model.tensor(model.op(op as u16).output()).element;
        let note = format!(
            "{}, {:.1} dB, {:.3} % saturated",
            type_name(element),
            layer.signal_to_noise_db,
            100.0 * layer.saturated
        );
        panels.push(panel(format!("{op} {what}: output"), &agreement.stored, note, element, 0));
    }
    panels
}
