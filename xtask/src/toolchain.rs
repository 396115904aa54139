//! Which compiler builds for an embedded target.
//!
//! The host's toolchain where it has the target (`rustup target add`), else a toolchain that was linked into rustup and
//! has it: on Debian, `setup` links the distribution's compiler as `mote-debian` and builds the target's libraries for it.

use crate::process::capture;
use anyhow::{Result, anyhow};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name under which `setup` links the distribution's compiler.
pub(crate) const LINKED: &str = "mote-debian";

/// A cargo that can build for the target.
///
/// # Errors
/// If no toolchain has the target's core library.
pub(crate) fn embedded_cargo(target: &str) -> Result<Command> {
    let toolchain =
        find(target).ok_or_else(|| anyhow!("no installed compiler builds for {target}: run `cargo xtask setup`"))?;
    Ok(toolchain.cargo())
}

/// A toolchain that rustup knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The one that runs without being named.
    Host,
    /// A linked one.
    Linked(String),
}

impl Toolchain {
    /// This toolchain's cargo, with the outer cargo's settings for the host removed.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        self.select(&mut command);
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command
    }

    fn select(&self, command: &mut Command) {
        if let Toolchain::Linked(name) = self {
            command.arg(format!("+{name}")).env_remove("RUSTC").env_remove("RUSTDOC");
        }
    }

    /// Whether it has clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        capture(self.cargo().args(["clippy", "--version"])).is_ok()
    }

    fn sysroot(&self) -> Result<PathBuf> {
        let mut command = Command::new("rustc");
        self.select(&mut command);
        capture(command.args(["--print", "sysroot"])).map(|text| PathBuf::from(text.trim()))
    }

    /// Whether an empty library compiles: only then is the core library there, and made by this very compiler.
    fn has(&self, target: &str) -> bool {
        let Ok(folder) = tempfile::tempdir() else { return false };
        let source = folder.path().join("probe.rs");
        let mut command = Command::new("rustc");
        self.select(&mut command);
        command.args(["--target", target, "--crate-type", "lib", "--emit", "metadata", "--out-dir"]);
        command.arg(folder.path()).arg(&source);
        fs::write(&source, "#![no_std]\n").is_ok() && capture(&mut command).is_ok()
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Toolchain::Host => f.write_str("the host's toolchain"),
            Toolchain::Linked(name) => write!(f, "toolchain {name}"),
        }
    }
}

/// The first toolchain that has the target's core library, the host's before linked ones.
pub(crate) fn find(target: &str) -> Option<Toolchain> {
    std::iter::once(Toolchain::Host).chain(linked()).find(|toolchain| toolchain.has(target))
}

/// The linked toolchain whose compiler lies below `prefix`.
pub(crate) fn linked_at(prefix: &Path) -> Option<Toolchain> {
    linked().into_iter().find(|toolchain| toolchain.sysroot().is_ok_and(|root| root == prefix))
}

/// Toolchains that rustup did not download, ours first.
fn linked() -> Vec<Toolchain> {
    let listed = capture(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let mut names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.retain(|name| !is_release(name));
    names.sort_by_key(|&name| name != LINKED);
    names.into_iter().map(|name| Toolchain::Linked(name.to_owned())).collect()
}

/// Whether rustup downloaded it: `stable-...`, `nightly-...`, `1.95.0-...`.
fn is_release(name: &str) -> bool {
    let channel = name.split('-').next().unwrap_or_default();
    matches!(channel, "stable" | "beta" | "nightly") || channel.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_toolchain_is_told_from_a_released_one() {
        assert!(is_release("stable-x86_64-unknown-linux-gnu"));
        assert!(is_release("1.95.0-x86_64-unknown-linux-gnu"));
        assert!(!is_release("mote-debian"));
        assert!(!is_release("debian196"));
    }
}
