//! Package clients: what a machine has installed downloads the archives.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// One version of a package in a registry, and the name of the archive that it is.
#[derive(Debug)]
pub(super) struct Package {
    registry: Registry,
    name: &'static str,
    version: &'static str,
    archive: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Registry {
    /// A binary package of Debian.
    Debian,
    /// The original source archive of a Debian package.
    DebianSource,
    /// A source distribution on the Python Package Index; its hash is checked before pip looks into it.
    PythonSource { sha256: &'static str },
    /// A wheel on the Python Package Index.
    PythonWheel,
    /// npm.
    Npm,
}

impl Package {
    pub(super) const fn debian(name: &'static str, version: &'static str, archive: &'static str) -> Self {
        Self { registry: Registry::Debian, name, version, archive }
    }

    pub(super) const fn debian_source(name: &'static str, version: &'static str, archive: &'static str) -> Self {
        Self { registry: Registry::DebianSource, name, version, archive }
    }

    pub(super) const fn python_source(
        name: &'static str,
        version: &'static str,
        archive: &'static str,
        sha256: &'static str,
    ) -> Self {
        Self { registry: Registry::PythonSource { sha256 }, name, version, archive }
    }

    pub(super) const fn python_wheel(name: &'static str, version: &'static str, archive: &'static str) -> Self {
        Self { registry: Registry::PythonWheel, name, version, archive }
    }

    pub(super) const fn npm(name: &'static str, version: &'static str, archive: &'static str) -> Self {
        Self { registry: Registry::Npm, name, version, archive }
    }

    /// Downloads the archive into `dir`.
    pub(super) fn download(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let Self { name, version, .. } = self;
        let python = |arguments: &[&str]| {
            let mut command = Command::new("python3");
            command.args(["-m", "pip", "download", "--quiet", "--no-deps"]).args(arguments).current_dir(dir);
            command
        };
        match self.registry {
            Registry::Debian => {
                run(Command::new("apt-get").args(["download", &format!("{name}={version}")]).current_dir(dir))?;
            }
            Registry::DebianSource => download_debian_source(name, version, dir)?,
            Registry::PythonSource { sha256 } => {
                std::fs::write(dir.join("requirements.txt"), format!("{name}=={version} --hash=sha256:{sha256}\n"))?;
                run(&mut python(&["--no-binary", ":all:", "--require-hashes", "--requirement", "requirements.txt"]))?;
            }
            Registry::PythonWheel => run(&mut python(&["--only-binary", ":all:", &format!("{name}=={version}")]))?,
            Registry::Npm => run(Command::new("npm").args(["pack", &format!("{name}@{version}")]).current_dir(dir))?,
        }
        let archive = dir.join(self.archive);
        ensure!(archive.exists(), "the package client left no {}", self.archive);
        Ok(archive)
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, name, version, archive } = self;
        let place = match registry {
            Registry::Debian => "the Debian package",
            Registry::DebianSource => "the Debian source package",
            Registry::PythonSource { .. } | Registry::PythonWheel => "the Python package",
            Registry::Npm => "the npm package",
        };
        write!(f, "{archive} of {place} {name} {version}")
    }
}

/// Downloads a source package with lists of our own: the system's may not know sources, and are not ours to change.
fn download_debian_source(name: &str, version: &str, dir: &Path) -> anyhow::Result<()> {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
        .output()
        .context("cannot run apt-get")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let mut sources: Vec<String> = targets.lines().filter_map(source_line).collect();
    sources.sort_unstable();
    sources.dedup();
    ensure!(!sources.is_empty(), "apt-get knows no Debian archive");
    std::fs::write(dir.join("sources.list"), sources.concat())?;
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let own = |option: &str, path: &str| format!("-oDir::{option}={}", dir.join(path).display());
    let apt = || {
        let mut command = Command::new("apt-get");
        let lists = [own("Etc::SourceList", "sources.list"), "-oDir::Etc::SourceParts=/dev/null".to_owned()];
        command.args(lists).args([own("State", "state"), own("Cache", "cache")]).current_dir(dir);
        command
    };
    run(apt().arg("update"))?;
    // The archive alone is wanted, so that it does not matter whether the other files of the package can be had.
    _ = run(apt().args(["source", "--download-only", &format!("{name}={version}")]));
    Ok(())
}

/// The source line for one of apt's binary sources, `SITE RELEASE COMPONENT`.
fn source_line(target: &str) -> Option<String> {
    let mut words = target.split_whitespace();
    let (site, release, component) = (words.next()?, words.next()?, words.next()?);
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let signed = if Path::new(keyring).exists() { format!(" [signed-by={keyring}]") } else { String::new() };
    (component == "main").then(|| format!("deb-src{signed} {site} {release} main\n"))
}

/// Runs a client to its end; its words are shown only where it fails.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}; is it installed?"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{name} failed: {words}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_client_is_quoted_and_a_missing_one_named() {
        let error = run(Command::new("sh").args(["-c", "echo no such package >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: no such package");
        let error = run(&mut Command::new("no-such-client")).unwrap_err().to_string();
        assert!(error.contains("cannot run no-such-client"), "{error}");
    }

    #[test]
    fn only_the_main_component_has_sources_for_us() {
        assert!(source_line("http://archive.example/debian stable main $(SIGNED_BY)").unwrap().starts_with("deb-src"));
        assert_eq!(source_line("http://archive.example/debian stable contrib"), None);
        assert_eq!(source_line(""), None);
    }
}
