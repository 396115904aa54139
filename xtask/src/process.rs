//! Running other programs.

use crate::UsageError;
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitStatus, Stdio};

/// A program that works in our place failed and has said why: nothing is left to say.
#[derive(Debug)]
pub(crate) struct Reported {
    status: u8,
}

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a program failed with status {}: see its message above", self.status)
    }
}

impl std::error::Error for Reported {}

/// Our exit status for an error: that of a program which works in our place, 2 for wrong usage, else 1.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Reported>() {
        Some(reported) => reported.status,
        None if error.is::<UsageError>() => 2,
        None => 1,
    }
}

/// Runs a program in our place: it says itself what goes wrong, and its exit status becomes ours.
pub(crate) fn pass_on(command: &mut Command) -> Result<()> {
    let status = start(command)?;
    if status.success() {
        return Ok(());
    }
    let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Reported { status }.into())
}

/// Runs a program to its end, its output shown as it comes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = start(command)?;
    if !status.success() {
        bail!("{} failed ({status}): see its message above", name(command));
    }
    Ok(())
}

fn start(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot start {}: is it installed?", name(command)))
}

/// Runs a program to its end and returns what it wrote to standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let what = name(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {what}: is it installed?"))?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program and the words of its command line that say what it does.
fn name(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program).chain(words.take(4)).collect::<Vec<_>>().join(" ")
}
