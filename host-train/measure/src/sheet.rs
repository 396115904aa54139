//! The contact sheet: classes in columns, one section of rows for each way of drawing.

use anyhow::ensure;
use embedded_graphics::text::Alignment;

use super::canvas::{BOLD, Canvas, FAINT, INK, TEXT};
use super::npy::Samples;
use mote_dataset::{DatasetError, SampleShape, Split};

/// Columns shown; further classes are left out.
const MAX_COLUMNS: usize = 16;
/// An image is enlarged to at least this many pixels across.
const CELL: u32 = 56;
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

/// Draws the sheet: each section's first `rows` samples of every class.
pub fn sheet(class_names: &[String], sections: &[Section<'_>], rows: usize, foot: &str) -> anyhow::Result<Canvas> {
    let classes = class_names.len();
    let columns = classes.min(MAX_COLUMNS);
    ensure!(!sections.is_empty(), "a contact sheet needs samples");
    let [_, height, width, channels] = sections[0].samples.shape;
    for section in sections {
        let [n, shape @ ..] = section.samples.shape;
        let label = &section.label[0];
        ensure!(
            shape == [height, width, channels],
            "{label}: samples are {shape:?}, others {height}x{width}x{channels}"
        );
        ensure!(n >= classes && n % classes == 0, "{label}: {n} samples are not whole rows of {classes} classes");
    }

    let scale = CELL.div_ceil(width as u32);
    let (cell_width, cell_height) = (scale * width as u32, scale * height as u32);
    let name_width = class_names[..columns].iter().map(|name| name.chars().count().min(12) as u32 * LETTER);
    let pitch = (cell_width + CELL_GAP).max(name_width.max().unwrap_or(0) + CELL_GAP);
    let labels = sections.iter().flat_map(|section| &section.label);
    let left = MARGIN + labels.map(|line| line.chars().count() as u32 * LETTER).max().unwrap_or(0) + MARGIN;
    let rows_of = |section: &Section<'_>| rows.min(section.samples.len() / classes);
    let section_height = |section: &Section<'_>| {
        (rows_of(section) as u32 * (cell_height + CELL_GAP)).max(section.label.len() as u32 * LINE) + SECTION_GAP
    };
    let top = MARGIN + LINE + CELL_GAP;
    let total_height = top + sections.iter().map(section_height).sum::<u32>() + LINE + MARGIN / 2;
    let total_width = (left + columns as u32 * pitch + MARGIN).max(2 * MARGIN + foot.chars().count() as u32 * LETTER);
    let mut canvas = Canvas::new(total_width, total_height);

    let center = |column: usize| (left + column as u32 * pitch + pitch / 2) as i32;
    for (column, name) in class_names[..columns].iter().enumerate() {
        let name: String = name.chars().take(12).collect();
        canvas.text(&name, (center(column), MARGIN as i32), TEXT, INK, Alignment::Center);
    }
    let mut y = top;
    for section in sections {
        for (number, line) in section.label.iter().enumerate() {
            let (font, color) = if number == 0 { (BOLD, INK) } else { (TEXT, FAINT) };
            canvas.text(line, (MARGIN as i32, (y + number as u32 * LINE) as i32), font, color, Alignment::Left);
        }
        for row in 0..rows_of(section) {
            for column in 0..columns {
                let at = (center(column) - cell_width as i32 / 2, (y + row as u32 * (cell_height + CELL_GAP)) as i32);
                canvas.image(section.samples.image(row * classes + column), [height, width, channels], at, scale);
            }
        }
        y += section_height(section);
    }
    canvas.text(foot, (MARGIN as i32, y as i32), TEXT, FAINT, Alignment::Left);
    Ok(canvas)
}

/// Up to `rows` images of every class of a split, in order: image i has class `i % classes`.
///
/// # Errors
/// If the split is not of images.
pub fn rows_of_classes(split: &Split<'_>, rows: usize) -> Result<Samples, DatasetError> {
    let set = split.dataset;
    let mut by_class = vec![Vec::new(); set.classes()];
    for index in 0..split.len() {
        let image = split.image(index).ok_or(DatasetError::NotImages(set.shape))?;
        by_class[usize::from(split.label(index))].push(image);
    }
    let rows = by_class.iter().map(Vec::len).min().unwrap_or(0).min(rows);
    let pixels: Vec<u8> =
        (0..rows).flat_map(|row| by_class.iter().flat_map(move |images| images[row])).copied().collect();
    let SampleShape { height, width, channels } = set.shape;
    Ok(Samples { pixels, shape: [rows * set.classes(), height, width, channels] })
}
