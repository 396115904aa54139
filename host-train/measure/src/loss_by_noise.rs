//! The loss of a trained network by noise level.

use std::path::Path;

use anyhow::{Context, ensure};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::axes::{AREA, Frame, SIZE, log_ticks, plot, range, ticks};
use super::canvas::{BOLD, Canvas, FAINT, INK, TEXT};

/// What is drawn: a column, its name, its color.
const LINES: [(&str, &str, Rgb888); 2] = [
    ("output_mse", "of the network's output", Rgb888::new(31, 95, 166)),
    ("data_mse", "of its estimate of the data", Rgb888::new(200, 88, 24)),
];

/// Draws a CSV file with columns `log_snr`, `output_mse` and `data_mse`, a row a noise level, as a PNG file: both errors over
/// the logarithm of the signal-to-noise ratio, on a logarithmic axis, with a mark a row. Rows and values that are empty, not
/// finite or not positive are passed over.
///
/// # Errors
/// If the file cannot be read, has no such value, or the picture cannot be written.
pub fn loss_by_noise(csv: &Path, png: &Path, title: &str) -> anyhow::Result<()> {
    plot(csv, png, |text| draw(text, title))
}

/// Logarithms of the ratio and of the error.
type Points = Vec<(f64, f64)>;

fn draw(csv: &str, title: &str) -> anyhow::Result<Canvas> {
    let lines = LINES.iter().map(|&(column, name, color)| Ok((points(csv, column)?, name, color)));
    let lines: Vec<(Points, &str, Rgb888)> = lines.collect::<anyhow::Result<_>>()?;
    let all = || lines.iter().flat_map(|(points, ..)| points);
    ensure!(all().next().is_some(), "it has no positive error at a noise level");
    let frame =
        Frame { area: AREA, x: range(all().map(|point| point.0), 0.02), y: range(all().map(|point| point.1), 0.05) };
    let mut canvas = Canvas::new(SIZE.0, SIZE.1);
    frame.draw(&mut canvas, &ticks(frame.x, 8), &log_ticks(frame.y));
    let below = ((AREA[0] + AREA[2]) / 2, AREA[3] + 28);
    canvas.text("ln(signal-to-noise ratio), more noise to the left", below, TEXT, FAINT, Alignment::Center);
    canvas.text("mean squared error", (16, AREA[1] - 14), TEXT, FAINT, Alignment::Left);
    let mut legend = AREA[2];
    for (points, name, color) in &lines {
        let places: Vec<(i32, i32)> = points.iter().map(|&point| frame.place(point)).collect();
        canvas.polyline(&places, *color, 2);
        for &(x, y) in &places {
            canvas.fill((x - 2, y - 2), (5, 5), *color);
        }
        canvas.text(name, (legend, 18), TEXT, *color, Alignment::Right);
        legend -= 7 * (name.len() as i32 + 3);
    }
    canvas.text(title, (AREA[0], 18), BOLD, INK, Alignment::Left);
    Ok(canvas)
}

fn points(csv: &str, column: &str) -> anyhow::Result<Points> {
    let header: Vec<&str> = csv.lines().next().unwrap_or("").split(',').collect();
    let find = |name: &str| {
        header.iter().position(|&found| found == name).with_context(|| format!("it has no column `{name}`"))
    };
    let (ratio, error) = (find("log_snr")?, find(column)?);
    let number = |row: &str, at: usize| row.split(',').nth(at)?.parse::<f64>().ok();
    let point = |row: &str| Some((number(row, ratio)?, number(row, error)?.log10()));
    let usable = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    Ok(csv.lines().skip(1).filter_map(point).filter(usable).collect())
}

#[cfg(test)]
mod tests {
    use embedded_graphics::pixelcolor::RgbColor;

    use super::*;

    const CSV: &str = "first_timestep,log_snr,output_mse,data_mse\n0,4,0.01,0.001\n500,0,0.1,0.1\n900,-4,0.001,1\n";

    #[test]
    fn both_errors_are_drawn_where_the_axes_say() {
        let png = draw(CSV, "toy").unwrap().to_png().unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        let frame = Frame { area: AREA, x: (-4.16, 4.16), y: (-3.15, 0.15) };
        for (log_snr, log, (_, _, color)) in [(4.0, -2.0, LINES[0]), (-4.0, 0.0, LINES[1])] {
            let (x, y) = frame.place((log_snr, log));
            let marked =
                (-1..=1).all(|dx| picture.get_pixel((x + dx) as u32, y as u32).0 == [color.r(), color.g(), color.b()]);
            assert!(marked, "nothing at {log_snr}, {log}");
        }
    }

    #[test]
    fn what_is_missing_is_said_and_what_cannot_be_drawn_passed_over() {
        assert!(draw("log_snr,output_mse\n1,2\n", "").unwrap_err().to_string().contains("no column `data_mse`"));
        let none = "log_snr,output_mse,data_mse\n,0.5,0.5\n1,0,nan\n";
        assert!(draw(none, "").unwrap_err().to_string().contains("no positive error"));
        assert!(draw(&format!("{none}0,0.5,0.5\n"), "").is_ok());
    }
}
