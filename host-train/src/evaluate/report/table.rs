//! The report as text: a column a way of drawing, then what the numbers are.

use std::fmt;

use super::{Column, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let widths: Vec<usize> = (0..=self.columns.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (number, row) in rows.iter().enumerate() {
            write!(f, "{:<width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
            if number == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * self.columns.len()))?;
            }
        }
        writeln!(f)?;
        writeln!(
            f,
            "Fréchet distance: squared, in the features of the judge {}, to {} held-out samples",
            short(&self.judge_sha256),
            self.held_out
        )?;
        writeln!(
            f,
            "of the data {}. Floor: the same of as many real training samples, mean of 10 draws.",
            short(&self.data_sha256)
        )?;
        writeln!(
            f,
            "Precision: samples that look real; recall: held-out samples within the samples' reach (3 neighbours)."
        )?;
        writeln!(
            f,
            "Class accuracy: samples that the judge puts in the class they were drawn for; real: held-out samples."
        )?;
        writeln!(f, "Seed {}; sample i has class i % classes. Model {}.", self.seed, short(&self.model_sha256))?;
        if let Some((machine, compared)) = &self.chip_equals_host {
            writeln!(f, "Instructions: retired, counted on {machine}; neither cycles nor time.")?;
            writeln!(f, "All {compared} samples of {machine} equal the host's int8 samples byte for byte.")?;
        }
        if let Some(loss) = &self.loss_by_noise {
            write!(f, "\nLoss by noise level, loss-by-noise.png:\n{loss}")?;
        }
        Ok(())
    }
}

impl Report {
    /// The cells, headings first.
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |label: &str, cell: &dyn Fn(&Column) -> String| {
            std::iter::once(label.to_owned()).chain(self.columns.iter().map(cell)).collect::<Vec<_>>()
        };
        let integers = |label: &str, value: fn(&Column) -> Option<u64>| {
            row(label, &|column| value(column).map_or("-".to_owned(), grouped))
        };
        vec![
            row("", &|column| column.name.clone()),
            integers("steps", |column| column.steps),
            integers("parameters", |column| column.parameters),
            integers("model file, bytes", |column| column.file_bytes),
            integers("arena, bytes", |column| column.arena_bytes),
            integers("firmware in flash, bytes", |column| column.flash_bytes),
            integers("firmware RAM, bytes", |column| column.ram_bytes),
            integers("instructions a sample", |column| column.instructions_per_image),
            integers("samples measured", |column| Some(column.score.n as u64)),
            row("Fréchet distance", &|column| format!("{:.3}", column.score.frechet)),
            row("  its floor at that number", &|column| format!("{:.3}", column.floor.mean)),
            row("precision", &|column| format!("{:.3}", column.score.precision)),
            row("recall", &|column| format!("{:.3}", column.score.recall)),
            row("class accuracy", &|column| {
                column.score.accuracy.map_or("-".to_owned(), |accuracy| format!("{:.1} %", 100.0 * accuracy))
            }),
        ]
    }
}

/// The first 12 digits of a hash.
fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

/// With a comma between groups of three digits.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::score::{Floor, Score};
    use super::*;
    use crate::trainer::{Bin, LossByNoise};

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!([0, 12, 123, 1234, 1234567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn every_line_of_the_table_is_equally_wide() {
        let json = r#"{"n":400,"frechet":12.3456,"kid":0.1,"kid_error":0.01,"precision":0.5,"recall":0.25,"density":0.5,
            "coverage":0.5,"diversity":3.5,"accuracy":0.8125}"#;
        let score: Score = serde_json::from_str(json).unwrap();
        let column = Column::new("real", score, Floor { name: "frechet", n: 400, mean: 1.0, deviation: 0.1 });
        let chip =
            Column { name: "int8, chip".to_owned(), instructions_per_image: Some(123_456_789), ..column.clone() };
        let report = Report {
            seed: 1,
            data_sha256: "d".repeat(64),
            judge_sha256: "j".repeat(64),
            model_sha256: "m".repeat(64),
            held_out: 800,
            columns: vec![column, chip],
            chip_equals_host: Some(("mps2-an386".to_owned(), 400)),
            loss_by_noise: Some(LossByNoise {
                samples: 100,
                bins: vec![Bin {
                    timesteps: [0, 49],
                    log_snr: Some(7.5),
                    output: 0.25,
                    output_error: 0.125,
                    data: 0.0625,
                }],
            }),
        };
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 15);
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
        assert!(text.contains("0-49     7.50  0.25000 +- 0.12500    0.06250"), "{text}");
        assert!(text.contains("123,456,789") && text.contains("81.2 %") && text.contains("All 400 samples"), "{text}");
    }
}
