//! Axes: where values are drawn, round ticks and their labels.

use std::path::Path;

use anyhow::Context;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::canvas::{Canvas, FAINT, INK, TEXT};

/// Width and height of a plot of one frame.
pub const SIZE: (u32, u32) = (960, 540);
/// Its frame's left, top, right, bottom.
pub const AREA: [i32; 4] = [80, 46, 936, 484];
/// Grid lines.
pub const GRID: Rgb888 = Rgb888::new(225, 226, 224);

/// Draws the text of a CSV file as a PNG file.
pub(crate) fn plot(csv: &Path, png: &Path, draw: impl Fn(&str) -> anyhow::Result<Canvas>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let canvas = draw(&text).with_context(|| format!("cannot plot {}", csv.display()))?;
    mote_train_support::files::write_atomically(png, &canvas.to_png()?)
}

/// A rectangle of a picture and the values at its sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Left, top, right, bottom, in pixels.
    pub area: [i32; 4],
    /// The values at the left and at the right.
    pub x: (f64, f64),
    /// The values at the bottom and at the top.
    pub y: (f64, f64),
}

impl Frame {
    /// Where a point is drawn, outside the area if its values are.
    pub fn place(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let [left, top, right, bottom] = self.area;
        let across = (x - self.x.0) / (self.x.1 - self.x.0) * f64::from(right - left);
        let up = (y - self.y.0) / (self.y.1 - self.y.0) * f64::from(bottom - top);
        (left + across.round() as i32, bottom - up.round() as i32)
    }

    /// Whether both values are inside.
    pub fn holds(&self, (x, y): (f64, f64)) -> bool {
        (self.x.0..=self.x.1).contains(&x) && (self.y.0..=self.y.1).contains(&y)
    }

    /// Grid lines at ticks, each with its label, then the two axes.
    pub fn draw(&self, canvas: &mut Canvas, across: &[Tick], up: &[Tick]) {
        let [left, top, right, bottom] = self.area;
        for (value, label) in up {
            let (_, y) = self.place((self.x.0, *value));
            canvas.line((left, y), (right, y), GRID);
            canvas.text(label, (left - 8, y - 6), TEXT, INK, Alignment::Right);
        }
        for (value, label) in across {
            let (x, _) = self.place((*value, self.y.0));
            canvas.line((x, top), (x, bottom), GRID);
            canvas.text(label, (x, bottom + 8), TEXT, INK, Alignment::Center);
        }
        canvas.line((left, top), (left, bottom), FAINT);
        canvas.line((left, bottom), (right, bottom), FAINT);
    }
}

/// A value and what is written there.
pub type Tick = (f64, String);

/// The least and the greatest finite value, wider by `pad` of their distance on each side; never empty.
pub fn range(values: impl Iterator<Item = f64>, pad: f64) -> (f64, f64) {
    let empty = (f64::INFINITY, f64::NEG_INFINITY);
    let widen = |range: (f64, f64), value: f64| (range.0.min(value), range.1.max(value));
    let (low, high) = values.filter(|value| value.is_finite()).fold(empty, widen);
    match low.partial_cmp(&high) {
        Some(std::cmp::Ordering::Less) => (low - pad * (high - low), high + pad * (high - low)),
        Some(std::cmp::Ordering::Equal) => (low - 0.5 * low.abs().max(1e-6), low + 0.5 * low.abs().max(1e-6)),
        _ => (0.0, 1.0),
    }
}

/// At most `most + 1` multiples of 1, 2 or 5 times a power of ten inside a range, labelled.
pub fn ticks(range: (f64, f64), most: usize) -> Vec<Tick> {
    multiples(range, most).into_iter().map(|value| (value, label(value))).collect()
}

fn multiples((low, high): (f64, f64), most: usize) -> Vec<f64> {
    let rough = (high - low) / most as f64;
    let power = 10f64.powf(rough.log10().floor());
    let every = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|&every| every >= rough);
    let every = every.unwrap_or(10.0 * power);
    let first = (low / every).ceil() as i64;
    (first..).map(|number| number as f64 * every).take_while(|&value| value <= high).collect()
}

/// 1, 2 and 5 times powers of ten inside 10^low..10^high, at their logarithms; every tenth of a decade's leading digit
/// where that gives fewer than four.
pub fn log_ticks((low, high): (f64, f64)) -> Vec<Tick> {
    let ticks = |digits: &[f64]| -> Vec<Tick> {
        let decades = low.floor() as i32..=high.floor() as i32;
        let all = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        let inside = all.filter(|value| (low..=high).contains(&value.log10()));
        inside.map(|value| (value.log10(), label(value))).collect()
    };
    let fine: Vec<f64> = (20..200).map(|twentieth| f64::from(twentieth) / 20.0).collect();
    let whole: Vec<f64> = (2..20).map(|half| f64::from(half) / 2.0).collect();
    let sets = [&[1.0][..], &[1.0, 2.0, 5.0], &whole, &fine];
    sets.map(ticks).into_iter().find(|ticks| ticks.len() >= 4).unwrap_or_else(|| ticks(&fine))
}

/// A short decimal: five significant digits, no trailing zeros, nine places after the point at most.
pub fn label(value: f64) -> String {
    let digits = (4 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: Vec<Tick>) -> Vec<String> {
        ticks.into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(labels(ticks((0.0, 1000.0), 8)), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(labels(ticks((-0.31, 0.25), 4)), ["-0.2", "0", "0.2"]);
        assert_eq!(labels(log_ticks((-2.0, 0.0))), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert!(log_ticks((-0.72, -0.66)).len() >= 2);
    }

    #[test]
    fn a_frame_places_its_corners_and_a_range_is_never_empty() {
        let frame = Frame { area: [10, 20, 110, 70], x: (0.0, 4.0), y: (-1.0, 1.0) };
        assert_eq!((frame.place((0.0, 1.0)), frame.place((4.0, -1.0))), ((10, 20), (110, 70)));
        assert_eq!(frame.place((1.0, 0.0)), (35, 45));
        assert!(frame.holds((4.0, 1.0)) && !frame.holds((4.1, 0.0)));
        assert_eq!(range([1.0, f64::NAN, 3.0].into_iter(), 0.25), (0.5, 3.5));
        assert_eq!(range([4.0].into_iter(), 0.1), (2.0, 6.0));
        assert_eq!(range(std::iter::empty(), 0.1), (0.0, 1.0));
    }
}
