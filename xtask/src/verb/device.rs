//! `device`: ask a board that runs Mote's firmware, over its serial port or in the emulator.

use crate::images::write_whole;
use crate::remote::{Content, Place, Remote, model_line, place};
use crate::verb::sign;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use mote_client::protocol::{SlotState, State};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `device`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The board: `serial:/dev/ttyACM0`, `serial:COM3@1000000` (speed, 115200 without), or an emulated one
    #[arg(long, default_value = "qemu-m4", value_parser = place, value_name = "serial:PATH[@BAUD]|qemu-m4|...")]
    on: Place,
    /// Give an emulated board this .mote file for this once, instead of what was flashed and written before
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Where an emulated board's flash lies, as `flash --folder` was told: target/emulated/BOARD without
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    folder: Option<PathBuf>,
    /// Seconds to wait for an answer before asking again: 1 without
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// How often to ask: 5 times without; an emulated board, whose time stands still while the machine is busy, 60 times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempts: Option<u32>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Firmware, memory, model
    Identify,
    /// How the last job is
    Status,
    /// End the job in progress
    Cancel,
    /// Draw samples, which stay on the board, and measure them by its clock
    Bench {
        /// How many
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        samples: u16,
    },
    /// Run mote-core's self-test on the board: PASS and the hash that every target gives
    Selftest,
    /// What the model slots hold
    Slots,
    /// Read the model that lies in a slot
    Read {
        /// Number of the slot, from 0
        slot: u8,
        /// The .mote file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a model into the slot that is not in use, while the board goes on; it is the newest from then on
    Write {
        /// The .mote file
        file: PathBuf,
        /// Its ed25519 signature, 64 bytes: FILE.sig without, if it is there
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        /// Also load it
        #[arg(long)]
        load: bool,
    },
    /// Load the newest model
    Load,
}

/// Connects and asks.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { on, model, folder, timeout, attempts, what } = arguments;
    let mut timing = on.timing();
    if let Some(seconds) = *timeout {
        timing.answer =
            Duration::try_from_secs_f64(seconds).context("--timeout: give a number of seconds, such as 0.5")?;
    }
    timing.attempts = attempts.unwrap_or(timing.attempts);
    let content = model.as_deref().map_or(Content::Flashed(folder.as_deref()), Content::Model);
    let mut remote = Remote::connect(on, content, timing)?;
    match what {
        What::Identify => identify(&mut remote),
        What::Status => {
            let status = remote.ask(|client| client.status())?;
            println!("{}", state_line(status.state));
            Ok(())
        }
        What::Cancel => remote.ask(|client| client.cancel()),
        What::Bench { samples } => bench(&mut remote, *samples, on),
        What::Selftest => {
            println!("PASS {:08x}", remote.ask(|client| client.selftest())?);
            Ok(())
        }
        What::Slots => slots(&mut remote),
        What::Read { slot, out } => {
            write_whole(out, &remote.ask(|client| client.read_slot(*slot))?)?;
            println!("wrote {}", out.display());
            Ok(())
        }
        What::Write { file, signature, load } => {
            let read = |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
            let bytes = read(file)?;
            let signature = match signature {
                Some(path) => read(path)?,
                None => sign::signature(file, &bytes, None)?.map(Vec::from).unwrap_or_default(),
            };
            remote.ask(|client| client.update(&bytes, &signature, |_| ()))?;
            println!("{} bytes written and checked", bytes.len());
            if *load { load_newest(&mut remote) } else { Ok(()) }
        }
        What::Load => load_newest(&mut remote),
    }
}

fn identify(remote: &mut Remote) -> Result<()> {
    let identity = remote.client.identify()?;
    println!("board {}, firmware {}, .mote format {}", identity.board, identity.firmware, identity.format);
    println!("{}", model_line(&identity));
    println!("input {} bytes, clock {} Hz", identity.input_len, identity.clock_hz);
    match identity.slots {
        0 => println!("the model is fixed"),
        slots => println!("{slots} model slots of {} bytes", identity.slot_len),
    }
    Ok(())
}

fn load_newest(remote: &mut Remote) -> Result<()> {
    remote.ask(|client| client.load())?;
    println!("{}", model_line(&remote.client.identify()?));
    Ok(())
}

fn bench(remote: &mut Remote, samples: u16, on: &Place) -> Result<()> {
    let measured = remote.ask(|client| client.benchmark(samples, |_| ()))?;
    let (sample, layer) = (1e3 * measured.seconds_per_sample, 1e3 * measured.longest_layer);
    println!("{} samples: {sample:.3} ms each, longest layer {layer:.3} ms", measured.samples);
    if let Place::Emulated(_) = on {
        println!("by the emulator's clock, a nanosecond an instruction: no chip's time");
    }
    Ok(())
}

fn slots(remote: &mut Remote) -> Result<()> {
    let count = remote.client.identify()?.slots;
    if count == 0 {
        println!("no slots: the model is fixed");
    }
    for slot in 0..count {
        let info = remote.ask(|client| client.slot(slot))?;
        let state = match info.state {
            SlotState::Empty => "empty".to_owned(),
            SlotState::Updating { written, len } => format!("being written, {written} of {len} bytes"),
            SlotState::Whole { sequence, len, checksum, signed } => format!(
                "update {sequence}, {len} bytes, checksum {checksum:08x}, {}",
                if signed { "signed" } else { "not signed" }
            ),
        };
        println!("slot {slot}: {state}{}", if info.in_use { ", in use" } else { "" });
    }
    Ok(())
}

fn state_line(state: State) -> String {
    match state {
        State::Idle => "idle".to_owned(),
        State::Drawing { done, passes } => format!("drawing, {done} of {passes} passes"),
        State::Drawn { checksum } => format!("drawn, checksum {checksum:08x}"),
        State::Cancelled => "cancelled".to_owned(),
        State::Benchmarking { done, samples } => format!("measuring, {done} of {samples} samples"),
        State::Benchmarked { samples, .. } => format!("measured {samples} samples"),
        State::Testing => "testing itself".to_owned(),
        State::Passed { hash } => format!("self-test PASS {hash:08x}"),
        State::Failed { part, found } => format!("self-test FAILED: {part:?} gives {found:08x}"),
    }
}
