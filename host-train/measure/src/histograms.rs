//! Histograms of stored numbers, many in one picture.

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;

use super::canvas::{BOLD, Canvas, FAINT, INK, PALETTE, TEXT};

/// One histogram.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub note: String,
    /// What was counted, from the left to the right.
    pub counts: Vec<u64>,
    /// What is written under the left and the right end.
    pub ends: [String; 2],
    /// Panels of one kind have one colour, a number of the palette.
    pub color: usize,
}

/// Panels beside each other.
const COLUMNS: usize = 3;
/// A panel's width and height, text and margins included.
const PANEL: (i32, i32) = (330, 168);
/// Its bars' left, top, right, bottom.
const BARS: [i32; 4] = [14, 46, 314, 136];
/// Height of the heading.
const HEAD: i32 = 40;
/// The least share of the fullest bin that is seen: bars are as high as the logarithm of their counts.
const DECADES: f64 = 5.0;
/// Of the two outermost bins.
const END: Rgb888 = PALETTE[3];

/// Draws `panels` row by row under `title`. Bars are on a logarithmic scale, those at the ends in red: what is beyond the ends
/// of its type is there too.
pub fn histograms(title: &str, panels: &[Panel]) -> Canvas {
    let rows = panels.len().div_ceil(COLUMNS) as i32;
    let mut canvas = Canvas::new((COLUMNS as i32 * PANEL.0 + 10) as u32, (HEAD + rows * PANEL.1 + 10) as u32);
    canvas.text(title, (14, 12), BOLD, INK, Alignment::Left);
    for (index, panel) in panels.iter().enumerate() {
        let at = (index % COLUMNS, index / COLUMNS);
        draw(&mut canvas, panel, (at.0 as i32 * PANEL.0, HEAD + at.1 as i32 * PANEL.1));
    }
    canvas
}

fn draw(canvas: &mut Canvas, panel: &Panel, (x, y): (i32, i32)) {
    let [left, top, right, bottom] = BARS;
    let short = |text: &str| text.chars().take(44).collect::<String>();
    canvas.text(&short(&panel.title), (x + left, y + 8), TEXT, INK, Alignment::Left);
    canvas.text(&short(&panel.note), (x + left, y + 24), TEXT, FAINT, Alignment::Left);
    let fullest = panel.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let count = panel.counts.len().max(1) as i32;
    for (bin, &seen) in panel.counts.iter().enumerate() {
        let edge = |bin: i32| left + (right - left) * bin / count;
        let (from, to) = (edge(bin as i32), edge(bin as i32 + 1));
        let share = 1.0 + (seen as f64 / fullest).log10() / DECADES;
        let height = if seen == 0 { 0 } else { (share.max(0.02) * f64::from(bottom - top)).round() as i32 };
        let at_end = bin == 0 || bin + 1 == panel.counts.len();
        let color = if at_end { END } else { PALETTE[panel.color % PALETTE.len()] };
        canvas.fill((x + from, y + bottom - height), ((to - from).max(1) as u32, height as u32), color);
    }
    canvas.line((x + left, y + bottom), (x + right, y + bottom), FAINT);
    let [low, high] = &panel.ends;
    canvas.text(low, (x + left, y + bottom + 4), TEXT, FAINT, Alignment::Left);
    canvas.text(high, (x + right, y + bottom + 4), TEXT, FAINT, Alignment::Right);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_the_logarithm_of_their_counts() {
        let panel = |counts: Vec<u64>| Panel {
            title: "conv".to_owned(),
            note: String::new(),
            counts,
            ends: ["-128".to_owned(), "127".to_owned()],
            color: 0,
        };
        let png = histograms("toy", &[panel(vec![0, 100_000, 100, 1])]).to_png().unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        let height = |bin: u32| {
            let x = 14 + 75 * bin + 37;
            let bar = [[31, 95, 166], [176, 42, 62]];
            (0..picture.height()).filter(|&y| bar.contains(&picture.get_pixel(x, y).0)).count()
        };
        assert_eq!([0, 1, 2, 3].map(height), [0, 90, 36, 2]);
    }
}
