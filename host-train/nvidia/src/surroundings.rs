//! What a machine's facts are read from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders where the loader looks without being told.
const LIBRARIES: [&str; 5] =
    ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib"];

/// Files, variables and what programs say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The file system's root.
    pub root: PathBuf,
    /// `LD_LIBRARY_PATH`
    pub library_path: Vec<PathBuf>,
    /// What `ldconfig -p` says; nothing where there is none.
    pub loader_cache: String,
    /// What `nvidia-smi -L` says; nothing where there is none.
    pub nvidia_smi: String,
    /// `CUDA_VISIBLE_DEVICES`
    pub visible_devices: Option<String>,
    /// `CUDA_PATH`
    pub cuda_path: Option<PathBuf>,
}

impl Surroundings {
    /// This machine's.
    pub fn here() -> Self {
        let folders = |name: &str| env::var_os(name).map(|value| env::split_paths(&value).collect());
        Self {
            root: PathBuf::from("/"),
            library_path: folders("LD_LIBRARY_PATH").unwrap_or_default(),
            loader_cache: ["ldconfig", "/sbin/ldconfig"].iter().find_map(|name| say(name, "-p")).unwrap_or_default(),
            nvidia_smi: say("nvidia-smi", "-L").unwrap_or_default(),
            visible_devices: env::var("CUDA_VISIBLE_DEVICES").ok(),
            cuda_path: env::var_os("CUDA_PATH").map(PathBuf::from),
        }
    }

    /// The first of these libraries that the loader would find.
    pub(crate) fn library(&self, names: &[&str]) -> Option<PathBuf> {
        names.iter().find_map(|name| {
            let cached = self.loader_cache.lines().filter_map(|line| {
                let (library, path) = line.trim().split_once(" => ")?;
                (library.split(' ').next() == Some(name)).then(|| PathBuf::from(path))
            });
            let inside = |folder: &Path| folder.join(name);
            let told = self.library_path.iter().map(|folder| inside(folder));
            let usual = LIBRARIES.iter().map(|folder| inside(&self.root.join(folder)));
            told.chain(cached).chain(usual).find(|path| path.exists())
        })
    }

    /// A device file of a GPU, or its line of `nvidia-smi -L`.
    pub(crate) fn gpu(&self) -> Option<String> {
        let is_gpu = |name: &str| {
            name == "dxg" || name.strip_prefix("nvidia").is_some_and(|number| number.parse::<u8>().is_ok())
        };
        let devices = self.root.join("dev").read_dir().into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> =
            devices.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).map(|entry| entry.path()).collect();
        files.sort();
        let listed = || self.nvidia_smi.lines().find(|line| line.starts_with("GPU ")).map(str::to_owned);
        files.first().map(|file| file.display().to_string()).or_else(listed)
    }
}

/// What a program writes, if it is there and ends well.
fn say(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
