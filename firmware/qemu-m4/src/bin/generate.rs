//! Draws samples with the model in flash.
//!
//! Arguments: `OUT SEED FIRST COUNT CLASS`. Writes the pixels of samples `FIRST .. FIRST + COUNT` of the seed to the file
//! OUT, one after the other, height x width x channels bytes each. CLASS is a number, or `all`: then sample `i` has class
//! `i % classes`. Logs the most stack that was in use, in bytes. Exits with 0 when every
//! pixel is written.
#![no_std]
#![no_main]

use core::ffi::CStr;
use mote_core::{Arena, Generator, Model, Request, format};
use qemu_m4::host::{COMMAND_LINE, File, arguments};
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};
use qemu_m4::stack::Stack;
use qemu_m4::{fail, model_region};

/// Bytes of working memory: what a model may need at most on this board.
const ARENA_LEN: usize = 128 * 1024;

/// The working memory. Its name is how the host tells it from other data.
#[unsafe(no_mangle)]
static mut MOTE_ARENA: Arena<ARENA_LEN> = Arena::new();

/// Bytes of output gathered before the host is asked to write them.
const CHUNK: usize = 256;

struct Job<'a> {
    out: &'a CStr,
    seed: u64,
    first: u64,
    count: u64,
    class: Option<u16>,
}

#[qemu_m4::entry]
fn main() -> ! {
    let stack = Stack::paint();
    let mut line = [0; COMMAND_LINE];
    let job = read_job(&mut line);
    let model = read_model();
    // SAFETY: `main` runs once and nothing else names the arena.
    let arena = unsafe { (&raw mut MOTE_ARENA).as_mut_unchecked() };
    let mut generator = Generator::new(&model, &mut arena.0).unwrap_or_else(|error| fail("arena", error));
    let Some(file) = File::create(job.out) else { fail("output file", "the host cannot create it") };
    for sample in job.first..job.first.saturating_add(job.count) {
        let class = job.class.unwrap_or(remainder(sample, model.classes()));
        let request = Request { class, seed: job.seed, sample, ..Request::default() };
        mote_mark_begin();
        generator.start(request).unwrap_or_else(|error| fail("request", error));
        generator.finish();
        mote_mark_end();
        write_pixels(&file, generator.pixels());
    }
    defmt::info!("samples {=u64}", job.count);
    defmt::info!("stack {=usize}", stack.used());
    qemu_m4::succeed()
}

/// `value % divisor`, digit by digit: the library's division of 64 bits takes 1 kB.
fn remainder(value: u64, divisor: u16) -> u16 {
    let divisor = u32::from(divisor.max(1));
    [48, 32, 16, 0].iter().fold(0, |rest, at| (rest << 16 | (value >> at) as u32 & 0xFFFF) % divisor) as u16
}

/// What is wrong with an argument that should be one.
const NUMBER: &str = "missing, or not a number of its range: give OUT SEED FIRST COUNT CLASS";

fn read_job(line: &mut [u8; COMMAND_LINE]) -> Job<'_> {
    let words = arguments(line).unwrap_or_else(|| fail("command line", "too long"));
    let mut words = words.skip(1);
    let out = words.next().unwrap_or_else(|| fail("command line", "no output file: give OUT SEED FIRST COUNT CLASS"));
    let mut words = words.map(|word| word.to_str().unwrap_or_default());
    Job {
        out,
        seed: number("SEED", words.next()),
        first: number("FIRST", words.next()),
        count: number("COUNT", words.next()),
        class: match words.next() {
            Some("all") => None,
            word => Some(u16::try_from(number("CLASS", word)).unwrap_or_else(|_| fail("CLASS", NUMBER))),
        },
    }
}

fn number(name: &str, word: Option<&str>) -> u64 {
    match word.and_then(|word| word.parse().ok()) {
        Some(value) => value,
        None => fail(name, NUMBER),
    }
}

fn read_model() -> Model<'static> {
    let region = model_region();
    let Some(len) = format::stated_len(region) else {
        fail("model", "no .mote file in the model's flash region: flash one");
    };
    let Some(bytes) = region.get(..len) else {
        fail("model", "the file is longer than the model's flash region: use a smaller model");
    };
    let model = Model::parse(bytes).unwrap_or_else(|error| fail("model", error));
    defmt::info!(
        "model {=str} {=u32:08x}: {=usize}x{=usize}x{=usize}, {=u16} classes, {=u16} rows, {=usize} bytes, arena {=usize} of {=usize}",
        model.name(),
        model.checksum(),
        model.height(),
        model.width(),
        model.channels(),
        model.classes(),
        model.rows(),
        len,
        model.arena_len(),
        ARENA_LEN
    );
    model
}

fn write_pixels(file: &File, mut pixels: impl Iterator<Item = u8>) {
    let mut chunk = [0; CHUNK];
    loop {
        let mut len = 0;
        for (byte, pixel) in chunk.iter_mut().zip(pixels.by_ref()) {
            *byte = pixel;
            len += 1;
        }
        if len == 0 {
            return;
        }
        if !file.write(chunk.get(..len).unwrap_or_default()) {
            fail("output file", "the host cannot write to it");
        }
    }
}
