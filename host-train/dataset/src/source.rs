//! Where a run's data come from, as a preset or a command line says it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::images::ImageOptions;
use super::table::TableOptions;
use super::{Dataset, DatasetError, Provenance, embedded, fetch, folder, idx, synthetic, table};

/// A data set that is not yet loaded. In TOML, for example:
///
/// ```toml
/// [data]
/// kind = "folder"
/// path = "my-pictures"
/// images = { size = "32x32", resize = "fill", channels = "rgb" }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// The embedded default: 4,000 Fashion-MNIST images, 14x14.
    #[default]
    Embedded,
    /// Computed waves in two channels, 32 samples in time, three classes: [`synthetic::waves`].
    Waves,
    /// Computed points of a plane on two half circles, a class each: [`synthetic::moons`].
    Moons,
    /// A set that `cargo xtask data fetch NAME` fetched.
    Fetched {
        /// One of [`fetch::SETS`].
        name: String,
        /// Options besides the set's own.
        #[serde(default)]
        images: ImageOptions,
        /// Options besides the set's own.
        #[serde(default)]
        table: TableOptions,
    },
    /// A folder of images, or of a sub-folder of images for each class.
    Folder {
        /// The folder.
        path: PathBuf,
        /// How the images become samples.
        #[serde(default)]
        images: ImageOptions,
    },
    /// idx files as MNIST has them, gzipped or not.
    Idx {
        /// Their folder, or one file of images.
        path: PathBuf,
        /// How the images become samples.
        #[serde(default)]
        images: ImageOptions,
    },
    /// A NumPy array.
    Npy {
        /// The file, or a folder with one such file besides labels.npy and groups.npy.
        path: PathBuf,
        /// How images become samples.
        #[serde(default)]
        images: ImageOptions,
        /// How numbers become samples.
        #[serde(default)]
        table: TableOptions,
    },
    /// Comma-separated values.
    Csv {
        /// The file, or a folder of them.
        path: PathBuf,
        /// How rows become samples.
        #[serde(default)]
        table: TableOptions,
    },
    /// Apache Parquet.
    Parquet {
        /// The file, or a folder of them.
        path: PathBuf,
        /// How rows become samples.
        #[serde(default)]
        table: TableOptions,
    },
}

/// The options of a command line that choose data.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct DataOptions {
    /// Data: a folder of images (a sub-folder for each class, or none), a .csv, .parquet, .npy or idx file or a folder
    /// of them, or the name of a fetched set (`cargo xtask data list`) [default: the embedded set]
    #[arg(long, value_name = "PATH|NAME")]
    pub data: Option<String>,
    /// How images become samples.
    #[command(flatten)]
    pub images: ImageOptions,
    /// How rows of tables become samples.
    #[command(flatten)]
    pub table: TableOptions,
}

impl DataOptions {
    /// The source they describe; `None` where they say nothing.
    ///
    /// # Errors
    /// If there are no such data, or an option does not apply to them.
    pub fn source(&self) -> Result<Option<DataSource>, DatasetError> {
        if *self == Self::default() {
            return Ok(None);
        }
        let source = self.data.as_deref().map_or(Ok(DataSource::Embedded), DataSource::guess)?;
        source.with(&self.images, &self.table).map(Some)
    }
}

impl DataSource {
    /// The source that `what` names: `embedded`, a file or folder by what is there, or a fetched set.
    ///
    /// # Errors
    /// If there is nothing by that name, or nothing that can be read.
    pub fn guess(what: &str) -> Result<Self, DatasetError> {
        let path = PathBuf::from(what);
        let (images, table) = (ImageOptions::default(), TableOptions::default());
        let computed = [("embedded", Self::Embedded), ("waves", Self::Waves), ("moons", Self::Moons)];
        if let Some((_, source)) = computed.into_iter().find(|(name, _)| *name == what) {
            return Ok(source);
        }
        if !path.exists() {
            if fetch::SETS.iter().any(|set| set.name == what) {
                return Ok(Self::Fetched { name: what.to_owned(), images, table });
            }
            let known: Vec<&str> = fetch::SETS.iter().map(|set| set.name).collect();
            let message = format!(
                "there is no file or folder {what}, and no data set of that name; the sets are embedded, waves, moons, {}",
                known.join(", ")
            );
            return Err(DatasetError::Missing(message));
        }
        if path.is_file() {
            return match kind(&path) {
                Some(Kind::Idx) => Ok(Self::Idx { path, images }),
                Some(Kind::Npy) => Ok(Self::Npy { path, images, table }),
                Some(Kind::Csv) => Ok(Self::Csv { path, table }),
                Some(Kind::Parquet) => Ok(Self::Parquet { path, table }),
                None => {
                    let fix =
                        "give a folder of images, or a .csv, .tsv, .parquet, .npy or idx (images-idx3-ubyte) file";
                    Err(DatasetError::refused(&path, "this is no file of samples", fix))
                }
            };
        }
        let files = folder::list(&path)?;
        let has = |wanted: Kind| files.iter().any(|file| kind(file) == Some(wanted));
        Ok(if has(Kind::Idx) {
            Self::Idx { path, images }
        } else if has(Kind::Npy) {
            Self::Npy { path, images, table }
        } else if has(Kind::Parquet) {
            Self::Parquet { path, table }
        } else if has(Kind::Csv) {
            Self::Csv { path, table }
        } else {
            Self::Folder { path, images }
        })
    }

    /// The source with further options; what they leave open stays as it is.
    ///
    /// # Errors
    /// If an option does not apply to this kind of source.
    pub fn with(mut self, images: &ImageOptions, table: &TableOptions) -> Result<Self, DatasetError> {
        let (own_images, own_table) = match &mut self {
            Self::Embedded | Self::Waves | Self::Moons => (None, None),
            Self::Folder { images, .. } | Self::Idx { images, .. } => (Some(images), None),
            Self::Csv { table, .. } | Self::Parquet { table, .. } => (None, Some(table)),
            Self::Npy { images, table, .. } | Self::Fetched { images, table, .. } => (Some(images), Some(table)),
        };
        match own_images {
            Some(own) => own.add(images),
            None if *images == ImageOptions::default() => {}
            None => return Err(DatasetError::Option("options of images do not apply to these data".to_owned())),
        }
        match own_table {
            Some(own) => own.add(table),
            None if *table == TableOptions::default() => {}
            None => return Err(DatasetError::Option("options of tables do not apply to these data".to_owned())),
        }
        Ok(self)
    }

    /// Loads the data. [`Dataset::notes`] says what the reader should know, such as what was left out.
    ///
    /// # Errors
    /// The first thing that is wrong, where it is, and what to do.
    pub fn load(&self) -> Result<Dataset, DatasetError> {
        let (set, path) = match self {
            Self::Embedded => return Ok(embedded()),
            Self::Waves => return Ok(synthetic::waves()),
            Self::Moons => return Ok(synthetic::moons()),
            Self::Fetched { name, images, table } => return fetch::source(name)?.with(images, table)?.load(),
            Self::Folder { path, images } => (folder::load(path, images)?, path),
            Self::Idx { path, images } => (idx::load(path, images)?, path),
            Self::Npy { path, images, table } => (table::load_npy(path, images, table)?, path),
            Self::Csv { path, table } => (table::load_csv(path, table)?, path),
            Self::Parquet { path, table } => (table::load_parquet(path, table)?, path),
        };
        let dir = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        Ok(Dataset { provenance: Provenance::beside(dir)?, ..set })
    }
}

/// What kind of file this is by its name.
fn kind(path: &Path) -> Option<Kind> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match &extension[..] {
        _ if idx::is_images(path) => Some(Kind::Idx),
        "npy" => Some(Kind::Npy),
        "csv" | "tsv" => Some(Kind::Csv),
        "parquet" => Some(Kind::Parquet),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Idx,
    Npy,
    Csv,
    Parquet,
}

impl ImageOptions {
    /// Takes over what `other` says.
    fn add(&mut self, other: &Self) {
        let Self { channels, size, resize, filter, group_before, strict } = other.clone();
        self.channels = channels.or(self.channels);
        self.size = size.or(self.size);
        self.resize = resize.or(self.resize);
        self.filter = filter.or(self.filter);
        self.group_before = group_before.or(self.group_before.take());
        self.strict |= strict;
    }
}

impl TableOptions {
    /// Takes over what `other` says.
    fn add(&mut self, other: &Self) {
        let Self { columns, label, group, series, window, stride, scaling, drop_bad_rows } = other.clone();
        if !columns.is_empty() {
            self.columns = columns;
        }
        self.label = label.or(self.label.take());
        self.group = group.or(self.group.take());
        self.series = series.or(self.series.take());
        // A stride is of its window.
        if window.is_some() {
            (self.window, self.stride) = (window, None);
        }
        self.stride = stride.or(self.stride);
        self.scaling = scaling.or(self.scaling);
        self.drop_bad_rows |= drop_bad_rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channels, Resize, SampleShape};

    fn guess(path: &Path) -> Result<DataSource, DatasetError> {
        DataSource::guess(path.to_str().unwrap())
    }

    #[test]
    fn a_path_alone_finds_its_loader() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let kind = |path: &Path| match guess(path).unwrap() {
            DataSource::Embedded | DataSource::Waves | DataSource::Moons => "computed",
            DataSource::Fetched { .. } => "fetched",
            DataSource::Folder { .. } => "folder",
            DataSource::Idx { .. } => "idx",
            DataSource::Npy { .. } => "npy",
            DataSource::Csv { .. } => "csv",
            DataSource::Parquet { .. } => "parquet",
        };
        for (name, expected) in [
            ("1/train-images-idx3-ubyte.gz", "idx"),
            ("2/t10k-images.idx3-ubyte", "idx"),
            ("3/x.npy", "npy"),
            ("4/x.CSV", "csv"),
            ("5/x.tsv", "csv"),
            ("6/x.parquet", "parquet"),
        ] {
            let path = make(name);
            assert_eq!((kind(&path), kind(path.parent().unwrap())), (expected, expected), "{name}");
        }
        assert_eq!(kind(make("7/a/x.png").ancestors().nth(2).unwrap()), "folder");
        assert_eq!(DataSource::guess("embedded").unwrap(), DataSource::Embedded);
        assert_eq!(DataSource::guess("moons").unwrap().load().unwrap(), synthetic::moons());
        assert!(matches!(DataSource::guess("fugue").unwrap(), DataSource::Fetched { name, .. } if name == "fugue"));
        let error = guess(&make("8/x.pdf")).unwrap_err().to_string();
        assert!(error.contains("x.pdf: this is no file of samples; give a folder of images, or a .csv"), "{error}");
        let error = DataSource::guess("nowhere").unwrap_err().to_string();
        assert!(
            error.contains("no file or folder nowhere") && error.contains("embedded, waves, moons, fashion, mnist"),
            "{error}"
        );
    }

    #[test]
    fn a_source_is_written_as_toml_and_comes_back() {
        let text = r#"
            kind = "folder"
            path = "my-pictures"
            images = { size = "32x48", resize = "fill", channels = "rgba", filter = "nearest", strict = true }
        "#;
        let source: DataSource = toml::from_str(text).unwrap();
        let DataSource::Folder { images, .. } = &source else { panic!("{source:?}") };
        assert_eq!((images.resize, images.channels, images.strict), (Some(Resize::Fill), Some(Channels::Rgba), true));
        assert_eq!(toml::from_str::<DataSource>(&toml::to_string(&source).unwrap()).unwrap(), source);
        let csv = "kind = \"csv\"\npath = \"x.csv\"\ntable = { window = 64, stride = 32, scaling = \"deviation\", columns = [\"a\"] }";
        let source: DataSource = toml::from_str(csv).unwrap();
        assert_eq!(toml::from_str::<DataSource>(&toml::to_string(&source).unwrap()).unwrap(), source);
        for wrong in [
            "kind = \"csv\"\npath = \"x\"\nimages = {}",
            "kind = \"svc\"",
            "kind = \"csv\"\npath = \"x\"\ntable = { windw = 3 }",
        ] {
            assert!(toml::from_str::<DataSource>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_are_added_where_they_apply_and_refused_elsewhere() {
        let images = ImageOptions { size: "8".parse().ok(), ..ImageOptions::default() };
        let table = TableOptions { window: Some(16), ..TableOptions::default() };
        let none = (ImageOptions::default(), TableOptions::default());
        let refused = |source: DataSource, images, table| source.with(images, table).unwrap_err().to_string();
        assert!(refused(DataSource::Embedded, &images, &none.1).contains("options of images do not apply"));
        let csv = DataSource::Csv {
            path: "x.csv".into(),
            table: TableOptions { window: Some(64), stride: Some(32), ..none.1.clone() },
        };
        assert!(refused(csv.clone(), &images, &none.1).contains("options of images"));
        let folder = DataSource::Folder {
            path: "x".into(),
            images: ImageOptions { resize: Some(Resize::Fit), ..none.0.clone() },
        };
        assert!(refused(folder.clone(), &none.0, &table).contains("options of tables"));
        let DataSource::Csv { table, .. } = csv.with(&none.0, &table).unwrap() else { panic!() };
        assert_eq!((table.window, table.stride), (Some(16), None));
        let DataSource::Folder { images, .. } = folder.with(&images, &none.1).unwrap() else { panic!() };
        assert_eq!((images.size, images.resize), ("8".parse().ok(), Some(Resize::Fit)));
    }

    #[test]
    fn command_line_options_become_a_source() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            data: DataOptions,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, (0..40).fold("a,b,c\n".to_owned(), |text, row| format!("{text}{row},{row},0\n")))
            .unwrap();
        let read = |arguments: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from([&["x"], arguments].concat())
                .map_err(|error| error.to_string())?;
            line.data.source().map_err(|error| error.to_string())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["--data", "embedded"]), Ok(Some(DataSource::Embedded)));
        let path = path.to_str().unwrap();
        let source = read(&["--data", path, "--data-window", "4", "--data-columns", "a,b"]).unwrap().unwrap();
        assert_eq!(source.load().unwrap().shape, SampleShape::signal(4, 2));
        assert!(read(&["--data", path, "--data-size", "4"]).unwrap_err().contains("options of images"));
        assert!(read(&["--data-size", "4"]).unwrap_err().contains("options of images"));
        assert!(read(&["--data", "embedded", "--data-size", "big"]).unwrap_err().contains("HEIGHTxWIDTH"));
    }

    #[test]
    fn provenance_beside_data_comes_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, (0..10).fold("a\n".to_owned(), |text, row| format!("{text}{row}\n"))).unwrap();
        assert_eq!(guess(&path).unwrap().load().unwrap().provenance, None);
        let json = r#"{"name": "x", "licence": "MIT", "attribution": "Nobody", "url": ""}"#;
        std::fs::write(dir.path().join(Provenance::FILE), json).unwrap();
        assert_eq!(guess(&path).unwrap().load().unwrap().provenance.unwrap().licence, "MIT");
        std::fs::write(dir.path().join(Provenance::FILE), "{}").unwrap();
        assert!(guess(&path).unwrap().load().unwrap_err().to_string().contains("provenance.json: missing field"));
    }
}
