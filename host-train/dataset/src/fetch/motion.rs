//! Motion of a smartwatch during shoulder exercises.

use anyhow::{Context, ensure};
use std::fmt::Write;

use super::archive::zip_member;
use super::client::Package;
use super::pickle::{Array, Pickle};
use super::{FetchableSet, Files, LICENCE_FILE, windows};

/// Windows of 64 samples, 1.28 seconds, that overlap by half.
pub(super) const SET: FetchableSet = FetchableSet {
    name: "motion",
    about: "Smartwatch motion: 140 recordings of 7 exercises by 10 people, 6 channels at 50 Hz, 244,102 samples",
    licence: "BSD-3-Clause",
    attribution: "seglearn, Copyright 2018 David M. Burns (Burns et al., Shoulder physiotherapy exercise recognition, 2018)",
    url: "https://arxiv.org/abs/1802.01489",
    bytes: 11_320_941,
    package: Package::python_wheel("seglearn", "1.2.5", "seglearn-1.2.5-py3-none-any.whl"),
    sha256: "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    unpack,
    source: |path| windows(path, 64, 32),
};

/// One table: a column for each channel, `label` (the exercise), `group` (the person), `series` (the recording).
fn unpack(wheel: &[u8]) -> anyhow::Result<Files> {
    let npy = zip_member(wheel, "seglearn/data/watch_dataset.npy")?;
    let licence = zip_member(wheel, "seglearn-1.2.5.dist-info/LICENSE")?;
    let table = table(&npy)?;
    Ok([("motion.csv".to_owned(), table.into_bytes()), (LICENCE_FILE.to_owned(), licence)].into())
}

/// `npy` is an array of one object, pickled: a dictionary with a list `X` of recordings `[samples, channels]`, their
/// exercises `y` and persons `subject`, and the names `X_labels` and `y_labels`.
fn table(npy: &[u8]) -> anyhow::Result<String> {
    let header = npy.get(8..10).context("it ends early")?;
    let begin = 10 + usize::from(u16::from_le_bytes([header[0], header[1]]));
    let pickle = Pickle::parse(npy.get(begin..).context("it ends early")?)?;
    let dict = pickle.object()?;
    let names = |key| -> anyhow::Result<Vec<&str>> {
        pickle.sequence(pickle.get(dict, key)?)?.iter().map(|&name| pickle.text(name)).collect()
    };
    let (channels, exercises) = (names("X_labels")?, names("y_labels")?);
    let recordings = pickle.sequence(pickle.get(dict, "X")?)?;
    let numbers = |key| whole_numbers(&pickle.array(pickle.get(dict, key)?)?);
    let (exercise_of, person_of) = (numbers("y")?, numbers("subject")?);
    ensure!([exercise_of.len(), person_of.len()] == [recordings.len(); 2], "a recording has no exercise or person");
    let mut table = format!("{},label,group,series\n", channels.join(","));
    for (series, &recording) in recordings.iter().enumerate() {
        let rows = rows(&pickle.array(recording)?, channels.len())?;
        let exercise = usize::try_from(exercise_of[series]).ok().and_then(|number| exercises.get(number));
        let exercise = exercise.context("an exercise has no name")?;
        for row in rows {
            row.iter().for_each(|value| _ = write!(table, "{value},"));
            _ = writeln!(table, "{exercise},{},{series}", person_of[series]);
        }
    }
    Ok(table)
}

/// The rows of a `[samples, channels]` array of f64.
fn rows(array: &Array, channels: usize) -> anyhow::Result<Vec<Vec<f32>>> {
    let (values, rest) = array.bytes.as_chunks::<8>();
    let samples = values.len() / channels;
    let fits = array.kind == "f8" && array.shape == [samples, channels] && rest.is_empty();
    ensure!(fits, "a recording is {} of shape {:?}", array.kind, array.shape);
    let at = |row: usize, channel: usize| {
        if array.fortran_order { channel * samples + row } else { row * channels + channel }
    };
    let value = |row, channel| f64::from_le_bytes(values[at(row, channel)]) as f32;
    Ok((0..samples).map(|row| (0..channels).map(|channel| value(row, channel)).collect()).collect())
}

fn whole_numbers(array: &Array) -> anyhow::Result<Vec<i64>> {
    let (values, rest) = array.bytes.as_chunks::<8>();
    ensure!(array.kind == "i8" && rest.is_empty(), "whole numbers are of type {}", array.kind);
    Ok(values.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::archive::make;
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    fn array(shape: &[u8], kind: &str, fortran: bool, bytes: &[u8]) -> Vec<u8> {
        let latin1: String = bytes.iter().copied().map(char::from).collect();
        let shape: Vec<u8> = shape.iter().flat_map(|&side| [b'K', side]).collect();
        let order = if fortran { b"\x88" } else { b"\x89" };
        let parts = [
            &b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01("[..],
            &shape,
            b"tcnumpy\ndtype\n(",
            &text(kind),
            b"tR",
            order,
            b"c_codecs\nencode\n(",
            &text(&latin1),
            &text("latin1"),
            b"tRtb",
        ];
        parts.concat()
    }

    /// Two recordings of two channels, one of them in Fortran order.
    fn toy() -> Vec<u8> {
        let floats = |values: [f64; 4]| values.map(f64::to_le_bytes).concat();
        let ints = |values: [i64; 2]| values.map(i64::to_le_bytes).concat();
        let list = |items: &[Vec<u8>]| [b"](", &items.concat()[..], b"e"].concat();
        let entries = [
            text("X"),
            list(&[
                array(&[2, 2], "f8", false, &floats([1.0, 2.0, 3.0, 4.0])),
                array(&[2, 2], "f8", true, &floats([5.0, 7.0, 6.5, 8.0])),
            ]),
            text("y"),
            array(&[2], "i8", false, &ints([1, 0])),
            text("subject"),
            array(&[2], "i8", false, &ints([7, 9])),
            text("X_labels"),
            list(&[text("ax"), text("ay")]),
            text("y_labels"),
            list(&[text("ROW"), text("PEN")]),
        ];
        let dict = [b"}(", &entries.concat()[..], b"u"].concat();
        let parts = [
            &b"\x93NUMPY\x01\0\x04\0{ }\n\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01)cnumpy\ndtype\n(X\x02\0\0\0O8tR\x89]"[..],
            &dict,
            b"atb.",
        ];
        parts.concat()
    }

    #[test]
    fn recordings_become_rows_with_exercise_person_and_number() {
        let wheel =
            make::zip(&[("seglearn/data/watch_dataset.npy", &toy()), ("seglearn-1.2.5.dist-info/LICENSE", b"BSD")]);
        let files = unpack(&wheel).unwrap();
        let table = std::str::from_utf8(&files["motion.csv"]).unwrap();
        assert_eq!(table, "ax,ay,label,group,series\n1,2,PEN,7,0\n3,4,PEN,7,0\n5,6.5,ROW,9,1\n7,8,ROW,9,1\n");
        assert_eq!(files[LICENCE_FILE], b"BSD");
    }
}
