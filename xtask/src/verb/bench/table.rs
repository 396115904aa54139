//! The table that `bench kernels` prints.

use super::{Quantity, Report, Row};

/// Prints the report.
pub(super) fn print(report: &Report) {
    let what = match report.quantity {
        Quantity::Instructions => "retired instructions",
        Quantity::Nanoseconds => "picoseconds, the least of many runs,",
    };
    println!("{}: {what} per multiply-accumulate (per element for add, softmax and group norm)", report.processor);
    let lines: Vec<Vec<String>> =
        std::iter::once(heading(report)).chain(report.rows.iter().map(|row| cells(report, row))).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    for line in &lines {
        let padded = line.iter().enumerate().map(|(column, cell)| match column {
            0 | 1 => format!("{cell:<0$}", width(column)),
            _ => format!("{cell:>0$}", width(column)),
        });
        println!("{}", padded.collect::<Vec<_>>().join("  "));
    }
    let means = [("instructions", mean(report, Row::ratio)), ("cycles", mean(report, Row::cycles_ratio))];
    for (what, mean) in means {
        if let Some((mean, count)) = mean {
            println!(
                "geometric mean of the ratio of {what}, {count} shapes (add, softmax and group norm aside): {mean:.3}"
            );
        }
    }
    report.models.iter().for_each(|model| println!("cycles by {model}: a model, not compared with a chip"));
    report.notes.iter().for_each(|note| println!("{note}"));
}

/// Prints a row's functions, down to one instruction in a hundred.
pub(super) fn print_functions(row: &Row) {
    let all: u64 = row.functions.iter().map(|(_, instructions)| instructions).sum();
    println!("{} {}", row.op, row.shape);
    for (name, instructions) in row.functions.iter().filter(|(_, instructions)| 100 * instructions >= all) {
        println!("  {:>5.1} %  {instructions:>9}  {name}", 100.0 * *instructions as f64 / all as f64);
    }
}

fn has_peer_cycles(report: &Report) -> bool {
    report.rows.iter().any(|row| row.cycles_ratio().is_some())
}

fn heading(report: &Report) -> Vec<String> {
    let mut words = vec!["operation", "shape", "ours"];
    if report.quantity == Quantity::Instructions {
        words.extend(["CMSIS-NN", "ratio"]);
    }
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    words.extend(report.models.iter().map(|model| format!("cycles, {model}")));
    if has_peer_cycles(report) {
        words.extend(["CMSIS-NN", "ratio"].map(str::to_owned));
    }
    words.push("scratch".to_owned());
    words
}

fn cells(report: &Report, row: &Row) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let mut cells = vec![row.op.clone(), row.shape.clone()];
    match report.quantity {
        Quantity::Instructions => {
            cells.push(number(Some(row.per_unit())));
            cells.push(number(row.peer.map(|peer| peer.per_unit)));
            cells.push(number(row.ratio()));
        }
        Quantity::Nanoseconds => cells.push(number(Some(1000.0 * row.per_unit()))),
    }
    cells.extend((0..report.models.len()).map(|model| number(row.cycles_per_unit(model))));
    if has_peer_cycles(report) {
        cells.push(number(row.peer.and_then(|peer| peer.cycles_per_unit)));
        cells.push(number(row.cycles_ratio()));
    }
    cells.push(row.scratch_bytes.to_string());
    cells
}

/// The geometric mean of a ratio over what multiplies and accumulates, and of how many.
fn mean(report: &Report, ratio: impl Fn(&Row) -> Option<f64>) -> Option<(f64, usize)> {
    let is_aside = |row: &&Row| ["add", "softmax", "group norm"].iter().any(|op| row.op.starts_with(op));
    let logs: Vec<f64> = report.rows.iter().filter(|row| !is_aside(row)).filter_map(ratio).map(f64::ln).collect();
    (!logs.is_empty()).then(|| ((logs.iter().sum::<f64>() / logs.len() as f64).exp(), logs.len()))
}
