//! NumPy's `.npy` files: images, windows of signals, or rows.
//!
//! Source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays".

use std::path::{Path, PathBuf};

use super::super::images::ImageOptions;
use super::super::split::by_group;
use super::{Cell, Dataset, DatasetError, Rows, SampleShape, TableOptions, Values, folder, scaled};
use crate::idx::class_names;

const MAGIC: &[u8] = b"\x93NUMPY";

/// An array of numbers in C order.
#[derive(Debug, PartialEq)]
struct Array {
    shape: Vec<usize>,
    values: Values,
}

/// Reads an array, or the one array of samples in a folder.
///
/// | type | dimensions | samples |
/// |---|---|---|
/// | u8 | n, height, width | gray images |
/// | u8 | n, height, width, channels (1, 3 or 4) | images |
/// | any number | n, steps, channels | windows of a signal |
/// | other than u8 | n, height, width, channels | images of numbers |
/// | any number | rows, columns | as a table's: vectors, or windows where --data-window is given |
///
/// Labels and groups are arrays of whole numbers, one a sample (or row): the files that the options name, else
/// `labels.npy` and `groups.npy` beside the array. Class names are the lines of `classes.txt` beside it, or the numbers.
pub(crate) fn load(path: &Path, images: &ImageOptions, table: &TableOptions) -> Result<Dataset, DatasetError> {
    let file = if path.is_dir() { only_array(path)? } else { path.to_owned() };
    let dir = file.parent().unwrap_or(Path::new(""));
    let array = read(&file)?;
    let beside = |given: &Option<String>, usual: &str| match given {
        Some(name) => whole_numbers(&dir.join(name)).map(Some),
        None => Some(dir.join(usual)).filter(|path| path.exists()).map(|path| whole_numbers(&path)).transpose(),
    };
    let n = array.shape.first().copied().unwrap_or(0);
    let labels = beside(&table.label, "labels.npy")?;
    let groups = beside(&table.group, "groups.npy")?;
    for (what, numbers) in [("labels", &labels), ("groups", &groups)] {
        if let Some(found) = numbers.as_ref().map(Vec::len).filter(|&found| found != n) {
            let fix = "give one of each sample";
            return Err(DatasetError::refused(&file, format!("it has {n} samples, and there are {found} {what}"), fix));
        }
    }
    let numbers_of_classes = labels.clone().unwrap_or_else(|| vec![0; n]);
    let names = || class_names(dir, numbers_of_classes.iter().max().map_or(0, |&most| most as usize + 1));
    let labels_u16 = || -> Result<Vec<u16>, DatasetError> {
        let number = |&label: &i64| u16::try_from(label).ok();
        numbers_of_classes.iter().map(number).collect::<Option<_>>().ok_or_else(|| {
            DatasetError::refused(&file, "a label is negative or above 65,535", "number the classes from 0 on")
        })
    };
    let set = match (array.values, &array.shape[..]) {
        (_, shape) if shape.contains(&0) || shape.len() < 2 => {
            return Err(DatasetError::refused(
                &file,
                format!("its shape is {shape:?}"),
                "samples are 2 to 4 dimensions, none 0",
            ));
        }
        (Values::Bytes(pixels), &[_, height, width]) => {
            images_of(&file, [height, width, 1], pixels, images, labels_u16()?, names()?)?
        }
        (Values::Bytes(pixels), &[_, height, width, channels @ (1 | 3 | 4)]) => {
            images_of(&file, [height, width, channels], pixels, images, labels_u16()?, names()?)?
        }
        (Values::Floats(floats), &[_, ref sides @ ..]) if (2..=3).contains(&sides.len()) => {
            if let Some(at) = floats.iter().position(|value| !value.is_finite()) {
                let each: usize = sides.iter().product();
                let what = format!("sample {} has a {} at {}", at / each, floats[at], at % each);
                return Err(DatasetError::refused(&file, what, "correct or remove that sample"));
            }
            let shape = match *sides {
                [steps, channels] => SampleShape::signal(steps, channels),
                [height, width, channels] => SampleShape::image(height, width, channels),
                _ => unreachable!("two or three sides"),
            };
            Dataset::new(shape, Values::Floats(floats), labels_u16()?, names()?)
        }
        (values, &[_, columns]) => {
            let mut set = rows(&file, &floats(values), columns, table, labels.as_deref(), groups.as_deref())?;
            if labels.is_some() {
                // The rows' class names are numbers; those that occur.
                let names = names()?;
                let name = |number: &String| number.parse::<usize>().ok().and_then(|number| names.get(number).cloned());
                set.class_names = set.class_names.iter().map(|number| name(number).unwrap_or(number.clone())).collect();
            }
            return Ok(set);
        }
        (_, shape) => {
            let fix = "images are [n, height, width] or [n, height, width, 1, 3 or 4] of u8";
            return Err(DatasetError::refused(&file, format!("its shape is {shape:?}"), fix));
        }
    };
    let set = match groups {
        None => set,
        Some(groups) => {
            let fix = "a group is held out whole: give data of at least two";
            let held_out =
                by_group(&groups).ok_or_else(|| DatasetError::refused(&file, "it has one group only", fix))?;
            set.with_held_out(held_out)
        }
    };
    Ok(if matches!(set.values, Values::Floats(_)) { scaled(set, table.scaling) } else { set })
}

fn images_of(
    file: &Path,
    shape: [usize; 3],
    pixels: Vec<u8>,
    options: &ImageOptions,
    labels: Vec<u16>,
    names: Vec<String>,
) -> Result<Dataset, DatasetError> {
    let (shape, pixels, notes) = crate::array_images(file, shape, pixels, options)?;
    let mut set = Dataset::new(shape, Values::Bytes(pixels), labels, names);
    set.notes = notes;
    Ok(set)
}

/// The rows of a two-dimensional array, with labels and groups as further columns.
fn rows(
    file: &Path,
    values: &[f32],
    columns: usize,
    options: &TableOptions,
    labels: Option<&[i64]>,
    groups: Option<&[i64]>,
) -> Result<Dataset, DatasetError> {
    let options = TableOptions { label: None, group: None, ..options.clone() };
    let mut header: Vec<String> = (0..columns).map(|column| column.to_string()).collect();
    header.extend([labels.map(|_| "label"), groups.map(|_| "group")].into_iter().flatten().map(str::to_owned));
    let extra: Vec<&[i64]> = [labels, groups].into_iter().flatten().collect();
    let mut rows = Rows::new(file, &options)?;
    rows.begin_file(file, &header)?;
    for (number, row) in values.chunks_exact(columns).enumerate() {
        let cell = |column: usize| match column.checked_sub(columns) {
            None => Cell::Number(row[column].into()),
            Some(extra_column) => Cell::Number(extra[extra_column][number] as f64),
        };
        rows.push(&format!("row {number}"), cell)?;
    }
    rows.finish()
}

/// The one array of a folder that is neither labels nor groups.
fn only_array(dir: &Path) -> Result<PathBuf, DatasetError> {
    let is_samples = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".npy") && name != "labels.npy" && name != "groups.npy"
    };
    let mut arrays: Vec<PathBuf> = folder::list(dir)?.into_iter().filter(is_samples).collect();
    match (arrays.pop(), arrays.is_empty()) {
        (Some(array), true) => Ok(array),
        _ => Err(DatasetError::refused(dir, "it has not exactly one .npy file of samples", "name the file itself")),
    }
}

fn whole_numbers(path: &Path) -> Result<Vec<i64>, DatasetError> {
    let Array { shape, values } = read(path)?;
    let numbers = floats(values);
    let fix = "labels and groups are one whole number a sample";
    if shape.len() != 1 {
        return Err(DatasetError::refused(path, format!("its shape is {shape:?}"), fix));
    }
    let whole = |value: &f32| (value.fract() == 0.0).then_some(*value as i64);
    numbers
        .iter()
        .map(whole)
        .collect::<Option<_>>()
        .ok_or_else(|| DatasetError::refused(path, "a number is not whole", fix))
}

fn floats(values: Values) -> Vec<f32> {
    match values {
        Values::Floats(floats) => floats,
        Values::Bytes(bytes) => bytes.into_iter().map(f32::from).collect(),
    }
}

fn read(path: &Path) -> Result<Array, DatasetError> {
    let file = std::fs::read(path).map_err(DatasetError::read(path))?;
    parse(&file)
        .map_err(|what| DatasetError::refused(path, what, "save it with numpy.save from a C-ordered array of numbers"))
}

fn parse(file: &[u8]) -> Result<Array, String> {
    let early = || "it ends inside its header".to_owned();
    let (magic, rest) = file.split_at_checked(MAGIC.len()).ok_or_else(early)?;
    if magic != MAGIC {
        return Err("it is no .npy file".to_owned());
    }
    let (length, rest) = match *rest {
        [1, _, a, b, ref rest @ ..] => (usize::from(u16::from_le_bytes([a, b])), rest),
        [2 | 3, _, a, b, c, d, ref rest @ ..] => (u32::from_le_bytes([a, b, c, d]) as usize, rest),
        _ => return Err("its .npy version is not 1, 2 or 3".to_owned()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(early)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is no text".to_owned())?;
    let entry = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let kind = entry("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let kind = kind.ok_or_else(|| "its values have no single type".to_owned())?;
    if !entry("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
        return Err("it is in Fortran order".to_owned());
    }
    let shape = entry("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let sides = shape.unwrap_or("").split(',').map(str::trim).filter(|side| !side.is_empty());
    let shape: Vec<usize> =
        sides.map(str::parse).collect::<Result<_, _>>().map_err(|_| "its shape is no list of numbers")?;
    let (order, kind) = kind.split_at_checked(1).filter(|(order, _)| "<>|=".contains(order)).unwrap_or(("<", kind));
    let values = match kind {
        "u1" => Values::Bytes(data.to_vec()),
        _ => Values::Floats(numbers(kind, order == ">", data).ok_or_else(|| format!("its values are of type {kind}"))?),
    };
    let length = match &values {
        Values::Bytes(bytes) => bytes.len(),
        Values::Floats(floats) => floats.len(),
    };
    if shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side)) != Some(length) {
        return Err(format!("it has {length} values for shape {shape:?}"));
    }
    Ok(Array { shape, values })
}

/// Values of NumPy's type `kind` as floats; `None` for other types or a broken last value.
fn numbers(kind: &str, big_endian: bool, data: &[u8]) -> Option<Vec<f32>> {
    fn each<const N: usize>(data: &[u8], big_endian: bool, value: fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        let (values, rest) = data.as_chunks::<N>();
        let little = |mut bytes: [u8; N]| {
            if big_endian {
                bytes.reverse();
            }
            bytes
        };
        rest.is_empty().then(|| values.iter().map(|&bytes| value(little(bytes))).collect())
    }
    match kind {
        "b1" | "i1" => each(data, big_endian, |bytes| f32::from(i8::from_le_bytes(bytes))),
        "i2" => each(data, big_endian, |bytes| f32::from(i16::from_le_bytes(bytes))),
        "u2" => each(data, big_endian, |bytes| f32::from(u16::from_le_bytes(bytes))),
        "i4" => each(data, big_endian, |bytes| i32::from_le_bytes(bytes) as f32),
        "u4" => each(data, big_endian, |bytes| u32::from_le_bytes(bytes) as f32),
        "i8" => each(data, big_endian, |bytes| i64::from_le_bytes(bytes) as f32),
        "u8" => each(data, big_endian, |bytes| u64::from_le_bytes(bytes) as f32),
        "f4" => each(data, big_endian, f32::from_le_bytes),
        "f8" => each(data, big_endian, |bytes| f64::from_le_bytes(bytes) as f32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn floats_npy(shape: &str, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        npy("<f4", shape, &values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>())
    }

    fn labels_npy(labels: &[i64]) -> Vec<u8> {
        npy(
            "<i8",
            &format!("{},", labels.len()),
            &labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>(),
        )
    }

    /// A folder with `x.npy` and the other files.
    fn folder_of(x: &[u8], others: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.npy"), x).unwrap();
        others.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
        dir
    }

    fn load_with(x: &[u8], others: &[(&str, &[u8])], table: &TableOptions) -> Result<Dataset, DatasetError> {
        load(folder_of(x, others).path(), &ImageOptions::default(), table)
    }

    fn load_plain(x: &[u8], others: &[(&str, &[u8])]) -> Result<Dataset, DatasetError> {
        load_with(x, others, &TableOptions::default())
    }

    #[test]
    fn bytes_are_images_with_labels_and_class_names_beside_them() {
        let others: [(&str, &[u8]); 2] =
            [("labels.npy", &labels_npy(&[1, 0, 1, 0, 1])), ("classes.txt", b"ant\nbee\n")];
        let set = load_plain(&npy("|u1", "5, 2, 3", &(0..30).collect::<Vec<_>>()), &others).unwrap();
        assert_eq!(
            (set.shape, &set.labels[..], &set.class_names[1][..]),
            (SampleShape::image(2, 3, 1), &[1, 0, 1, 0, 1][..], "bee")
        );
        assert_eq!(set.image(1), Some(&[6, 7, 8, 9, 10, 11][..]));
        let set = load_plain(&npy("|u1", "2, 1, 2, 3", &[9; 12]), &[]).unwrap();
        assert_eq!((set.shape, set.classes()), (SampleShape::image(1, 2, 3), 1));
    }

    #[test]
    fn floats_are_windows_images_or_rows() {
        let values = || (0..24).map(|value| value as f32);
        let others: [(&str, &[u8]); 1] = [("groups.npy", &labels_npy(&[7, 8, 8]))];
        let set = load_plain(&floats_npy("3, 4, 2", values()), &others).unwrap();
        assert_eq!((set.shape, set.held_out().indices), (SampleShape::signal(4, 2), vec![1, 2]));
        // Channel 0 of the one training window is 0, 2, 4, 6.
        assert_eq!(set.units(0).step_by(2).collect::<Vec<_>>(), [-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0]);
        assert_eq!(load_plain(&floats_npy("6, 2, 2, 1", values()), &[]).unwrap().shape, SampleShape::image(2, 2, 1));
        let rows = floats_npy("12, 2", values());
        assert_eq!(load_plain(&rows, &[]).unwrap().shape, SampleShape::vector(2));
        let others: [(&str, &[u8]); 2] =
            [("labels.npy", &labels_npy(&[5; 12])), ("classes.txt", b"a\nb\nc\nd\ne\nf\n")];
        let set = load_with(&rows, &others, &TableOptions { window: Some(3), ..TableOptions::default() }).unwrap();
        assert_eq!((set.shape, &set.class_names[..]), (SampleShape::signal(3, 2), &["f".to_owned()][..]));
    }

    #[test]
    fn every_type_of_number_is_read_in_either_byte_order() {
        for (kind, data) in [
            ("|i1", vec![255u8, 2]),
            ("<i2", [-1i16, 2].map(i16::to_le_bytes).concat()),
            (">i2", [-1i16, 2].map(i16::to_be_bytes).concat()),
            ("<i4", [-1i32, 2].map(i32::to_le_bytes).concat()),
            ("<i8", [-1i64, 2].map(i64::to_le_bytes).concat()),
            ("<f4", [-1f32, 2.0].map(f32::to_le_bytes).concat()),
            (">f8", [-1f64, 2.0].map(f64::to_be_bytes).concat()),
        ] {
            assert_eq!(parse(&npy(kind, "2", &data)).unwrap().values, Values::Floats(vec![-1.0, 2.0]), "{kind}");
        }
        for (kind, data) in [("<u2", vec![3, 0]), ("<u4", vec![3, 0, 0, 0]), ("<u8", vec![3, 0, 0, 0, 0, 0, 0, 0])] {
            assert_eq!(parse(&npy(kind, "1,", &data)).unwrap().values, Values::Floats(vec![3.0]), "{kind}");
        }
    }

    #[test]
    fn bad_arrays_are_named_with_what_is_wrong() {
        let message = |x: &[u8], others: &[(&str, &[u8])]| load_plain(x, others).unwrap_err().to_string();
        let fives = || floats_npy("5, 2, 2", [0.5; 20]);
        for (x, expected) in [
            (b"PK".to_vec(), "ends inside its header"),
            (b"\x89PNG\r\n".to_vec(), "no .npy file"),
            (npy("|O", "5, 2", &[0; 10]), "of type O"),
            (npy("<f4", "5, 2", &[0; 39]), "of type f4"),
            (npy("<f4", "5, 2", &[0; 36]), "9 values for shape [5, 2]"),
            (npy("|u1", "5, 2, 2, 2", &[0; 40]), "its shape is [5, 2, 2, 2]"),
            (npy("|u1", "5", &[0; 5]), "its shape is [5]"),
            (floats_npy("5, 2, 2", (0..20).map(|at| if at == 9 { f32::NAN } else { 0.0 })), "sample 2 has a NaN at 1"),
        ] {
            assert!(message(&x, &[]).contains(expected), "{}", message(&x, &[]));
        }
        assert!(
            message(&fives(), &[("labels.npy", &labels_npy(&[0; 4]))]).contains("5 samples, and there are 4 labels")
        );
        assert!(message(&fives(), &[("labels.npy", &labels_npy(&[0, 0, -1, 0, 0]))]).contains("negative"));
        assert!(message(&fives(), &[("labels.npy", &fives())]).contains("labels.npy: its shape is [5, 2, 2]"));
        assert!(message(&fives(), &[("groups.npy", &labels_npy(&[3; 5]))]).contains("one group only"));
        assert!(message(&fives(), &[("y.npy", &fives())]).contains("not exactly one .npy"));
        assert!(
            message(&fives(), &[("labels.npy", &labels_npy(&[0, 1, 2, 0, 1])), ("classes.txt", b"a\n")])
                .contains("names 1 classes")
        );
    }

    #[test]
    fn fortran_order_is_refused() {
        let header = "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }";
        let file = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
        assert_eq!(parse(&file), Err("it is in Fortran order".to_owned()));
    }
}
