//! Draws samples with the model in flash.
//!
//! Arguments: `OUT SEED FIRST COUNT CLASS`. Writes the pixels of samples `FIRST .. FIRST + COUNT` of the seed to the file
//! OUT, one after the other, height x width x channels bytes each. CLASS is a number, or `all`: then sample `i` has class
//! `i % classes`. Exits with 0 when every pixel is written.
#![no_std]
#![no_main]

use core::str::FromStr;
use heapless::CString;
use mote_core::{Arena, Generator, Model, Request, format};
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};
use qemu_m4::{COMMAND_LINE, fail, model_region};
use semihosting::experimental::env;
use semihosting::fs::File;
use semihosting::io::Write;

/// Bytes of working memory: what a model may need at most on this board.
const ARENA_LEN: usize = 128 * 1024;

/// The working memory. Its name is how the host tells it from other data.
#[unsafe(no_mangle)]
static mut MOTE_ARENA: Arena<ARENA_LEN> = Arena::new();

/// Bytes of output gathered before the host is asked to write them.
const CHUNK: usize = 256;

struct Job {
    out: CString<COMMAND_LINE>,
    seed: u64,
    first: u64,
    count: u64,
    class: Option<u16>,
}

#[qemu_m4::entry]
fn main() -> ! {
    let job = read_job();
    let model = read_model();
    // SAFETY: `main` runs once and nothing else names the arena.
    let arena = unsafe { &mut *(&raw mut MOTE_ARENA) };
    let mut generator = Generator::new(&model, &mut arena.0).unwrap_or_else(|error| fail("arena", error));
    let mut file = File::create(&*job.out).unwrap_or_else(|error| fail("output file", error));
    for sample in job.first..job.first.saturating_add(job.count) {
        let class = job.class.unwrap_or((sample % u64::from(model.classes())) as u16);
        let request = Request { class, seed: job.seed, sample, ..Request::default() };
        mote_mark_begin();
        generator.start(request).unwrap_or_else(|error| fail("request", error));
        generator.finish();
        mote_mark_end();
        write_pixels(&mut file, generator.pixels()).unwrap_or_else(|error| fail("output file", error));
    }
    defmt::info!("samples {=u64}", job.count);
    qemu_m4::succeed()
}

fn read_job() -> Job {
    let arguments = env::args::<COMMAND_LINE>().unwrap_or_else(|error| fail("command line", error));
    // The first word is the program's own name.
    let mut words = (&arguments).skip(1).map(|word| word.unwrap_or_else(|error| fail("command line", error)));
    let out = words.next().unwrap_or_else(|| fail("command line", "no output file: give OUT SEED FIRST COUNT CLASS"));
    Job {
        out: c_string(out),
        seed: number("SEED", words.next()),
        first: number("FIRST", words.next()),
        count: number("COUNT", words.next()),
        class: match words.next() {
            Some("all") => None,
            word => Some(number("CLASS", word)),
        },
    }
}

fn c_string(word: &str) -> CString<COMMAND_LINE> {
    let mut path = CString::new();
    match path.extend_from_bytes(word.as_bytes()) {
        Ok(()) => path,
        Err(_) => fail("output file", "the path is too long"),
    }
}

fn number<T: FromStr>(name: &str, word: Option<&str>) -> T {
    match word.and_then(|word| word.parse().ok()) {
        Some(value) => value,
        None => fail(name, "missing, or not a number of its range: give OUT SEED FIRST COUNT CLASS"),
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

fn write_pixels(file: &mut File, pixels: impl Iterator<Item = u8>) -> semihosting::io::Result<()> {
    let mut chunk = heapless::Vec::<u8, CHUNK>::new();
    for pixel in pixels {
        if chunk.push(pixel).is_err() {
            file.write_all(&chunk)?;
            chunk.clear();
            let _ = chunk.push(pixel);
        }
    }
    file.write_all(&chunk)
}
