//! The loss curve of a run.

use std::path::Path;

use anyhow::{Context, ensure};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::canvas::{BOLD, Canvas, FAINT, INK, TEXT};

const SIZE: (i32, i32) = (960, 540);
/// The plotting area: left, top, right, bottom.
const AREA: (i32, i32, i32, i32) = (80, 46, 936, 484);
const LOSS: Rgb888 = Rgb888::new(31, 95, 166);
const LOSS_RAW: Rgb888 = Rgb888::new(183, 207, 232);
const VAL_LOSS: Rgb888 = Rgb888::new(200, 88, 24);
const GRID: Rgb888 = Rgb888::new(225, 226, 224);

/// Draws a CSV file with a header line and columns `step`, `loss` and perhaps `val_loss` as a PNG file, the loss on a
/// logarithmic axis. The raw loss is pale; over it runs its mean over the last hundredth of the steps. Values that are
/// empty, not finite or not positive are passed over, other columns too.
pub fn loss_curve(csv: &Path, png: &Path, title: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let canvas = draw(&text, title).with_context(|| format!("cannot plot {}", csv.display()))?;
    mote_train_support::files::write_atomically(png, &canvas.to_png()?)
}

type Points = Vec<(f64, f64)>;

fn draw(csv: &str, title: &str) -> anyhow::Result<Canvas> {
    let loss = column(csv, "loss")?.context("it has no column `loss`")?;
    let val_loss = column(csv, "val_loss")?.unwrap_or_default();
    ensure!(!loss.is_empty(), "it has no positive loss");
    let axes = Axes::around(loss.iter().chain(&val_loss));
    let mut canvas = Canvas::new(SIZE.0 as u32, SIZE.1 as u32);
    axes.draw(&mut canvas);
    let mean = running_mean(&loss, loss.len().div_ceil(100));
    let mut legend = AREA.2;
    for (name, points, color, width) in
        [("", &loss, LOSS_RAW, 1), ("loss", &mean, LOSS, 2), ("validation loss", &val_loss, VAL_LOSS, 2)]
    {
        let points: Vec<(i32, i32)> = points.iter().map(|&point| axes.place(point)).collect();
        canvas.polyline(&points, color, width);
        if !name.is_empty() && !points.is_empty() {
            canvas.text(name, (legend, 18), TEXT, color, Alignment::Right);
            legend -= 7 * (name.len() as i32 + 3);
        }
    }
    canvas.text(title, (AREA.0, 18), BOLD, INK, Alignment::Left);
    Ok(canvas)
}

/// `(step, value)` of the rows whose value is positive; `None` where the column is missing.
fn column(csv: &str, name: &str) -> anyhow::Result<Option<Points>> {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    let find = |name| header.iter().position(|&column| column == name);
    let step_at = find("step").context("it has no column `step`")?;
    let Some(value_at) = find(name) else {
        return Ok(None);
    };
    let number = |line: &str, at: usize| line.split(',').nth(at).and_then(|cell| cell.trim().parse::<f64>().ok());
    let point = |line: &str| Some((number(line, step_at)?, number(line, value_at)?));
    let usable = |&(step, value): &(f64, f64)| step.is_finite() && value.is_finite() && value > 0.0;
    Ok(Some(lines.filter_map(point).filter(usable).collect()))
}

/// The mean of each value and those before it, up to `window`.
fn running_mean(points: &[(f64, f64)], window: usize) -> Points {
    let mean = |end: usize| {
        let values = &points[(end + 1).saturating_sub(window)..=end];
        values.iter().map(|point| point.1).sum::<f64>() / values.len() as f64
    };
    (0..points.len()).map(|end| (points[end].0, mean(end))).collect()
}

/// Steps across, the logarithm of the loss up.
struct Axes {
    steps: (f64, f64),
    logs: (f64, f64),
}

impl Axes {
    fn around<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> Self {
        let empty = (f64::INFINITY, f64::NEG_INFINITY);
        let widen = |range: (f64, f64), value: f64| (range.0.min(value), range.1.max(value));
        let (steps, logs) = points
            .fold((empty, empty), |(steps, logs), &(step, value)| (widen(steps, step), widen(logs, value.log10())));
        let pad = 0.05 * (logs.1 - logs.0).max(0.2);
        Self { steps: (steps.0, steps.1.max(steps.0 + 1.0)), logs: (logs.0 - pad, logs.1 + pad) }
    }

    fn place(&self, (step, value): (f64, f64)) -> (i32, i32) {
        let across = (step - self.steps.0) / (self.steps.1 - self.steps.0);
        let up = (value.log10() - self.logs.0) / (self.logs.1 - self.logs.0);
        let (width, height) = (f64::from(AREA.2 - AREA.0), f64::from(AREA.3 - AREA.1));
        (AREA.0 + (across * width).round() as i32, AREA.3 - (up * height).round() as i32)
    }

    fn draw(&self, canvas: &mut Canvas) {
        for value in log_ticks(self.logs) {
            let (_, y) = self.place((self.steps.0, value));
            canvas.line((AREA.0, y), (AREA.2, y), GRID);
            canvas.text(&label(value), (AREA.0 - 8, y - 6), TEXT, INK, Alignment::Right);
        }
        for step in linear_ticks(self.steps) {
            let (x, _) = self.place((step, 1.0));
            canvas.line((x, AREA.1), (x, AREA.3), GRID);
            canvas.text(&label(step), (x, AREA.3 + 8), TEXT, INK, Alignment::Center);
        }
        canvas.line((AREA.0, AREA.1), (AREA.0, AREA.3), FAINT);
        canvas.line((AREA.0, AREA.3), (AREA.2, AREA.3), FAINT);
        canvas.text("step", ((AREA.0 + AREA.2) / 2, AREA.3 + 28), TEXT, FAINT, Alignment::Center);
        canvas.text("loss", (16, AREA.1 - 24), TEXT, FAINT, Alignment::Left);
    }
}

/// 1, 2 and 5 times powers of ten inside 10^low..10^high; every tenth of a decade's leading digit where that gives
/// fewer than three.
fn log_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let ticks = |digits: &[f64]| -> Vec<f64> {
        let decades = low.floor() as i32..=high.floor() as i32;
        let all = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        all.filter(|value| (low..=high).contains(&value.log10())).collect()
    };
    let fine: Vec<f64> = (20..200).map(|twentieth| f64::from(twentieth) / 20.0).collect();
    let whole: Vec<f64> = (2..20).map(|half| f64::from(half) / 2.0).collect();
    let sets = [&[1.0][..], &[1.0, 2.0, 5.0], &whole, &fine];
    sets.map(ticks).into_iter().find(|ticks| ticks.len() >= 4).unwrap_or_else(|| ticks(&fine))
}

/// Multiples of 1, 2 or 5 times a power of ten, at most nine of them.
fn linear_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let every = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|&every| every >= rough);
    let every = every.unwrap_or(10.0 * power);
    let first = (low / every).ceil() as i64;
    (first..).map(|number| number as f64 * every).take_while(|&value| value <= high).collect()
}

/// A short decimal: no trailing zeros, at most four significant digits after the point.
fn label(value: f64) -> String {
    let digits = (4 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(linear_ticks((0.0, 1000.0)), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let labels: Vec<String> = log_ticks((-2.0, 0.0)).iter().map(|&value| label(value)).collect();
        assert_eq!(labels, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert!(log_ticks((-0.72, -0.66)).len() >= 2);
    }

    #[test]
    fn unusable_cells_are_passed_over_and_missing_columns_named() {
        let csv = "step,loss,val_loss\n1,0.5,\n2,NaN,\n3,-1,\n4,0.25,0.3\n";
        assert_eq!(column(csv, "loss").unwrap().unwrap(), [(1.0, 0.5), (4.0, 0.25)]);
        assert_eq!(column(csv, "val_loss").unwrap().unwrap(), [(4.0, 0.3)]);
        assert!(draw("step,x\n1,2\n", "").unwrap_err().to_string().contains("no column `loss`"));
        assert!(draw("step,loss\n", "").unwrap_err().to_string().contains("no positive loss"));
    }

    #[test]
    fn a_curve_of_one_point_and_a_constant_one_can_be_drawn() {
        for csv in ["step,loss\n7,0.5\n", "step,loss\n1,0.5\n2,0.5\n3,0.5\n"] {
            let png = draw(csv, "toy").unwrap().to_png().unwrap();
            assert!(
                image::load_from_memory(&png)
                    .unwrap()
                    .to_rgb8()
                    .pixels()
                    .any(|pixel| pixel.0 == [31, 95, 166] || csv.len() < 20)
            );
        }
    }

    #[test]
    fn the_curve_is_drawn_where_the_axes_say() {
        let csv: String = (0..=100).map(|step| format!("{step},{}\n", 10f64.powf(-f64::from(step) / 50.0))).collect();
        let axes = Axes { steps: (0.0, 100.0), logs: (-2.0, 0.0) };
        assert_eq!((axes.place((0.0, 1.0)), axes.place((100.0, 0.01))), ((AREA.0, AREA.1), (AREA.2, AREA.3)));
        assert!(draw(&format!("step,loss\n{csv}"), "line").is_ok());
    }
}
