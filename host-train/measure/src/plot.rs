//! The loss curve of a run.

use std::path::Path;

use anyhow::{Context, ensure};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::axes::{AREA, Frame, SIZE, log_ticks, plot, range, ticks};
use super::canvas::{BOLD, Canvas, FAINT, INK, TEXT};

const LOSS: Rgb888 = Rgb888::new(31, 95, 166);
const LOSS_RAW: Rgb888 = Rgb888::new(183, 207, 232);
const VAL_LOSS: Rgb888 = Rgb888::new(200, 88, 24);

/// Draws a CSV file with a header line and columns `step`, `loss` and perhaps `val_loss` as a PNG file, the loss on a
/// logarithmic axis. The raw loss is pale; over it runs its mean over the last hundredth of the steps. Values that are
/// empty, not finite or not positive are passed over, other columns too.
pub fn loss_curve(csv: &Path, png: &Path, title: &str) -> anyhow::Result<()> {
    plot(csv, png, |text| draw(text, title))
}

type Points = Vec<(f64, f64)>;

fn draw(csv: &str, title: &str) -> anyhow::Result<Canvas> {
    let loss = column(csv, "loss")?.context("it has no column `loss`")?;
    let val_loss = column(csv, "val_loss")?.unwrap_or_default();
    ensure!(!loss.is_empty(), "it has no positive loss");
    let frame = frame(loss.iter().chain(&val_loss));
    let mut canvas = Canvas::new(SIZE.0, SIZE.1);
    frame.draw(&mut canvas, &ticks(frame.x, 8), &log_ticks(frame.y));
    canvas.text("step", ((AREA[0] + AREA[2]) / 2, AREA[3] + 28), TEXT, FAINT, Alignment::Center);
    canvas.text("loss", (16, AREA[1] - 24), TEXT, FAINT, Alignment::Left);
    let mean = running_mean(&loss, loss.len().div_ceil(100));
    let mut legend = AREA[2];
    for (name, points, color, width) in
        [("", &loss, LOSS_RAW, 1), ("loss", &mean, LOSS, 2), ("validation loss", &val_loss, VAL_LOSS, 2)]
    {
        let points: Vec<(i32, i32)> = points.iter().map(|&(step, loss)| frame.place((step, loss.log10()))).collect();
        canvas.polyline(&points, color, width);
        if !name.is_empty() && !points.is_empty() {
            canvas.text(name, (legend, 18), TEXT, color, Alignment::Right);
            legend -= 7 * (name.len() as i32 + 3);
        }
    }
    canvas.text(title, (AREA[0], 18), BOLD, INK, Alignment::Left);
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
fn frame<'a>(points: impl Iterator<Item = &'a (f64, f64)> + Clone) -> Frame {
    let steps = range(points.clone().map(|point| point.0), 0.0);
    let logs = range(points.map(|point| point.1.log10()), 0.05);
    Frame { area: AREA, x: steps, y: (logs.0.min(logs.1 - 0.2), logs.1) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let picture = draw(&format!("step,loss\n{csv}"), "line").unwrap().to_png().unwrap();
        let picture = image::load_from_memory(&picture).unwrap().to_rgb8();
        // The pale raw loss: from 1 at step 0 to 0.01 at step 100, on a range wider by a twentieth at each end.
        for step in [0.0, 25.0, 50.0, 100.0] {
            let up = (2.0 - step / 50.0 + 0.1) / 2.2;
            let (x, y) = (80.0 + 856.0 * step / 100.0, 484.0 - 438.0 * up);
            let near = |dx: i32, dy: i32| picture.get_pixel((x as i32 + dx) as u32, (y as i32 + dy) as u32).0;
            let drawn = (-2..=2).any(|dx| (-3..=3).any(|dy| near(dx, dy)[2] > near(dx, dy)[0].saturating_add(20)));
            assert!(drawn, "nothing at step {step}");
        }
    }
}
