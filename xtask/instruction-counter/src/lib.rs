//! A plugin for QEMU (9.0 or newer) that counts the instructions a one-core guest retires between two addresses.
//!
//! Arguments: `begin=ADDRESS`, `end=ADDRESS` (hexadecimal) and `out=FILE`. Each time the guest passes `begin` and then
//! `end`, one decimal line is appended to the file: the instructions from the one at `begin`, included, to the one at
//! `end`, excluded.
//!
//! Whole translated blocks are added as they are entered, and a marker takes back what its own block has not yet run.
//! So the count is exact unless an exception leaves a block half-way between the markers.
//!
//! The declarations are those of QEMU's `qemu-plugin.h`, plugin API version 2; later versions keep them.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::ptr::without_provenance_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// The plugin API this is written against.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, missing_docs)]
pub static qemu_plugin_version: c_int = 2;

type Block = *mut c_void;
type Instruction = *mut c_void;
type Executed = extern "C" fn(c_uint, *mut c_void);

/// The callback reads no guest register.
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, translated: extern "C" fn(u64, Block));
    fn qemu_plugin_tb_n_insns(block: Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: Block, index: usize) -> Instruction;
    fn qemu_plugin_insn_vaddr(instruction: Instruction) -> u64;
    fn qemu_plugin_register_vcpu_tb_exec_cb(block: Block, executed: Executed, flags: c_int, data: *mut c_void);
    fn qemu_plugin_register_vcpu_insn_exec_cb(at: Instruction, executed: Executed, flags: c_int, data: *mut c_void);
}

struct Markers {
    begin: u64,
    end: u64,
    out: Mutex<File>,
}

static MARKERS: OnceLock<Markers> = OnceLock::new();
/// Instructions of all blocks entered so far. One guest core: no other thread adds.
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// The count at the last `begin`.
static BEGUN_AT: AtomicU64 = AtomicU64::new(0);

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
        Ok(markers) => {
            MARKERS.get_or_init(|| markers);
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

fn parse(words: impl Iterator<Item = String>) -> Result<Markers, String> {
    let (mut begin, mut end, mut out) = (None, None, None);
    for word in words {
        match word.split_once('=') {
            Some(("begin", value)) => begin = Some(address(value)?),
            Some(("end", value)) => end = Some(address(value)?),
            Some(("out", value)) => out = Some(File::create(value).map_err(|e| format!("{value}: {e}"))?),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    let missing = |name: &str| format!("argument {name} is missing");
    Ok(Markers {
        begin: begin.ok_or_else(|| missing("begin"))?,
        end: end.ok_or_else(|| missing("end"))?,
        out: Mutex::new(out.ok_or_else(|| missing("out"))?),
    })
}

fn address(value: &str) -> Result<u64, String> {
    u64::from_str_radix(value.trim_start_matches("0x"), 16).map_err(|e| format!("{value} is no address: {e}"))
}

extern "C" fn block_translated(_id: u64, block: Block) {
    let Some(markers) = MARKERS.get() else { return };
    // SAFETY: the block and its instructions are valid during this callback; the integers travel as pointer values and
    // are never dereferenced.
    unsafe {
        let len = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_cb(block, block_entered, NO_REGISTERS, without_provenance_mut(len));
        for index in 0..len {
            let instruction = qemu_plugin_tb_get_insn(block, index);
            let address = qemu_plugin_insn_vaddr(instruction);
            let not_yet_run = without_provenance_mut(len - index);
            if address == markers.begin {
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, begin, NO_REGISTERS, not_yet_run);
            } else if address == markers.end {
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, end, NO_REGISTERS, not_yet_run);
            }
        }
    }
}

extern "C" fn block_entered(_core: c_uint, len: *mut c_void) {
    ENTERED.store(ENTERED.load(Relaxed) + len.addr() as u64, Relaxed);
}

extern "C" fn begin(_core: c_uint, not_yet_run: *mut c_void) {
    BEGUN_AT.store(ENTERED.load(Relaxed) - not_yet_run.addr() as u64, Relaxed);
}

extern "C" fn end(_core: c_uint, not_yet_run: *mut c_void) {
    let count = ENTERED.load(Relaxed) - not_yet_run.addr() as u64 - BEGUN_AT.load(Relaxed);
    let Some(Ok(mut out)) = MARKERS.get().map(|markers| markers.out.lock()) else { return };
    if let Err(error) = writeln!(out, "{count}") {
        eprintln!("instruction-counter: cannot write a count: {error}");
    }
}
