//! An emulated board that is spoken with: its serial port is a TCP connection from the emulator.

use super::{LOG, MESSAGES, SEMIHOSTING, command, spawn, version};
use crate::board::Board;
use crate::elf::Firmware;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time until the emulator opens its serial port.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often to look whether it has.
const START_POLL: Duration = Duration::from_millis(5);
/// How long a read from the port waits.
const READ_WAIT: Duration = Duration::from_millis(20);

/// An emulated board that answers on its serial port, until this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    /// The serial port.
    pub(crate) stream: TcpStream,
    firmware: Firmware,
    /// Before the folder that it writes to.
    emulator: Running,
    folder: TempDir,
}

impl Serving {
    /// Starts a program with the slots that a file holds; what it writes into them it writes into the file, too. The emulator's
    /// time is a nanosecond an instruction.
    ///
    /// # Errors
    /// If the emulator does not start or does not open its serial port.
    pub(crate) fn start(board: &'static Board, firmware: Firmware, slots: &Path) -> Result<Self> {
        let machine = board.machine().with_context(|| format!("{} is no emulated board", board.name))?;
        if version(machine.emulator).is_none() {
            bail!("{} is not installed: run `cargo xtask setup`", machine.emulator);
        }
        let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen for the emulator")?;
        let port = listener.local_addr()?.port();
        let mut command = command(machine, &firmware, Some(slots), folder.path())?;
        let (home, name) = (slots.parent().unwrap_or(Path::new(".")), slots.file_name().unwrap_or_default());
        command.current_dir(home);
        let semihosting = format!("{SEMIHOSTING},arg=mote,arg={}", name.to_string_lossy());
        command.args(["-chardev", &format!("socket,id=port,host=127.0.0.1,port={port},nodelay=on")]);
        command.args(["-serial", "chardev:port", "-icount", "shift=0", "-semihosting-config", &semihosting]);
        let mut emulator = Running(spawn(command.stdin(Stdio::null()))?);
        let stream = accept(&listener, &mut emulator, folder.path())?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        Ok(Serving { stream, firmware, emulator, folder })
    }

    /// Cuts the power.
    pub(crate) fn kill(&mut self) {
        self.emulator.kill();
    }

    /// The last line of the program's log, if it left one.
    pub(crate) fn last_log(&self) -> Option<String> {
        self.firmware.formats.decode(&fs::read(self.folder.path().join(LOG)).ok()?).pop()
    }
}

/// Waits for the emulator's connection.
fn accept(listener: &TcpListener, emulator: &mut Running, folder: &Path) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the emulator's serial port"),
        }
        if let Some(status) = emulator.0.try_wait()? {
            let messages = fs::read_to_string(folder.join(MESSAGES)).unwrap_or_default();
            bail!("the emulator ended before it opened its serial port ({status}): {}", messages.trim());
        }
        if started.elapsed() > START_LIMIT {
            bail!("the emulator did not open its serial port within {} s", START_LIMIT.as_secs());
        }
        sleep(START_POLL);
    }
}

/// A process that ends with this.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // If it has ended already, there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
