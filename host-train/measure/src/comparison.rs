//! What several methods make of a signal with a gap, and how they err: one picture.

use std::ops::Range;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::axes::{Frame, GRID, Tick, label, log_ticks, range, ticks};
use super::canvas::{BOLD, Canvas, FAINT, INK, PALETTE, TEXT};

/// A window, `[rows, channels]`, a gap in it and what each method fills in.
#[derive(Debug, Clone)]
pub struct Example {
    /// The whole window.
    pub window: Vec<f32>,
    /// One name a channel.
    pub channels: Vec<String>,
    /// Rows that the methods did not see.
    pub gap: Range<usize>,
    /// Each method's number and its filled windows; several are drawn pale.
    pub filled: Vec<(usize, Vec<Vec<f32>>)>,
}

/// A method's number, and its errors over a number such as the length of a gap with their standard errors: `(number, error,
/// standard error)`, all positive.
pub type Curve = (usize, Vec<(f64, f64, f64)>);

/// The errors of methods.
#[derive(Debug, Clone)]
pub struct Curves {
    /// What it shows.
    pub title: String,
    /// What the number is.
    pub across: String,
    /// A line a method.
    pub methods: Vec<Curve>,
}

/// Width of the picture, and the heights of a row of channels and of the curves.
const WIDTH: i32 = 1200;
const CHANNELS: i32 = 170;
const CURVES: i32 = 380;
/// Channels side by side.
const COLUMNS: usize = 3;
/// Above everything: the title and the methods' names.
const TOP: i32 = 56;

/// Draws the channels of the example, three in a row, over the curves side by side. The truth is black; a method's number is its
/// place in `names` and its color. Both axes of a curve are logarithmic, and a bar reaches one standard error up and down.
pub fn comparison(title: &str, names: &[&str], example: Option<&Example>, curves: &[Curves]) -> Canvas {
    let rows = example.map_or(0, |example| example.channels.len().div_ceil(COLUMNS)) as i32;
    let below = TOP + rows * CHANNELS;
    let height = below + if curves.is_empty() { 0 } else { CURVES };
    let mut canvas = Canvas::new(WIDTH as u32, height as u32);
    canvas.text(title, (16, 12), BOLD, INK, Alignment::Left);
    let mut left = 16;
    for (method, name) in names.iter().enumerate() {
        canvas.fill((left, 38), (14, 5), color(method));
        canvas.text(name, (left + 20, 34), TEXT, color(method), Alignment::Left);
        left += 7 * name.len() as i32 + 40;
    }
    if let Some(example) = example {
        let width = WIDTH / COLUMNS as i32;
        for channel in 0..example.channels.len() {
            let (left, top) = ((channel % COLUMNS) as i32 * width, TOP + (channel / COLUMNS) as i32 * CHANNELS);
            draw_channel(&mut canvas, example, channel, [left + 56, top + 20, left + width - 12, top + CHANNELS - 26]);
        }
    }
    for (number, errors) in curves.iter().enumerate() {
        let width = WIDTH / curves.len() as i32;
        let left = number as i32 * width;
        draw_curves(&mut canvas, errors, [left + 64, below + 34, left + width - 24, below + CURVES - 48]);
    }
    canvas
}

fn color(method: usize) -> Rgb888 {
    PALETTE[method % PALETTE.len()]
}

/// Half way to the ground.
fn pale(method: usize) -> Rgb888 {
    use embedded_graphics::pixelcolor::RgbColor;
    let color = color(method);
    let half = |part: u8| part / 2 + 125;
    Rgb888::new(half(color.r()), half(color.g()), half(color.b()))
}

fn draw_channel(canvas: &mut Canvas, example: &Example, channel: usize, area: [i32; 4]) {
    let channels = example.channels.len();
    let values = |window: &[f32]| -> Vec<(f64, f64)> {
        let values = window.iter().skip(channel).step_by(channels);
        values.enumerate().map(|(row, &value)| (row as f64, f64::from(value))).collect()
    };
    // A method's line begins and ends at the known rows beside the gap.
    let within = example.gap.start.saturating_sub(1)..(example.gap.end + 1).min(example.window.len() / channels);
    let truth = values(&example.window);
    let all = example.filled.iter().flat_map(|(_, windows)| windows).flat_map(|window| values(window));
    let y = range(truth.iter().copied().chain(all).map(|point| point.1), 0.05);
    let frame = Frame { area, x: (0.0, (truth.len() - 1).max(1) as f64), y };
    let [gap_left, gap_right] =
        [example.gap.start, example.gap.end].map(|row| frame.place((row as f64 - 0.5, y.0)).0.clamp(area[0], area[2]));
    canvas.fill((gap_left, area[1]), ((gap_right - gap_left) as u32, (area[3] - area[1]) as u32), GRID);
    frame.draw(canvas, &ticks(frame.x, 6), &ticks(frame.y, 4));
    canvas.text(&example.channels[channel], (area[0] + 4, area[1] - 16), BOLD, INK, Alignment::Left);
    let places = |points: &[(f64, f64)]| points.iter().map(|&point| frame.place(point)).collect::<Vec<_>>();
    let within = |window: &Vec<f32>| places(&values(window)[within.clone()]);
    let (one, several): (Vec<_>, Vec<_>) = example.filled.iter().partition(|(_, windows)| windows.len() == 1);
    for (method, windows) in several {
        windows.iter().for_each(|window| canvas.polyline(&within(window), pale(*method), 1));
    }
    canvas.polyline(&places(&truth), INK, 2);
    for (method, windows) in one {
        canvas.polyline(&within(&windows[0]), color(*method), 2);
    }
}

/// Ticks that are at least a line of text apart, the first of those too near.
fn apart(frame: &Frame, ticks: Vec<Tick>) -> Vec<Tick> {
    let mut kept: Vec<Tick> = Vec::new();
    for tick in ticks {
        let place = |tick: &Tick| frame.place((frame.x.0, tick.0)).1;
        if kept.last().is_none_or(|last| place(last) - place(&tick) >= 18) {
            kept.push(tick);
        }
    }
    kept
}

fn draw_curves(canvas: &mut Canvas, curves: &Curves, area: [i32; 4]) {
    let points = || curves.methods.iter().flat_map(|(_, points)| points);
    let x = range(points().map(|point| point.0.log10()), 0.05);
    let y = range(points().flat_map(|point| [point.1 - point.2, point.1 + point.2]).map(f64::log10), 0.05);
    let frame = Frame { area, x, y };
    let mut across: Vec<Tick> =
        points().map(|point| (point.0.log10(), label((point.0 * 1000.0).round() / 1000.0))).collect();
    across.sort_by(|a, b| a.0.total_cmp(&b.0));
    across.dedup_by(|a, b| a.1 == b.1);
    frame.draw(canvas, &across, &apart(&frame, log_ticks(y)));
    canvas.text(&curves.title, (area[0], area[1] - 22), BOLD, INK, Alignment::Left);
    canvas.text(&curves.across, ((area[0] + area[2]) / 2, area[3] + 26), TEXT, FAINT, Alignment::Center);
    for (method, points) in &curves.methods {
        let place = |x: f64, y: f64| frame.place((x.log10(), y.log10()));
        let places: Vec<(i32, i32)> = points.iter().map(|&(x, error, _)| place(x, error)).collect();
        canvas.polyline(&places, color(*method), 2);
        for (&(x, error, deviation), &(left, top)) in points.iter().zip(&places) {
            canvas.fill((left - 2, top - 2), (5, 5), color(*method));
            if deviation < error {
                canvas.line(place(x, error - deviation), place(x, error + deviation), color(*method));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use embedded_graphics::pixelcolor::RgbColor;

    use super::*;

    #[test]
    fn the_gap_is_shaded_and_every_method_has_its_color_in_it_and_in_the_curves() {
        let window: Vec<f32> = (0..32).flat_map(|row| [(row as f32 / 4.0).sin(), row as f32]).collect();
        let line = |to: f32| window.iter().map(|value| value + to).collect::<Vec<f32>>();
        let example = Example {
            window: window.clone(),
            channels: vec!["ax".to_owned(), "ay".to_owned()],
            gap: 8..24,
            filled: vec![(0, vec![line(0.3)]), (1, vec![line(-0.3)])],
        };
        let curves = Curves {
            title: "errors".to_owned(),
            across: "rows".to_owned(),
            methods: vec![(0, vec![(8.0, 0.1, 0.01), (16.0, 0.2, 0.01)]), (1, vec![(8.0, 0.3, 0.4), (16.0, 0.5, 0.1)])],
        };
        let picture =
            comparison("toy", &["first", "second"], Some(&example), &[curves.clone(), curves]).to_png().unwrap();
        let picture = image::load_from_memory(&picture).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (1200, (TOP + CHANNELS + CURVES) as u32));
        let count = |color: Rgb888, area: [i32; 4]| {
            let [left, top, right, bottom] = area.map(|at| at as u32);
            let inside =
                picture.enumerate_pixels().filter(|(x, y, _)| (left..right).contains(x) && (top..bottom).contains(y));
            inside.filter(|(.., pixel)| pixel.0 == [color.r(), color.g(), color.b()]).count()
        };
        // Rows 8 to 24 of the first channel's 0 to 31 between pixels 56 and 388.
        let (inside, outside) = ([136, TOP + 20, 302, TOP + 144], [57, TOP + 20, 120, TOP + 144]);
        assert!(count(GRID, inside) > 10_000 && count(GRID, outside) < 2_000);
        for method in 0..2 {
            assert!(count(color(method), inside) > 100 && count(color(method), outside) == 0, "method {method}");
            for half in 0..2 {
                let below = TOP + CHANNELS;
                assert!(count(color(method), [600 * half, below, 600 * (half + 1), below + CURVES]) > 100);
            }
        }
    }
}
