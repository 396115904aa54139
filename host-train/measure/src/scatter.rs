//! Pictures of vectors: points in a plane for two columns; for any other number of columns each of the first few as a
//! histogram, and every two of them as points.

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::axes::{Frame, label, range, ticks};
use super::canvas::{BOLD, Canvas, FAINT, INK, PALETTE, TEXT};
use super::sheet::{Legend, Section, write_label};

/// Columns shown of a table; further ones are left out.
const MAX_COLUMNS: usize = 4;
/// Side of a plane, of one plot among others, and of a histogram alone.
const PLANE: i32 = 420;
const PLOT: i32 = 200;
const ALONE: i32 = 420;
const MARGIN: i32 = 20;
/// Room for numbers and names beside a plot.
const LEFT: i32 = 64;
const BELOW: i32 = 44;
/// Room above for a section's label.
const ABOVE: i32 = 70;
/// Bars of a histogram.
const BARS: usize = 40;

/// Draws all samples of every section on the same axes.
pub(super) fn scatter(legend: Legend<'_>, sections: &[Section<'_>], foot: &str) -> Canvas {
    let columns: Vec<Vec<Vec<f64>>> = sections.iter().map(|section| columns(legend, section)).collect();
    if columns[0].len() == 2 { planes(legend, sections, &columns, foot) } else { pairs(sections, &columns, foot) }
}

/// The values of each column of a section, in natural units.
fn columns(legend: Legend<'_>, section: &Section<'_>) -> Vec<Vec<f64>> {
    let width = section.samples.shape.channels;
    let units = section.samples.all_units();
    let column =
        |channel: usize| units.iter().skip(channel).step_by(width).map(move |&unit| legend.natural(channel, unit));
    (0..width).map(|channel| column(channel).collect()).collect()
}

/// A plane for each section, classes in colours; the axes reach as far as the first section's points.
fn planes(legend: Legend<'_>, sections: &[Section<'_>], columns: &[Vec<Vec<f64>>], foot: &str) -> Canvas {
    let classes = legend.class_names.len();
    let [x, y] = [0, 1].map(|column| range(columns[0][column].iter().copied(), 0.15));
    let pitch = LEFT + PLANE + MARGIN;
    let width = (MARGIN + sections.len() as i32 * pitch).max(2 * MARGIN + 7 * foot.chars().count() as i32);
    let mut canvas = Canvas::new(width as u32, (MARGIN + ABOVE + PLANE + BELOW + 40) as u32);
    for (number, (section, columns)) in sections.iter().zip(columns).enumerate() {
        let left = MARGIN + LEFT + number as i32 * pitch;
        let top = MARGIN + ABOVE;
        let frame = Frame { area: [left, top, left + PLANE, top + PLANE], x, y };
        write_label(&mut canvas, &section.label, (left, MARGIN));
        frame.draw(&mut canvas, &ticks(x, 6), &ticks(y, 6));
        let points = columns[0].iter().copied().zip(columns[1].iter().copied());
        let mut outside = 0;
        for (index, point) in points.enumerate() {
            if frame.holds(point) {
                dot(&mut canvas, frame.place(point), PALETTE[index % classes % PALETTE.len()]);
            } else {
                outside += 1;
            }
        }
        if outside > 0 {
            let text = format!("{outside} outside");
            canvas.text(&text, (left + PLANE, top - 16), TEXT, FAINT, Alignment::Right);
        }
    }
    let mut x = MARGIN + LEFT;
    let y = MARGIN + ABOVE + PLANE + BELOW - 10;
    for (class, name) in legend.class_names.iter().take(PALETTE.len()).enumerate().filter(|_| classes > 1) {
        canvas.fill((x, y + 3), (8, 8), PALETTE[class]);
        canvas.text(name, (x + 14, y), TEXT, INK, Alignment::Left);
        x += 14 + 7 * (name.chars().count() as i32 + 3);
    }
    canvas.text(foot, (MARGIN, y + 24), TEXT, FAINT, Alignment::Left);
    canvas
}

/// Histograms of columns on the diagonal, points below it, sections in colours.
fn pairs(sections: &[Section<'_>], columns: &[Vec<Vec<f64>>], foot: &str) -> Canvas {
    let shown = columns[0].len().min(MAX_COLUMNS);
    let side = if shown == 1 { ALONE } else { PLOT };
    let pitch = side + LEFT;
    let label_height = |section: &Section<'_>| 15 * section.label.len() as i32 + 10;
    let top = MARGIN + 15 + sections.iter().map(label_height).sum::<i32>();
    let width = (2 * MARGIN + shown as i32 * pitch).max(2 * MARGIN + 7 * foot.chars().count() as i32);
    let mut canvas = Canvas::new(width as u32, (top + shown as i32 * (side + BELOW) + 30) as u32);
    let mut y = MARGIN;
    for (number, section) in sections.iter().enumerate() {
        canvas.fill((MARGIN, y + 2), (10, 10), PALETTE[number % PALETTE.len()]);
        write_label(&mut canvas, &section.label, (MARGIN + 18, y));
        y += label_height(section);
    }
    let ranges: Vec<(f64, f64)> = (0..shown).map(|column| range(columns[0][column].iter().copied(), 0.05)).collect();
    let area = |down: usize, across: usize| {
        let (left, top) = (MARGIN + LEFT + across as i32 * pitch, top + down as i32 * (side + BELOW));
        [left, top, left + side, top + side]
    };
    for down in 0..shown {
        let name = format!("column {down}");
        let area_of = area(down, down);
        canvas.text(&name, ((area_of[0] + area_of[2]) / 2, area_of[1] - 15), BOLD, INK, Alignment::Center);
        histograms(&mut canvas, area_of, ranges[down], columns.iter().map(|columns| &columns[down][..]));
        for across in 0..down {
            let frame = Frame { area: area(down, across), x: ranges[across], y: ranges[down] };
            frame.draw(&mut canvas, &ticks(frame.x, 4), &ticks(frame.y, 4));
            for (number, columns) in columns.iter().enumerate() {
                for point in columns[across].iter().copied().zip(columns[down].iter().copied()) {
                    if frame.holds(point) {
                        dot(&mut canvas, frame.place(point), PALETTE[number % PALETTE.len()]);
                    }
                }
            }
        }
    }
    canvas.text(foot, (MARGIN, top + shown as i32 * (side + BELOW) + 6), TEXT, FAINT, Alignment::Left);
    canvas
}

/// The share of each set's values in each bar, as outlines.
fn histograms<'a>(canvas: &mut Canvas, area: [i32; 4], x: (f64, f64), sets: impl Iterator<Item = &'a [f64]>) {
    let shares: Vec<Vec<f64>> = sets.map(|values| bars(values, x)).collect();
    let most = shares.iter().flatten().fold(0.0f64, |most, &share| most.max(share));
    let frame = Frame { area, x, y: (0.0, 1.1 * most.max(1e-9)) };
    let percent =
        ticks((0.0, 100.0 * frame.y.1), 4).into_iter().map(|(value, _)| (value / 100.0, format!("{} %", label(value))));
    frame.draw(canvas, &ticks(x, 4), &percent.collect::<Vec<_>>());
    for (number, shares) in shares.iter().enumerate() {
        let edge = |bar: usize| x.0 + (x.1 - x.0) * bar as f64 / BARS as f64;
        let steps = shares.iter().enumerate();
        let outline: Vec<(i32, i32)> = steps
            .flat_map(|(bar, &share)| [(edge(bar), share), (edge(bar + 1), share)])
            .map(|p| frame.place(p))
            .collect();
        canvas.polyline(&outline, PALETTE[number % PALETTE.len()], 2);
    }
}

/// The fraction of the values in each of [`BARS`] equal parts of a range; values outside are in none.
fn bars(values: &[f64], x: (f64, f64)) -> Vec<f64> {
    let mut counts = vec![0.0; BARS];
    for value in values.iter().filter(|value| (x.0..=x.1).contains(*value)) {
        let bar = ((value - x.0) / (x.1 - x.0) * BARS as f64) as usize;
        counts[bar.min(BARS - 1)] += 1.0 / values.len() as f64;
    }
    counts
}

fn dot(canvas: &mut Canvas, at: (i32, i32), color: Rgb888) {
    canvas.fill((at.0 - 1, at.1 - 1), (2, 2), color);
}

#[cfg(test)]
mod tests {
    use super::super::npy::Samples;
    use super::*;
    use mote_dataset::SampleShape;

    #[test]
    fn bars_count_what_is_inside_and_the_upper_edge() {
        let found = bars(&[0.0, 0.5, 1.0, 1.0, 7.0], (0.0, 1.0));
        assert_eq!((found[0], found[BARS / 2], found[BARS - 1]), (0.2, 0.2, 0.4));
        assert!((found.iter().sum::<f64>() - 0.8).abs() < 1e-12);
    }

    #[test]
    fn vectors_of_any_length_have_a_picture() {
        let names = ["one".to_owned(), "two".to_owned()];
        for width in [1, 2, 3, 9] {
            let samples =
                Samples::from_units((0..200 * width).map(|i| (i as f32).sin()).collect(), SampleShape::vector(width));
            let section = |label: &str| Section { label: vec![label.to_owned()], samples: &samples };
            let sections = [section("real"), section("samples")];
            let canvas = scatter(Legend { class_names: &names, scale: &[] }, &sections, "foot");
            let picture = image::load_from_memory(&canvas.to_png().unwrap()).unwrap().to_rgb8();
            let orange = picture.pixels().filter(|pixel| pixel.0 == [200, 88, 24]).count();
            assert!(orange > 200, "{width} columns: {orange} pixels of the second colour");
        }
    }
}
