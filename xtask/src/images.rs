//! Pictures as files: one PNG, and a NumPy array of many samples.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufReader, Write};
use std::path::Path;

/// Samples of one shape, one after the other, height x width x channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Samples {
    /// Height in pixels.
    pub(crate) height: usize,
    /// Width in pixels.
    pub(crate) width: usize,
    /// Channels: 1 is gray, 3 is RGB.
    pub(crate) channels: usize,
    /// All samples' pixels.
    pub(crate) pixels: Vec<u8>,
}

impl Samples {
    /// Bytes of one sample.
    pub(crate) fn sample_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Number of samples.
    pub(crate) fn count(&self) -> usize {
        self.pixels.len() / self.sample_len()
    }

    /// The samples in a grid of `columns`, row by row, as one larger sample. What is left of the last row is black.
    pub(crate) fn grid(&self, columns: usize) -> Samples {
        let rows = self.count().div_ceil(columns);
        let (line, wide) = (self.width * self.channels, columns * self.width * self.channels);
        let mut pixels = vec![0; rows * self.height * wide];
        for (index, sample) in self.pixels.chunks_exact(self.sample_len()).enumerate() {
            let top = index / columns * self.height;
            let left = index % columns * line;
            for (y, source) in sample.chunks_exact(line).enumerate() {
                let at = (top + y) * wide + left;
                pixels[at..at + line].copy_from_slice(source);
            }
        }
        Samples { height: rows * self.height, width: columns * self.width, channels: self.channels, pixels }
    }

    /// Writes the one sample as a PNG.
    pub(crate) fn write_png(&self, path: &Path) -> Result<()> {
        let color = match self.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            other => bail!("a PNG of {other} channels does not exist: write the samples with --npy instead"),
        };
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(color);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        write_whole(path, &file)
    }

    /// Writes all samples as a NumPy array `u8 [count, height, width, channels]`, format 1.0.
    pub(crate) fn write_npy(&self, path: &Path) -> Result<()> {
        let shape = format!("({}, {}, {}, {})", self.count(), self.height, self.width, self.channels);
        let mut header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
        // Magic, version and length take 10 bytes; the data begin at a multiple of 64, after a newline.
        header += &" ".repeat((10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1));
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend(u16::try_from(header.len())?.to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(&self.pixels);
        write_whole(path, &file)
    }
}

/// The pixels of a PNG of this height and width, in so many channels: gray is the luma of BT.601, alpha is left out.
pub(crate) fn read_png(path: &Path, [height, width]: [usize; 2], channels: usize) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {} as a PNG", path.display());
    let file = fs::File::open(path).with_context(cannot)?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().with_context(cannot)?;
    let mut pixels = vec![0; reader.output_buffer_size().context("the picture is too large")?];
    let info = reader.next_frame(&mut pixels).with_context(cannot)?;
    let (found_height, found_width) = (info.height as usize, info.width as usize);
    if (found_height, found_width) != (height, width) {
        bail!("{} is {found_width}x{found_height} pixels, but the model draws {width}x{height}", path.display());
    }
    let found = info.color_type.samples();
    let gray = |[red, green, blue]: [u8; 3]| {
        ((u16::from(red) * 77 + u16::from(green) * 150 + u16::from(blue) * 29 + 128) / 256) as u8
    };
    let pixel = |pixel: &[u8]| {
        let color = if found < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] };
        match channels {
            1 => vec![gray(color)],
            3 => color.to_vec(),
            4 => [color[0], color[1], color[2], 255].to_vec(),
            _ => Vec::new(),
        }
    };
    if !matches!(channels, 1 | 3 | 4) {
        bail!("the model draws {channels} channels, which no PNG has");
    }
    Ok(pixels[..info.buffer_size()].chunks_exact(found).flat_map(pixel).collect())
}

/// Writes a file so that it is either whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let cannot = || format!("cannot write {}", path.display());
    let mut file =
        tempfile::Builder::new().permissions(default_permissions()).tempfile_in(folder).with_context(cannot)?;
    file.write_all(bytes).with_context(cannot)?;
    file.persist(path).with_context(cannot)?;
    Ok(())
}

#[cfg(unix)]
fn default_permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_samples() -> Samples {
        Samples { height: 2, width: 2, channels: 1, pixels: (1..=12).collect() }
    }

    #[test]
    fn a_grid_keeps_rows_of_samples_and_pads_with_black() {
        let grid = three_samples().grid(2);
        assert_eq!((grid.height, grid.width), (4, 4));
        assert_eq!(grid.pixels, [1, 2, 5, 6, 3, 4, 7, 8, 9, 10, 0, 0, 11, 12, 0, 0]);
    }

    #[test]
    fn an_array_has_an_aligned_header_and_then_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npy");
        three_samples().write_npy(&path).unwrap();
        let file = fs::read(path).unwrap();
        let header_len = usize::from(u16::from_le_bytes([file[8], file[9]]));
        assert_eq!((10 + header_len) % 64, 0);
        assert!(String::from_utf8_lossy(&file[10..10 + header_len]).contains("'shape': (3, 2, 2, 1)"));
        assert_eq!(file[10 + header_len..], three_samples().pixels);
    }

    #[test]
    fn a_png_is_read_as_it_was_written_and_in_other_channels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let sample = Samples { height: 1, width: 2, channels: 3, pixels: vec![255, 0, 0, 10, 20, 30] };
        sample.write_png(&path).unwrap();
        assert_eq!(read_png(&path, [1, 2], 3).unwrap(), sample.pixels);
        assert_eq!(read_png(&path, [1, 2], 1).unwrap(), [77, 18]);
        let gray = Samples { channels: 1, pixels: vec![3, 250], ..sample };
        gray.write_png(&path).unwrap();
        assert_eq!(read_png(&path, [1, 2], 1).unwrap(), gray.pixels);
        assert_eq!(read_png(&path, [1, 2], 3).unwrap(), [3, 3, 3, 250, 250, 250]);
        assert!(read_png(&path, [2, 2], 1).unwrap_err().to_string().contains("is 2x1"));
        assert!(read_png(&path, [1, 2], 2).unwrap_err().to_string().contains("2 channels"));
    }

    #[test]
    fn a_png_of_two_channels_is_refused_with_the_way_out() {
        let samples = Samples { height: 1, width: 1, channels: 2, pixels: vec![0, 0] };
        let error = samples.write_png(Path::new("never.png")).unwrap_err();
        assert!(error.to_string().contains("--npy"));
    }
}
