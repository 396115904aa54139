//! A plugin for QEMU (9.0 or newer) that counts the instructions a one-core guest retires between two functions.
//!
//! Arguments: `begin=ADDRESS`, `end=ADDRESS` (hexadecimal, of the functions' first instructions), `out=FILE` and
//! optionally `blocks=FILE`. A span runs from a call of `begin`, that function's own instructions included, to the next
//! call of `end`, excluded. At its end
//!
//! - `out` gets a line with the decimal number of instructions;
//! - `blocks` gets a line for each block of straight code that ran in the span, `SPAN ADDRESS BYTES INSTRUCTIONS EXECUTIONS
//!   TAKEN`: the span's number from 0, where the block lies (hexadecimal), how long it is in bytes and in instructions, how
//!   often it was entered, and after how many of these times another block followed than the one behind it, which is a
//!   taken branch. A block may have more than one line.
//!
//! Whole translated blocks are counted as they are entered: what a call leads to always starts one. So the count is exact
//! unless an exception leaves a block half-way. An instruction that its condition skips counts, for it retires.
//!
//! The declarations are those of QEMU's `qemu-plugin.h`, plugin API version 2; later versions keep them.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// The plugin API this is written against.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, missing_docs)]
pub static qemu_plugin_version: c_int = 2;

type TranslatedBlock = *mut c_void;
type Instruction = *mut c_void;
type Executed = extern "C" fn(c_uint, *mut c_void);

/// The callback reads no guest register.
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, translated: extern "C" fn(u64, TranslatedBlock));
    fn qemu_plugin_tb_n_insns(block: TranslatedBlock) -> usize;
    fn qemu_plugin_tb_get_insn(block: TranslatedBlock, index: usize) -> Instruction;
    fn qemu_plugin_insn_vaddr(instruction: Instruction) -> u64;
    fn qemu_plugin_insn_size(instruction: Instruction) -> usize;
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: TranslatedBlock,
        executed: Executed,
        flags: c_int,
        data: *mut c_void,
    );
}

/// What the plugin was asked to do, and the files it writes.
struct Job {
    begin: u64,
    end: u64,
    files: Mutex<Files>,
}

struct Files {
    spans: u64,
    out: File,
    blocks: Option<File>,
}

/// A block of straight code and what happened to it in the current span.
struct Block {
    start: u64,
    end: u64,
    instructions: u64,
    executions: AtomicU64,
    taken: AtomicU64,
}

static JOB: OnceLock<Job> = OnceLock::new();
/// Every block that was translated. They live as long as the emulator.
static BLOCKS: Mutex<Vec<&Block>> = Mutex::new(Vec::new());
/// The block that was entered last. One guest core: no other thread counts.
static LAST: AtomicPtr<Block> = AtomicPtr::new(ptr::null_mut());

/// QEMU calls this once, after loading the plugin. Returns 0, or -1 if an argument is missing or wrong.
///
/// # Safety
///
/// `arguments` points to `count` C strings, as QEMU passes them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let words = (0..count as usize).map(|i| {
        // SAFETY: the caller promises `count` C strings.
        unsafe { CStr::from_ptr(*arguments.add(i)) }.to_string_lossy().into_owned()
    });
    match parse(words) {
        Ok(job) => {
            JOB.get_or_init(|| job);
            // SAFETY: `id` is the one QEMU gave this plugin, and the callback has the declared type.
            unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated) };
            0
        }
        Err(message) => {
            eprintln!("instruction-counter: {message}");
            -1
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Job, String> {
    let (mut begin, mut end, mut out, mut blocks) = (None, None, None, None);
    let create = |path: &str| File::create(path).map_err(|e| format!("{path}: {e}"));
    for word in words {
        match word.split_once('=') {
            Some(("begin", value)) => begin = Some(address(value)?),
            Some(("end", value)) => end = Some(address(value)?),
            Some(("out", value)) => out = Some(create(value)?),
            Some(("blocks", value)) => blocks = Some(create(value)?),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    let missing = |name: &str| format!("argument {name} is missing");
    Ok(Job {
        begin: begin.ok_or_else(|| missing("begin"))?,
        end: end.ok_or_else(|| missing("end"))?,
        files: Mutex::new(Files { spans: 0, out: out.ok_or_else(|| missing("out"))?, blocks }),
    })
}

fn address(value: &str) -> Result<u64, String> {
    u64::from_str_radix(value.trim_start_matches("0x"), 16).map_err(|e| format!("{value} is no address: {e}"))
}

extern "C" fn block_translated(_id: u64, translated: TranslatedBlock) {
    // SAFETY: the block and its instructions are valid during this callback, and a block has a first and a last one.
    let (instructions, start, end) = unsafe {
        let len = qemu_plugin_tb_n_insns(translated);
        let last = qemu_plugin_tb_get_insn(translated, len - 1);
        let first = qemu_plugin_tb_get_insn(translated, 0);
        let end = qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last) as u64;
        (len as u64, qemu_plugin_insn_vaddr(first), end)
    };
    let block = Block { start, end, instructions, executions: AtomicU64::new(0), taken: AtomicU64::new(0) };
    let block: &Block = Box::leak(Box::new(block));
    if let Ok(mut blocks) = BLOCKS.lock() {
        blocks.push(block);
    }
    let data = ptr::from_ref(block).cast_mut().cast();
    // SAFETY: `data` stays valid for ever and is read as what it is.
    unsafe { qemu_plugin_register_vcpu_tb_exec_cb(translated, block_entered, NO_REGISTERS, data) };
}

extern "C" fn block_entered(_core: c_uint, data: *mut c_void) {
    let Some(job) = JOB.get() else { return };
    // SAFETY: `block_translated` passed a block that is never freed.
    let block: &Block = unsafe { &*data.cast::<Block>() };
    // SAFETY: null, or a block from the last call of this function.
    let last = unsafe { LAST.swap(data.cast(), Relaxed).as_ref() };
    if let Some(last) = last.filter(|last| last.end != block.start) {
        add_one(&last.taken);
    }
    if block.start == job.begin {
        forget();
    } else if block.start == job.end
        && let Err(error) = report(job)
    {
        eprintln!("instruction-counter: cannot write a count: {error}");
    }
    add_one(&block.executions);
}

/// Not a locked addition: only one thread adds.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

fn forget() {
    let Ok(blocks) = BLOCKS.lock() else { return };
    for block in blocks.iter() {
        block.executions.store(0, Relaxed);
        block.taken.store(0, Relaxed);
    }
}

fn report(job: &Job) -> io::Result<()> {
    let (Ok(blocks), Ok(mut files)) = (BLOCKS.lock(), job.files.lock()) else { return Ok(()) };
    let executed =
        || blocks.iter().map(|block| (block, block.executions.load(Relaxed))).filter(|(_, times)| *times > 0);
    let count: u64 = executed().map(|(block, times)| block.instructions * times).sum();
    writeln!(files.out, "{count}")?;
    let span = files.spans;
    files.spans += 1;
    if let Some(file) = &mut files.blocks {
        let mut file = BufWriter::new(file);
        for (Block { start, end, instructions, taken, .. }, times) in executed() {
            writeln!(file, "{span} {start:x} {} {instructions} {times} {}", end - start, taken.load(Relaxed))?;
        }
        file.flush()?;
    }
    Ok(())
}
