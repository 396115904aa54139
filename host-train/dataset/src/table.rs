//! Rows of named columns become vectors, or windows of a signal.

mod csv;
mod npy;
mod parquet;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scale::Scaling;
use super::split::{HELD_OUT_EVERY, by_group};
use super::{Dataset, DatasetError, SampleShape, Values, folder};

pub(crate) use self::npy::load as load_npy;

/// How the rows of a table become samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TableOptions {
    /// Columns that are the channels, separated by commas [default: all that have no other use]
    #[arg(long = "data-columns", value_name = "A,B,..", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Column with the class; for .npy files, a file of labels [default: `label` or labels.npy, where there is one]
    #[arg(long = "data-label", value_name = "COLUMN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Column whose values are never divided between training and held-out samples, such as a person; for .npy files, a
    /// file [default: `group` or groups.npy, where there is one; else the series; else the file, of several]
    #[arg(long = "data-group", value_name = "COLUMN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Column with the recording: a window never holds rows of two [default: `series`, where there is one]
    #[arg(long = "data-series", value_name = "COLUMN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Rows of a window: each sample is a signal of so many steps. Without it, each row is a sample
    #[arg(long = "data-window", value_name = "ROWS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Rows from one window to the next [default: a window, so that none overlap]
    #[arg(long = "data-stride", value_name = "ROWS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// How values are brought to about [-1, 1], kept in the model's file [default: percentile]
    #[arg(long = "data-scaling", value_name = "HOW")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Leave out rows with a value that is missing or no finite number, instead of refusing the data
    #[arg(long = "data-drop-bad-rows")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drop_bad_rows: bool,
}

/// Reads a .csv file, or all of a folder.
pub(crate) fn load_csv(path: &Path, options: &TableOptions) -> Result<Dataset, DatasetError> {
    load(path, options, &["csv", "tsv"], csv::read)
}

/// Reads a .parquet file, or all of a folder.
pub(crate) fn load_parquet(path: &Path, options: &TableOptions) -> Result<Dataset, DatasetError> {
    load(path, options, &["parquet"], parquet::read)
}

fn load(
    path: &Path,
    options: &TableOptions,
    extensions: &[&str],
    read: fn(&Path, &mut Rows<'_>) -> Result<(), DatasetError>,
) -> Result<Dataset, DatasetError> {
    let mut rows = Rows::new(path, options)?;
    let is_table = |file: &PathBuf| {
        let extension = file.extension().unwrap_or_default();
        extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    if path.is_dir() {
        let files: Vec<PathBuf> = folder::list(path)?.into_iter().filter(is_table).collect();
        files.iter().try_for_each(|file| read(file, &mut rows))?;
    } else {
        read(path, &mut rows)?;
    }
    rows.finish()
}

/// One cell of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cell<'a> {
    Number(f64),
    Text(&'a str),
    Missing,
}

/// What each column of a file is for, by its position.
#[derive(Debug, Clone, Default)]
struct Roles {
    channels: Vec<usize>,
    label: Option<usize>,
    group: Option<usize>,
    series: Option<usize>,
}

impl Roles {
    /// Every column that is needed.
    fn used(&self) -> Vec<usize> {
        self.channels.iter().copied().chain([self.label, self.group, self.series].into_iter().flatten()).collect()
    }
}

/// Rows read so far. One row is a channel after the other in `values`, and an entry in each other list.
struct Rows<'a> {
    path: &'a Path,
    options: &'a TableOptions,
    channel_names: Vec<String>,
    roles: Roles,
    file: PathBuf,
    files: usize,
    values: Vec<f32>,
    labels: Names,
    groups: Names,
    /// Rows of one number follow each other without a gap, in one series, group and class of one file.
    runs: Vec<u32>,
    /// File, series, group and label of the last row; `None` after a gap.
    last: Option<(usize, String, String, String)>,
    run: u32,
    dropped: usize,
}

/// Text kept once, and its number for each row.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    rows: Vec<u32>,
}

impl Names {
    fn push(&mut self, name: &str) {
        // Most rows are of the class and group before.
        let last = self.rows.last().copied().filter(|&last| self.names[last as usize] == name);
        let number = last.or_else(|| self.names.iter().position(|known| known == name).map(|number| number as u32));
        let number = number.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() as u32 - 1
        });
        self.rows.push(number);
    }

    /// Sorted names (as numbers where all are numbers) and the new number for each old one.
    fn sorted(&self) -> (Vec<String>, Vec<u16>) {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        let numbers: Option<Vec<f64>> = self.names.iter().map(|name| name.parse().ok()).collect();
        match numbers {
            Some(numbers) => order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b])),
            None => order.sort_by(|&a, &b| self.names[a].cmp(&self.names[b])),
        }
        let mut ranks = vec![0; order.len()];
        order.iter().enumerate().for_each(|(rank, &number)| ranks[number] = rank as u16);
        (order.into_iter().map(|number| self.names[number].clone()).collect(), ranks)
    }
}

impl<'a> Rows<'a> {
    fn new(path: &'a Path, options: &'a TableOptions) -> Result<Self, DatasetError> {
        let option = |text: &str| Err(DatasetError::Option(text.to_owned()));
        match (options.window, options.stride) {
            (None, Some(_)) => return option("--data-stride needs --data-window"),
            (Some(0 | 1), _) => return option("--data-window must be at least 2; without it, each row is a sample"),
            (_, Some(0)) => return option("--data-stride must be at least 1"),
            _ => {}
        }
        Ok(Self {
            path,
            options,
            channel_names: Vec::new(),
            roles: Roles::default(),
            file: path.to_owned(),
            files: 0,
            values: Vec::new(),
            labels: Names::default(),
            groups: Names::default(),
            runs: Vec::new(),
            last: None,
            run: 0,
            dropped: 0,
        })
    }

    /// Begins a file whose columns have these names.
    fn begin_file(&mut self, file: &Path, header: &[String]) -> Result<(), DatasetError> {
        let find = |name: &str| header.iter().position(|column| column == name);
        let named = |name: &str| {
            let fix = format!("its columns are {}", header.join(", "));
            find(name).ok_or_else(|| DatasetError::refused(file, format!("it has no column {name}"), fix))
        };
        let role = |given: &Option<String>, usual: &str| match given {
            Some(name) => named(name).map(Some),
            None => Ok(find(usual).filter(|_| !self.options.columns.iter().any(|column| column == usual))),
        };
        let label = role(&self.options.label, "label")?;
        let group = role(&self.options.group, "group")?;
        let series = role(&self.options.series, "series")?;
        let channels = if self.options.columns.is_empty() {
            (0..header.len()).filter(|&column| ![label, group, series].contains(&Some(column))).collect()
        } else {
            self.options.columns.iter().map(|name| named(name)).collect::<Result<Vec<_>, _>>()?
        };
        let channel_names: Vec<String> = channels.iter().map(|&column| header[column].clone()).collect();
        if channels.is_empty() {
            return Err(DatasetError::refused(file, "it has no column of values", "name them with --data-columns"));
        }
        if self.files > 0 && channel_names != self.channel_names {
            let what = format!(
                "its columns are {}, those of {} {}",
                channel_names.join(", "),
                self.file.display(),
                self.channel_names.join(", ")
            );
            return Err(DatasetError::refused(file, what, "all files of a folder need the same columns"));
        }
        self.channel_names = channel_names;
        self.roles = Roles { channels, label, group, series };
        self.file = file.to_owned();
        self.files += 1;
        Ok(())
    }

    /// Adds a row; `place` says in messages where it is.
    fn push<'c>(&mut self, place: &str, cell: impl Fn(usize) -> Cell<'c>) -> Result<(), DatasetError> {
        let before = self.values.len();
        for (channel, &column) in self.roles.channels.iter().enumerate() {
            let value = match cell(column) {
                Cell::Number(value) => Some(value as f32),
                Cell::Text(text) => text.parse().ok(),
                Cell::Missing => None,
            };
            if let Some(value) = value.filter(|value| value.is_finite()) {
                self.values.push(value);
                continue;
            }
            self.values.truncate(before);
            if self.options.drop_bad_rows {
                self.dropped += 1;
                self.last = None;
                return Ok(());
            }
            let found = match cell(column) {
                Cell::Number(value) => value.to_string(),
                Cell::Text(text) => format!("{text:?}"),
                Cell::Missing => "missing".to_owned(),
            };
            let what =
                format!("{place}, column {}: the value is {found}, no finite number", self.channel_names[channel]);
            let fix =
                "correct it, leave its column out (--data-columns), or leave out such rows (--data-drop-bad-rows)";
            return Err(DatasetError::refused(&self.file, what, fix));
        }
        let text = |column: Option<usize>, otherwise: &str| match column.map(&cell) {
            Some(Cell::Number(value)) => value.to_string(),
            Some(Cell::Text(text)) => text.to_owned(),
            Some(Cell::Missing) => String::new(),
            None => otherwise.to_owned(),
        };
        let label = text(self.roles.label, "all");
        let series = text(self.roles.series, "");
        let file = self.file.to_string_lossy();
        let group = text(self.roles.group.or(self.roles.series), &file);
        let key = (self.files, series, group, label);
        if self.last.as_ref() != Some(&key) {
            self.run += 1;
        }
        self.runs.push(self.run);
        self.groups.push(&key.2);
        self.labels.push(&key.3);
        self.last = Some(key);
        Ok(())
    }

    fn finish(self) -> Result<Dataset, DatasetError> {
        if self.runs.is_empty() {
            let what = match (self.files, self.dropped) {
                (0, _) => "it has no tables".to_owned(),
                (_, dropped) => format!("it has no usable rows ({dropped} were left out)"),
            };
            return Err(DatasetError::refused(
                self.path,
                what,
                "give a table with a row of column names and rows of numbers",
            ));
        }
        if self.labels.names.len() > usize::from(u16::MAX) {
            let what = format!("its label column has {} different values", self.labels.names.len());
            return Err(DatasetError::refused(
                self.path,
                what,
                "a label is a class; name another column with --data-label",
            ));
        }
        let mut notes = Vec::new();
        if self.dropped > 0 {
            notes.push(format!(
                "{} of {} rows were left out: a value was missing or no finite number",
                self.dropped,
                self.dropped + self.runs.len()
            ));
        }
        let grouped = self.groups.names.len() > 1;
        let window = self.options.window.unwrap_or(1);
        let windows = self.windows(window, !grouped && window > 1);
        if windows.is_empty() {
            let longest = self.runs.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
            let what = format!("no window of {window} rows fits: the longest series of one class has {longest}");
            return Err(DatasetError::refused(self.path, what, "give a smaller --data-window"));
        }
        let channels = self.channel_names.len();
        let values = windows.iter().flat_map(|&(begin, _)| &self.values[begin * channels..(begin + window) * channels]);
        let shape = if window > 1 { SampleShape::signal(window, channels) } else { SampleShape::vector(channels) };
        let (class_names, ranks) = self.labels.sorted();
        let labels = windows.iter().map(|&(begin, _)| ranks[self.labels.rows[begin] as usize]).collect();
        let groups: Vec<u32> = windows.iter().map(|&(begin, _)| self.groups.rows[begin]).collect();
        let mut set = Dataset::new(shape, Values::Floats(values.copied().collect()), labels, class_names);
        if grouped {
            // Where the windows of all groups but one are too short for a window, one is left.
            let fix = "a group is held out whole: give data of at least two, or no --data-group";
            let held_out = by_group(&groups)
                .ok_or_else(|| DatasetError::refused(self.path, "it has samples of one group only", fix))?;
            set = set.with_held_out(held_out);
        } else if window > 1 {
            set = set.with_held_out(windows.iter().map(|&(_, held_out)| held_out).collect());
        }
        if set.train().is_empty() || set.held_out().is_empty() {
            let what = format!("{} samples are too few", set.len());
            return Err(DatasetError::refused(
                self.path,
                what,
                format!("give at least {HELD_OUT_EVERY}, so that one can be held out"),
            ));
        }
        set.channel_names = self.channel_names;
        set.notes = notes;
        Ok(scaled(set, self.options.scaling))
    }

    /// Where each window begins, and whether it is held out where the split is by time: of each run, the last fifth of
    /// the rows is held out, and a window that would hold rows of both parts is none.
    fn windows(&self, window: usize, by_time: bool) -> Vec<(usize, bool)> {
        let stride = self.options.stride.unwrap_or(window);
        let mut windows = Vec::new();
        let mut begin = 0;
        for run in self.runs.chunk_by(|a, b| a == b) {
            let end = begin + run.len();
            let parts = if by_time {
                let held_out = end - run.len().div_ceil(HELD_OUT_EVERY).max(window).min(run.len());
                vec![(begin, held_out, false), (held_out, end, true)]
            } else {
                vec![(begin, end, false)]
            };
            for (begin, end, held_out) in parts {
                let begins = (begin..).step_by(stride).take_while(|begin| begin + window <= end);
                windows.extend(begins.map(|begin| (begin, held_out)));
            }
            begin = end;
        }
        windows
    }
}

/// The set with the scale of its channels.
fn scaled(set: Dataset, scaling: Option<Scaling>) -> Dataset {
    let scales = scaling.unwrap_or_default().measure(&set);
    set.with_scale(scales)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn load(text: &str, options: &TableOptions) -> Result<Dataset, DatasetError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        std::fs::write(&path, text).unwrap();
        load_csv(&path, options)
    }

    fn message(text: &str, options: &TableOptions) -> String {
        load(text, options).unwrap_err().to_string()
    }

    fn window(window: usize, stride: usize) -> TableOptions {
        TableOptions {
            window: Some(window),
            stride: Some(stride),
            scaling: Some(Scaling::None),
            ..TableOptions::default()
        }
    }

    /// Ten rows of x and y, class a then class b.
    fn rows() -> String {
        (0..10)
            .fold("x;label;y\n".to_owned(), |text, row| format!("{text}{row};{};{}\n", ["a", "b"][row / 5], 10 * row))
    }

    #[test]
    fn a_row_is_a_vector_and_a_label_column_its_class() {
        let set = load(&rows(), &TableOptions::default()).unwrap();
        assert_eq!(
            (set.shape, set.len(), &set.class_names[..]),
            (SampleShape::vector(2), 10, &["a".into(), "b".into()][..])
        );
        assert_eq!((set.natural(3), set.labels[9]), (Some(&[3.0, 30.0][..]), 1));
        assert_eq!((&set.channel_names[..], set.held_out().indices), (&["x".into(), "y".into()][..], vec![4, 9]));
        // The training rows span 0 to 8 and 0 to 80.
        assert_eq!(set.units(8).collect::<Vec<_>>(), [1.0, 1.0]);
        assert_eq!(set.channels_scale[1].to_natural(-1.0), 0.0);
    }

    #[test]
    fn columns_can_be_chosen_and_numbers_can_be_classes() {
        let options = TableOptions { columns: vec!["y".into()], label: Some("x".into()), ..TableOptions::default() };
        let set = load(&rows(), &options);
        // Ten classes of one row each: nothing could be held out.
        assert!(set.unwrap_err().to_string().contains("10 samples are too few"));
        let text = (0..20).fold("size,v\n".to_owned(), |text, row| format!("{text}{},{row}\n", [10, 9][row % 2]));
        let set = load(&text, &TableOptions { label: Some("size".into()), ..TableOptions::default() }).unwrap();
        assert_eq!((&set.class_names[..], set.labels[0]), (&["9".into(), "10".into()][..], 1));
    }

    #[test]
    fn windows_stay_inside_a_series_a_group_and_a_class() {
        let mut text = "v,label,group,series\n".to_owned();
        for row in 0..240 {
            text += &format!("{row},{},{},{}\n", row / 24 % 2, row / 48, row / 12);
        }
        let set = load(&text, &window(4, 2)).unwrap();
        assert_eq!((set.shape, set.len()), (SampleShape::signal(4, 1), 20 * 5));
        for index in 0..set.len() {
            let values = set.natural(index).unwrap();
            assert_eq!(values[3] - values[0], 3.0, "rows follow each other");
            assert_eq!(
                (values[0] as usize / 12, set.labels[index]),
                (values[3] as usize / 12, (values[0] as usize / 24 % 2) as u16)
            );
        }
        // Groups are whole on one side: the fifth of five is held out.
        let side = |split: crate::Split<'_>| -> HashSet<usize> {
            (0..split.len()).map(|index| split.units(index).next().unwrap() as usize / 48).collect()
        };
        assert_eq!((side(set.train()), side(set.held_out())), ([0, 1, 2, 3].into(), [4].into()));
    }

    #[test]
    fn without_groups_the_end_of_a_recording_is_held_out_and_no_row_is_on_both_sides() {
        let text = (0..100).fold("v\n".to_owned(), |text, row| format!("{text}{row}\n"));
        let set = load(&text, &window(8, 3)).unwrap();
        let rows = |split: crate::Split<'_>| -> HashSet<u32> {
            (0..split.len())
                .flat_map(|index| split.units(index).map(|value| value as u32).collect::<Vec<_>>())
                .collect()
        };
        let (train, held_out) = (rows(set.train()), rows(set.held_out()));
        assert!(train.is_disjoint(&held_out) && held_out.iter().min() == Some(&80) && train.contains(&0));
    }

    #[test]
    fn files_of_a_folder_are_groups() {
        let dir = tempfile::tempdir().unwrap();
        for file in 0..3 {
            let text = (0..10).fold("v\n".to_owned(), |text, row| format!("{text}{}\n", 100 * file + row));
            std::fs::write(dir.path().join(format!("{file}.csv")), text).unwrap();
        }
        std::fs::write(dir.path().join("readme.txt"), "no table").unwrap();
        let set = load_csv(dir.path(), &window(5, 5)).unwrap();
        assert_eq!((set.len(), set.held_out().indices), (6, vec![4, 5]));
        std::fs::write(dir.path().join("3.csv"), "w\n1\n").unwrap();
        let message = load_csv(dir.path(), &window(5, 5)).unwrap_err().to_string();
        assert!(message.contains("3.csv: its columns are w, those of"), "{message}");
    }

    #[test]
    fn bad_values_are_named_or_their_rows_left_out() {
        for bad in ["nan", "inf", "", "word", "1e99"] {
            let text = rows().replace("7;b;70", &format!("7;b;{bad}"));
            let refused = message(&text, &TableOptions::default());
            assert!(refused.contains("line 9, column y") && refused.contains("--data-drop-bad-rows"), "{refused}");
            let set = load(&text, &TableOptions { drop_bad_rows: true, ..TableOptions::default() }).unwrap();
            assert_eq!(set.len(), 9);
            assert!(set.notes[0].starts_with("1 of 10 rows were left out"), "{:?}", set.notes);
        }
        // A window never spans the gap.
        let text = (0..40).fold("v\n".to_owned(), |text, row| {
            format!("{text}{}\n", if row == 9 { "nan".into() } else { row.to_string() })
        });
        let set = load(&text, &TableOptions { drop_bad_rows: true, ..window(5, 1) }).unwrap();
        assert!((0..set.len()).all(|index| !(5..=9).contains(&(set.natural(index).unwrap()[0] as usize))));
    }

    #[test]
    fn every_bad_table_says_what_to_do() {
        let plain = TableOptions::default();
        for (text, options, expected) in [
            ("", plain.clone(), "it is empty"),
            ("a,b\n", plain.clone(), "no usable rows"),
            ("1,2\n3,4\n", plain.clone(), "no line of column names"),
            ("a,b\n1,2\n3\n", plain.clone(), "line 3 has 1 cells, the first line 2"),
            ("label\nx\n", plain.clone(), "no column of values"),
            ("a\n1\n2\n", plain.clone(), "2 samples are too few"),
            ("a\n1\n2\n", window(3, 1), "no window of 3 rows fits: the longest series of one class has 2"),
            ("a\n1\n", window(1, 1), "--data-window must be at least 2"),
            ("a\n1\n", window(4, 0), "--data-stride must be at least 1"),
            ("a\n1\n", TableOptions { stride: Some(2), ..plain.clone() }, "--data-stride needs --data-window"),
            (
                "a\n1\n",
                TableOptions { label: Some("b".into()), ..plain.clone() },
                "it has no column b; its columns are a",
            ),
            ("a\n1\n", TableOptions { columns: vec!["c".into()], ..plain }, "it has no column c"),
        ] {
            let message = message(text, &options);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
