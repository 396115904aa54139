//! The programs of others that reach a board over a debug probe or a serial port.
//!
//! probe-rs as a command, not as a library: the library is 150 packages and two minutes of compiling for every user of
//! `cargo xtask`, boards or no boards; the command is installed once, and knows more probes with each of its releases. The
//! same holds for espflash.

use super::image::Part;
use crate::process::run;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program, and how to get it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    program: &'static str,
    install: &'static str,
}

/// The debug probes' program.
pub(crate) const PROBE_RS: Tool = Tool {
    program: "probe-rs",
    install: "cargo install --locked probe-rs-tools (or a binary from https://probe.rs/docs/getting-started/installation/)",
};
/// Espressif's serial ports' program.
pub(crate) const ESPFLASH: Tool = Tool { program: "espflash", install: "cargo install --locked espflash" };

impl Tool {
    /// # Errors
    /// If it is not installed, with how to install it.
    pub(crate) fn check(self) -> Result<()> {
        let found = Command::new(self.program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        match found {
            Ok(status) if status.success() => Ok(()),
            _ => bail!("{} is not installed, and this board is flashed with it: {}", self.program, self.install),
        }
    }

    /// Runs the steps, one after the other.
    pub(crate) fn run(self, steps: &[Vec<OsString>]) -> Result<()> {
        for step in steps {
            run(Command::new(self.program).args(step))?;
        }
        Ok(())
    }
}

/// Which probe and how carefully.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// A probe (`VID:PID[:SERIAL]`), or a serial port.
    pub(crate) selector: Option<&'a str>,
    /// Whether what was written is read back.
    pub(crate) verify: bool,
}

/// probe-rs' steps: the firmware's ELF file, the parts at their addresses, a reset.
///
/// The parts' bytes are put into files in `folder`.
pub(crate) fn probe_rs(
    chip: &str,
    firmware: Option<&Path>,
    parts: &[Part],
    options: Options<'_>,
    folder: &Path,
) -> Result<Vec<Vec<OsString>>> {
    let mut common = words(&["--non-interactive", "--chip", chip]);
    if let Some(selector) = options.selector {
        common.extend(words(&["--probe", selector]));
    }
    let mut download = [words(&["download"]), common.clone()].concat();
    if options.verify {
        download.extend(words(&["--verify"]));
    }
    let mut steps = Vec::new();
    if let Some(firmware) = firmware {
        steps.push([download.clone(), words(&["--binary-format", "elf"]), vec![firmware.into()]].concat());
    }
    for (file, part) in files(parts, folder)?.into_iter().zip(parts) {
        let place = words(&["--binary-format", "bin", "--base-address", &format!("{:#x}", part.address)]);
        steps.push([download.clone(), place, vec![file]].concat());
    }
    steps.push([words(&["reset"]), common].concat());
    Ok(steps)
}

/// espflash's steps: the parts at their offsets, then the firmware's ELF file with the table of partitions, which starts it.
/// espflash verifies what it writes.
pub(crate) fn espflash(
    chip: &str,
    firmware: Option<(&Path, &Path)>,
    parts: &[Part],
    options: Options<'_>,
    folder: &Path,
) -> Result<Vec<Vec<OsString>>> {
    let mut common = words(&["--chip", chip]);
    if let Some(port) = options.selector {
        common.extend(words(&["--port", port]));
    }
    let mut steps = Vec::new();
    for (file, part) in files(parts, folder)?.into_iter().zip(parts) {
        steps.push(
            [words(&["write-bin"]), common.clone(), words(&[&format!("{:#x}", part.address)]), vec![file]].concat(),
        );
    }
    match firmware {
        Some((firmware, partitions)) => {
            let partitions = [words(&["--partition-table"]), vec![partitions.into()]].concat();
            steps.push([words(&["flash"]), common, partitions, vec![firmware.into()]].concat());
        }
        None => steps.push([words(&["reset"]), common].concat()),
    }
    Ok(steps)
}

/// Writes each part's bytes to a file.
fn files(parts: &[Part], folder: &Path) -> Result<Vec<OsString>> {
    let file = |part: &Part| {
        let path = folder.join(format!("{:08x}.bin", part.address));
        fs::write(&path, &part.bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.into_os_string())
    };
    parts.iter().map(file).collect()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(steps: &[Vec<OsString>], folder: &Path) -> Vec<String> {
        let line = |step: &Vec<OsString>| step.join(std::ffi::OsStr::new(" ")).into_string().unwrap();
        steps.iter().map(line).map(|line| line.replace(folder.to_str().unwrap(), "DIR")).collect()
    }

    fn parts() -> [Part; 2] {
        [("A", 0x0804_0000, 3), ("B", 0x080A_0000, 1)].map(|(what, address, len)| Part {
            what,
            address,
            bytes: vec![9; len],
        })
    }

    #[test]
    fn probe_rs_writes_firmware_and_parts_and_resets() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { selector: Some("0483:374b:0001"), verify: true };
        let steps = probe_rs("STM32F405RG", Some(Path::new("fw.elf")), &parts(), options, folder.path()).unwrap();
        let probe = "--non-interactive --chip STM32F405RG --probe 0483:374b:0001";
        assert_eq!(
            lines(&steps, folder.path()),
            [
                format!("download {probe} --verify --binary-format elf fw.elf"),
                format!("download {probe} --verify --binary-format bin --base-address 0x8040000 DIR/08040000.bin"),
                format!("download {probe} --verify --binary-format bin --base-address 0x80a0000 DIR/080a0000.bin"),
                format!("reset {probe}"),
            ]
        );
        assert_eq!(fs::read(folder.path().join("08040000.bin")).unwrap(), [9, 9, 9]);
    }

    #[test]
    fn espflash_writes_parts_before_the_firmware_starts() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { selector: None, verify: true };
        let firmware = Some((Path::new("fw.elf"), Path::new("partitions.csv")));
        let steps = espflash("esp32c3", firmware, &parts(), options, folder.path()).unwrap();
        assert_eq!(
            lines(&steps, folder.path()),
            [
                "write-bin --chip esp32c3 0x8040000 DIR/08040000.bin",
                "write-bin --chip esp32c3 0x80a0000 DIR/080a0000.bin",
                "flash --chip esp32c3 --partition-table partitions.csv fw.elf",
            ]
        );
        let steps = espflash("esp32c3", None, &parts()[..1], options, folder.path()).unwrap();
        assert_eq!(lines(&steps, folder.path())[1], "reset --chip esp32c3");
    }
}
