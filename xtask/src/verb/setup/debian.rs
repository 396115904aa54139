//! Targets and emulator from Debian, for machines where rustup can download nothing.
//!
//! Debian's compiler comes with its library sources and their dependencies. From them `core`, `alloc` and
//! `compiler_builtins` are built once a target, as `rustup target add` would have delivered them, and put beside the
//! compiler's own libraries. Then no unstable flag is needed any more.

use crate::places::target_dir;
use crate::process::{capture, run};
use crate::toolchain::{LINKED, find, linked_at};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler, its library sources, and the linker for firmware.
const COMPILER_PACKAGES: &str = "rustc-web cargo-web rust-web-src libstd-rust-web-dev lld-22";
/// The emulator; qemu-utils because an older one would be in the way.
const EMULATOR_PACKAGES: &str = "qemu-system-arm qemu-system-misc qemu-user qemu-utils";
/// Adds the backports of Debian 12, which lie on the same server as the release: its sources are one file of paragraphs, or
/// in older installations one file of lines.
const ADD_BACKPORTS: &str = r#"new=/etc/apt/sources.list.d/bookworm-backports
if grep -qrs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
  :
elif test -e /etc/apt/sources.list.d/debian.sources; then
  awk 'BEGIN{RS=""} NR==1' /etc/apt/sources.list.d/debian.sources |
    sed '/^#/d;s/^Suites:.*/Suites: bookworm-backports/' > $new.sources
else
  sed -n 's/^\(deb .*\) bookworm main.*/\1 bookworm-backports main/p' /etc/apt/sources.list | head -n 1 > $new.list
fi"#;
/// Where Debian's compiler lies.
const PREFIX: &str = "/usr";
const VENDORED: &str = "/usr/lib/rustlib/src/rust/library/vendor";
/// First minor version of Rust 1 that compiles this project.
const OLDEST_MINOR: u32 = 95;

/// The files of `std` that firmware needs, without the hash in their names.
const LIBRARIES: [&str; 3] = ["libcore-", "liballoc-", "libcompiler_builtins-"];

/// Whether this is a Debian.
pub(super) fn is_here() -> bool {
    Path::new("/etc/debian_version").exists() && Path::new("/usr/bin/apt-get").exists()
}

/// Installs what is missing.
///
/// # Errors
/// If a command fails, or if this user may not install: the message has the commands to run.
pub(super) fn install(targets: &[&str], emulator: bool) -> Result<()> {
    let compiler = !targets.is_empty() && !compiler_is_here();
    if compiler || emulator {
        as_root(&packages_script(compiler, emulator))?;
    }
    if targets.is_empty() {
        return Ok(());
    }
    link_toolchain()?;
    let missing: Vec<&str> = targets.iter().copied().filter(|target| find(target).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { build_libraries(&missing) }
}

fn compiler_is_here() -> bool {
    let version = capture(Command::new("/usr/bin/rustc").arg("--version")).unwrap_or_default();
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| minor >= OLDEST_MINOR)
        && Path::new("/usr/bin/cargo").exists()
        && Path::new(VENDORED).exists()
        && linker_is_here()
}

fn linker_is_here() -> bool {
    Path::new(&linker_path()).exists()
}

/// Where rustc looks for its own linker.
fn linker_path() -> String {
    format!("{PREFIX}/lib/rustlib/{}-unknown-linux-gnu/bin/rust-lld", std::env::consts::ARCH)
}

fn packages_script(compiler: bool, emulator: bool) -> String {
    let mut script = vec!["export DEBIAN_FRONTEND=noninteractive".to_owned()];
    let bookworm = fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"));
    if emulator && bookworm {
        // Debian 12's own QEMU is 7.2. The backports lie on the same server as the release.
        script.push(ADD_BACKPORTS.to_owned());
    }
    script.push("apt-get update".to_owned());
    if compiler {
        script.push(format!("apt-get install -y --no-install-recommends {COMPILER_PACKAGES}"));
        let linker = linker_path();
        script.push(format!("mkdir -p {}", linker.trim_end_matches("/rust-lld")));
        script.push(format!("ln -sf /usr/bin/lld-22 {linker}"));
    }
    if emulator {
        let release = if bookworm { "-t bookworm-backports " } else { "" };
        script.push(format!("apt-get install -y --no-install-recommends {release}{EMULATOR_PACKAGES}"));
    }
    script.join("\n")
}

/// Runs a shell script as root, directly or by sudo without a password.
fn as_root(script: &str) -> Result<()> {
    println!("as root:\n{script}");
    let root = capture(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = if root {
        Command::new("sh")
    } else if capture(Command::new("sudo").args(["-n", "true"])).is_ok() {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    } else {
        bail!("this needs root: run the commands above as root, then this again");
    };
    run(command.args(["-e", "-c", script])).context("the commands above failed as root")
}

fn link_toolchain() -> Result<()> {
    if linked_at(Path::new(PREFIX)).is_some() {
        return Ok(());
    }
    run(Command::new("rustup").args(["toolchain", "link", LINKED, PREFIX]))
}

fn build_libraries(targets: &[&str]) -> Result<()> {
    println!("building the core libraries for {}: about a minute each", targets.join(", "));
    let seed = target_dir().join("core-libraries");
    write_seed(&seed)?;
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.current_dir(&seed).args(["build", "--quiet", "--offline", "--release", "-Zbuild-std=core,alloc"]);
    for target in targets {
        cargo.args(["--target", target]);
    }
    cargo.args(["--config", "source.crates-io.replace-with='vendored-std'"]);
    cargo.args(["--config", &format!("source.vendored-std.directory='{VENDORED}'")]);
    cargo.arg("--target-dir").arg(seed.join("target"));
    // The outer cargo's settings are for another compiler.
    for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    // Link-time optimization needs the bitcode.
    cargo.env("RUSTFLAGS", "-Cembed-bitcode=yes -Cforce-unwind-tables=no");
    run(&mut cargo)?;
    targets.iter().try_for_each(|target| install_libraries(&seed, target))?;
    fs::remove_dir_all(&seed).context("cannot remove what building the core libraries left")
}

/// An empty package: building it for a target builds the libraries it stands on.
fn write_seed(seed: &Path) -> Result<()> {
    if seed.exists() {
        fs::remove_dir_all(seed)?;
    }
    fs::create_dir_all(seed.join("src"))?;
    fs::write(seed.join("src/lib.rs"), "#![no_std]\n")?;
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
                    [workspace]\n\n[profile.release]\npanic = \"abort\"\n";
    Ok(fs::write(seed.join("Cargo.toml"), manifest)?)
}

fn install_libraries(seed: &Path, target: &str) -> Result<()> {
    let deps = seed.join("target").join(target).join("release/deps");
    let libdir = format!("{PREFIX}/lib/rustlib/{target}/lib");
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".rlib") && LIBRARIES.iter().any(|library| name.starts_with(library))
    };
    let entries = fs::read_dir(&deps).with_context(|| format!("no libraries for {target} in {}", deps.display()))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_wanted).collect();
    if files.len() != LIBRARIES.len() {
        bail!("{} holds {} libraries for {target} instead of {}", deps.display(), files.len(), LIBRARIES.len());
    }
    if fs::create_dir_all(&libdir).is_ok() {
        for file in &files {
            let name = file.file_name().unwrap_or_default();
            fs::copy(file, Path::new(&libdir).join(name)).with_context(|| format!("cannot write to {libdir}"))?;
        }
        return Ok(());
    }
    let files: Vec<String> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    as_root(&format!("mkdir -p {libdir}\ncp {} {libdir}/", files.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_can_read_the_script() {
        let script = [ADD_BACKPORTS, &packages_script(true, true)].join("\n");
        capture(Command::new("sh").args(["-n", "-c", &script])).unwrap();
    }
}
