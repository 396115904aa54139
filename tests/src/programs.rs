//! The programs that a user runs, built once and started at the repository's root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds the programs once, as `cargo test --workspace` has them: with the whole workspace named, the dependencies keep
/// their features and burn is not compiled again.
///
/// # Panics
/// If they do not build.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let programs = ["mote-train", "mote-data", "xtask"].into_iter().flat_map(|program| ["--bin", program]);
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--quiet", "--locked", "--workspace"]).args(programs);
        assert!(build.status().expect("cargo starts").success(), "a program does not build");
    });
    // The test that runs lies in `deps`, beside the programs.
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name)).current_dir(root()).args(arguments).output().expect("the program starts")
}

/// Runs what must succeed and returns its standard output.
///
/// # Panics
/// If it fails.
pub fn succeed(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// Runs what must fail with `code` and returns the last line on standard error.
///
/// # Panics
/// If it ends otherwise.
pub fn fail(name: &str, arguments: &[&str], code: i32) -> String {
    let output = run(name, arguments);
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!(output.status.code(), Some(code), "{name} {arguments:?}: {message}");
    let last = message.lines().last().unwrap_or_default().to_owned();
    assert!(!message.contains("panicked"), "{message}");
    last
}
