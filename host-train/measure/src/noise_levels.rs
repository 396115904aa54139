//! The validation loss of a run by noise level.

use std::path::Path;

use anyhow::ensure;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::Alignment;

use super::axes::{AREA, Frame, SIZE, log_ticks, plot, range, ticks};
use super::canvas::{BOLD, Canvas, FAINT, GROUND, INK, TEXT};

const COLOR: Rgb888 = Rgb888::new(31, 95, 166);
/// Validations shown.
const SHOWN: usize = 8;

/// Draws a CSV file with columns `step` and one `mse_<timestep>` a noise level as a PNG file: the squared error over the
/// timestep, a line a validation, the last one dark, those before the paler the older. Values that are not finite or not
/// positive are passed over, other columns too.
///
/// # Errors
/// If the file cannot be read, has no such value, or the picture cannot be written.
pub fn noise_levels(csv: &Path, png: &Path, title: &str) -> anyhow::Result<()> {
    plot(csv, png, |text| draw(text, title))
}

/// Timesteps and logarithms of losses.
type Points = Vec<(f64, f64)>;

fn draw(csv: &str, title: &str) -> anyhow::Result<Canvas> {
    let header = csv.lines().next().unwrap_or("").split(',');
    let level = |(at, name): (usize, &str)| Some((at, name.strip_prefix("mse_")?.parse::<f64>().ok()?));
    let levels: Vec<(usize, f64)> = header.enumerate().filter_map(level).collect();
    let line = |row: &&str| -> Points {
        let cells: Vec<&str> = row.split(',').collect();
        let value = |&(at, timestep): &(usize, f64)| Some((timestep, cells.get(at)?.parse::<f64>().ok()?.log10()));
        levels.iter().filter_map(value).filter(|(_, log)| log.is_finite()).collect()
    };
    let rows: Vec<&str> = csv.lines().skip(1).collect();
    let lines: Vec<Points> = rows[rows.len().saturating_sub(SHOWN)..].iter().map(line).collect();
    let points = || lines.iter().flatten();
    ensure!(points().next().is_some(), "it has no positive loss of a noise level");
    let frame = Frame {
        area: AREA,
        x: range(points().map(|point| point.0), 0.0),
        y: range(points().map(|point| point.1), 0.05),
    };
    let mut canvas = Canvas::new(SIZE.0, SIZE.1);
    frame.draw(&mut canvas, &ticks(frame.x, 8), &log_ticks(frame.y));
    let below = ((AREA[0] + AREA[2]) / 2, AREA[3] + 28);
    canvas.text("timestep, more noise to the right", below, TEXT, FAINT, Alignment::Center);
    canvas.text("mean squared error", (16, AREA[1] - 14), TEXT, FAINT, Alignment::Left);
    for (age, line) in lines.iter().rev().enumerate().rev() {
        let points: Vec<(i32, i32)> = line.iter().map(|&point| frame.place(point)).collect();
        canvas.polyline(&points, faded(age), 2);
    }
    let step = rows.last().and_then(|row| row.split(',').next()).unwrap_or("");
    canvas.text(&format!("after step {step}"), (AREA[2], 18), TEXT, COLOR, Alignment::Right);
    canvas.text(title, (AREA[0], 18), BOLD, INK, Alignment::Left);
    Ok(canvas)
}

/// The color of a line that `age` others came after.
fn faded(age: usize) -> Rgb888 {
    let part = |ground: u8, color: u8| {
        let mixed = usize::from(ground) * age + usize::from(color) * (SHOWN - age);
        (mixed / SHOWN) as u8
    };
    Rgb888::new(part(GROUND.r(), COLOR.r()), part(GROUND.g(), COLOR.g()), part(GROUND.b(), COLOR.b()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_validation_is_the_darkest_line() {
        let csv = "step,val_loss,mse_50,mse_150\n10,1,1,0.5\n20,1,0.5,0.2\n";
        let png = draw(csv, "toy").unwrap().to_png().unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        let pixels =
            |color: Rgb888| picture.pixels().filter(|pixel| pixel.0 == [color.r(), color.g(), color.b()]).count();
        assert!(pixels(faded(0)) > 500 && pixels(faded(1)) > 500, "{} {}", pixels(faded(0)), pixels(faded(1)));
        assert_eq!(pixels(faded(2)), 0);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(draw("step,val_loss\n1,2\n", "").unwrap_err().to_string().contains("no positive loss"));
        assert!(draw("step,mse_5\n1,NaN\n2,0.5\n", "").is_ok());
    }
}
