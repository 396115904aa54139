//! The contact sheet: classes in columns, one section of rows for each way of drawing. Images are shown as they are,
//! signals as curves; vectors have a picture of their own ([`super::scatter`]).

use anyhow::ensure;
use embedded_graphics::text::Alignment;
use mote_dataset::{ChannelScale, SampleShape, Split, to_pixel};

use super::axes::{Frame, GRID, label, range};
use super::canvas::{BOLD, Canvas, FAINT, INK, PALETTE, TEXT};
use super::npy::Samples;
use super::scatter::scatter;

/// Columns shown; further classes are left out.
const MAX_COLUMNS: usize = 16;
/// An image is enlarged to at least this many pixels across.
const CELL: u32 = 56;
/// Width of a signal's cell.
const CURVE: u32 = 120;
/// Height of a channel in a signal's cell, and of a single channel.
const LANE: u32 = 28;
const SINGLE_LANE: u32 = 64;
/// More channels than this share one lane, in the network's units.
const MAX_LANES: usize = 8;
const MARGIN: u32 = 18;
const LETTER: u32 = 7;
const LINE: u32 = 15;
const CELL_GAP: u32 = 6;
const SECTION_GAP: u32 = 16;

/// Rows of one kind.
#[derive(Debug)]
pub struct Section<'a> {
    /// Lines at the left: the first is the heading.
    pub label: Vec<String>,
    /// Sample i has class `i % classes`.
    pub samples: &'a Samples,
}

/// Names of classes and units of channels.
#[derive(Debug, Clone, Copy)]
pub struct Legend<'a> {
    /// One name a class.
    pub class_names: &'a [String],
    /// Natural units of each channel of a signal or a vector; empty where the network's own are shown.
    pub scale: &'a [ChannelScale],
}

impl Legend<'_> {
    /// A channel's value in natural units.
    pub(super) fn natural(&self, channel: usize, unit: f32) -> f64 {
        f64::from(self.scale.get(channel).map_or(unit, |scale| scale.to_natural(unit)))
    }
}

/// Draws the sheet: each section's first `rows` samples of every class; all samples where they are vectors.
///
/// # Errors
/// If there is nothing to draw, or the sections do not fit together.
pub fn sheet(legend: Legend<'_>, sections: &[Section<'_>], rows: usize, foot: &str) -> anyhow::Result<Canvas> {
    let classes = legend.class_names.len();
    ensure!(!sections.is_empty(), "a contact sheet needs samples");
    let shape = sections[0].samples.shape;
    for section in sections {
        let (n, found) = (section.samples.len(), section.samples.shape);
        let label = &section.label[0];
        ensure!(found == shape, "{label}: samples are {found}, others {shape}");
        ensure!(n >= classes && n % classes == 0, "{label}: {n} samples are not whole rows of {classes} classes");
    }
    if shape.is_vector() {
        return Ok(scatter(legend, sections, foot));
    }
    let cell = Cell::of(legend, &sections[0], rows);
    let time = if shape.is_signal() { format!("each {} samples in time; ", shape.width) } else { String::new() };
    Ok(grid(legend, sections, rows, &format!("{time}{foot}"), &cell))
}

fn grid(legend: Legend<'_>, sections: &[Section<'_>], rows: usize, foot: &str, cell: &Cell<'_>) -> Canvas {
    let classes = legend.class_names.len();
    let columns = classes.min(MAX_COLUMNS);
    let names = &legend.class_names[..columns];
    let (cell_width, cell_height) = cell.size();
    let name_width = names.iter().map(|name| name.chars().count().min(12) as u32 * LETTER).max().unwrap_or(0);
    let pitch = cell_width.max(name_width) + CELL_GAP;
    let labels = sections.iter().flat_map(|section| &section.label);
    let label_width = labels.map(|line| line.chars().count() as u32 * LETTER).max().unwrap_or(0);
    let left = MARGIN + label_width + MARGIN + cell.axis_width();
    let rows_of = |section: &Section<'_>| rows.min(section.samples.len() / classes);
    let section_height = |section: &Section<'_>| {
        (rows_of(section) as u32 * (cell_height + CELL_GAP)).max(section.label.len() as u32 * LINE) + SECTION_GAP
    };
    let top = MARGIN + LINE + CELL_GAP;
    let total_height = top + sections.iter().map(section_height).sum::<u32>() + LINE + MARGIN / 2;
    let total_width = (left + columns as u32 * pitch + MARGIN).max(2 * MARGIN + foot.chars().count() as u32 * LETTER);
    let mut canvas = Canvas::new(total_width, total_height);

    let center = |column: usize| (left + column as u32 * pitch + pitch / 2) as i32;
    for (column, name) in names.iter().enumerate() {
        let name: String = name.chars().take(12).collect();
        canvas.text(&name, (center(column), MARGIN as i32), TEXT, INK, Alignment::Center);
    }
    let mut y = top;
    for section in sections {
        write_label(&mut canvas, &section.label, (MARGIN as i32, y as i32));
        cell.draw_axis(&mut canvas, (center(0) - cell_width as i32 / 2, y as i32));
        for row in 0..rows_of(section) {
            for column in 0..columns {
                let at = (center(column) - cell_width as i32 / 2, (y + row as u32 * (cell_height + CELL_GAP)) as i32);
                cell.draw(&mut canvas, &section.samples.units(row * classes + column), at);
            }
        }
        y += section_height(section);
    }
    canvas.text(foot, (MARGIN as i32, y as i32), TEXT, FAINT, Alignment::Left);
    canvas
}

/// Writes a section's lines, the first as a heading.
pub(super) fn write_label(canvas: &mut Canvas, lines: &[String], at: (i32, i32)) {
    for (number, line) in lines.iter().enumerate() {
        let (font, color) = if number == 0 { (BOLD, INK) } else { (TEXT, FAINT) };
        canvas.text(line, (at.0, at.1 + number as i32 * LINE as i32), font, color, Alignment::Left);
    }
}

/// How one sample is drawn.
enum Cell<'a> {
    /// Each pixel a square of this many pixels.
    Image { shape: SampleShape, scale: u32 },
    /// Curves over time.
    Signal { legend: Legend<'a>, shape: SampleShape, lanes: Vec<Lane> },
}

/// A band of a signal's cell: its channels and the values at its bottom and top.
struct Lane {
    channels: std::ops::Range<usize>,
    range: (f64, f64),
}

impl<'a> Cell<'a> {
    /// A signal's lanes reach as far as the values of `section` that are shown.
    fn of(legend: Legend<'a>, section: &Section<'_>, rows: usize) -> Self {
        let shape = section.samples.shape;
        if shape.is_image() {
            return Self::Image { shape, scale: CELL.div_ceil(shape.width as u32) };
        }
        let (legend, lanes): (_, Vec<std::ops::Range<usize>>) = if shape.channels > MAX_LANES {
            (Legend { scale: &[], ..legend }, std::iter::once(0..shape.channels).collect())
        } else {
            (legend, (0..shape.channels).map(|channel| channel..channel + 1).collect())
        };
        let shown = (rows * legend.class_names.len()).min(section.samples.len());
        let units: Vec<f32> = (0..shown).flat_map(|index| section.samples.units(index)).collect();
        let lane = |channels: std::ops::Range<usize>| {
            let values = units.iter().enumerate().map(|(index, &unit)| (index % shape.channels, unit));
            let inside = values.filter(|(channel, _)| channels.contains(channel));
            let range = range(inside.map(|(channel, unit)| legend.natural(channel, unit)), 0.05);
            Lane { channels, range }
        };
        Self::Signal { legend, shape, lanes: lanes.into_iter().map(lane).collect() }
    }

    fn size(&self) -> (u32, u32) {
        match self {
            Self::Image { shape, scale } => (scale * shape.width as u32, scale * shape.height as u32),
            Self::Signal { shape, lanes, .. } => {
                (CURVE.max(shape.width.min(256) as u32), lanes.len() as u32 * lane_height(lanes))
            }
        }
    }

    /// Room for the numbers at a signal's lanes.
    fn axis_width(&self) -> u32 {
        match self {
            Self::Image { .. } => 0,
            Self::Signal { lanes, .. } => {
                let ends = lanes.iter().flat_map(|lane| [lane.range.0, lane.range.1]);
                ends.map(|end| short(end).chars().count() as u32 * LETTER).max().unwrap_or(0) + CELL_GAP
            }
        }
    }

    /// The numbers at the left of a row's first cell.
    fn draw_axis(&self, canvas: &mut Canvas, at: (i32, i32)) {
        let Self::Signal { lanes, .. } = self else { return };
        let height = lane_height(lanes) as i32;
        for (number, lane) in lanes.iter().enumerate() {
            let (x, y) = (at.0 - CELL_GAP as i32, at.1 + number as i32 * height);
            let color = if lanes.len() == 1 { FAINT } else { PALETTE[number % PALETTE.len()] };
            canvas.text(&short(lane.range.1), (x, y), TEXT, color, Alignment::Right);
            canvas.text(&short(lane.range.0), (x, y + height - 14), TEXT, color, Alignment::Right);
        }
    }

    fn draw(&self, canvas: &mut Canvas, units: &[f32], at: (i32, i32)) {
        match self {
            Self::Image { shape, scale } => {
                let pixels: Vec<u8> = units.iter().copied().map(to_pixel).collect();
                canvas.image(&pixels, *shape, at, *scale);
            }
            Self::Signal { legend, shape, lanes } => {
                let (width, height) = (self.size().0 as i32, lane_height(lanes) as i32);
                for (number, lane) in lanes.iter().enumerate() {
                    let top = at.1 + number as i32 * height;
                    let area = [at.0, top, at.0 + width - 1, top + height - 1];
                    let frame = Frame { area, x: (0.0, shape.width as f64 - 1.0), y: lane.range };
                    canvas.outline((at.0, top), (width as u32, height as u32), GRID);
                    for channel in lane.channels.clone() {
                        let values = units.iter().skip(channel).step_by(shape.channels).enumerate();
                        let point = |(time, &unit): (usize, &f32)| {
                            let value = legend.natural(channel, unit).clamp(lane.range.0, lane.range.1);
                            frame.place((time as f64, value))
                        };
                        canvas.polyline(&values.map(point).collect::<Vec<_>>(), PALETTE[channel % PALETTE.len()], 1);
                    }
                }
            }
        }
    }
}

fn lane_height(lanes: &[Lane]) -> u32 {
    if lanes.len() == 1 { SINGLE_LANE } else { LANE }
}

/// Three significant digits.
fn short(value: f64) -> String {
    let power = 10f64.powi(2 - value.abs().max(1e-6).log10().floor() as i32);
    label((value * power).round() / power)
}

/// Up to `rows` samples of every class of a split, in order: sample i has class `i % classes`.
pub fn rows_of_classes(split: &Split<'_>, rows: usize) -> Samples {
    let set = split.dataset;
    let mut by_class = vec![Vec::new(); set.classes()];
    (0..split.len()).for_each(|index| by_class[usize::from(split.label(index))].push(index));
    let rows = by_class.iter().map(Vec::len).min().unwrap_or(0).min(rows);
    let numbers = (0..rows).flat_map(|row| by_class.iter().map(move |class| class[row]));
    Samples::from_units(numbers.flat_map(|index| split.units(index)).collect(), set.shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_graphics::pixelcolor::RgbColor;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|class| format!("class {class}")).collect()
    }

    fn draw(names: &[String], scale: &[ChannelScale], sections: &[&Samples]) -> image::RgbImage {
        let sections: Vec<Section<'_>> =
            sections.iter().map(|&samples| Section { label: vec!["heading".into()], samples }).collect();
        let canvas = sheet(Legend { class_names: names, scale }, &sections, 2, "foot").unwrap();
        image::load_from_memory(&canvas.to_png().unwrap()).unwrap().to_rgb8()
    }

    fn count(picture: &image::RgbImage, color: embedded_graphics::pixelcolor::Rgb888) -> usize {
        picture.pixels().filter(|pixel| pixel.0 == [color.r(), color.g(), color.b()]).count()
    }

    #[test]
    fn a_signals_channels_are_curves_of_their_colours_in_natural_units() {
        let wave = |index: usize| ((index / 2) as f32 * 0.2 + (index % 2) as f32).sin();
        let samples = Samples::from_units((0..4 * 32 * 2).map(wave).collect(), SampleShape::signal(32, 2));
        let scale = [ChannelScale { offset: 100.0, scale: 50.0 }, ChannelScale { offset: 0.0, scale: 1.0 }];
        let picture = draw(&names(2), &scale, &[&samples]);
        // Two rows of two classes, each curve at least as long as its cell is wide.
        assert!(count(&picture, PALETTE[0]) >= 4 * CURVE as usize, "{}", count(&picture, PALETTE[0]));
        assert!(count(&picture, PALETTE[1]) >= 4 * CURVE as usize);
        assert_eq!(count(&picture, PALETTE[2]), 0);
        let Cell::Signal { lanes, .. } = Cell::of(
            Legend { class_names: &names(2), scale: &scale },
            &Section { label: Vec::new(), samples: &samples },
            2,
        ) else {
            panic!("a signal")
        };
        assert!(lanes[0].range.0 > 40.0 && lanes[0].range.1 < 160.0 && lanes[1].range.1 < 1.2);
    }

    #[test]
    fn many_channels_share_a_lane() {
        let samples =
            Samples::from_units((0..2 * 16 * 9).map(|i| (i as f32).sin()).collect(), SampleShape::signal(16, 9));
        let picture = draw(&names(1), &[], &[&samples]);
        assert!((0..9).all(|channel| count(&picture, PALETTE[channel]) > 0));
        assert!(picture.height() < 3 * SINGLE_LANE + 100);
    }

    #[test]
    fn sections_that_do_not_fit_are_refused() {
        let image =
            |n: usize, side: usize| Samples::from_pixels(vec![0; n * side * side], SampleShape::image(side, side, 1));
        let (four, three, other) = (image(4, 3), image(3, 3), image(4, 2));
        let refuse = |sections: &[&Samples]| {
            let sections: Vec<Section<'_>> =
                sections.iter().map(|&samples| Section { label: vec!["it".into()], samples }).collect();
            let names = names(2);
            sheet(Legend { class_names: &names, scale: &[] }, &sections, 2, "").unwrap_err().to_string()
        };
        assert!(refuse(&[]).contains("needs samples"));
        assert!(refuse(&[&four, &three]).contains("3 samples are not whole rows of 2 classes"));
        assert!(refuse(&[&four, &other]).contains("samples are 2x2x1, others 3x3x1"));
    }
}
