//! Puts the board's memory layout where the linker finds it, as `memory.x`.
//!
//! The board is known by its target and, where two share one, by the processor that the compiler is told
//! (`RUSTFLAGS=-Ctarget-cpu=...`, see `xtask/src/board.rs`).

use std::path::Path;
use std::{env, fs};

fn main() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let has = |processor: &str| flags.contains(&format!("target-cpu={processor}"));
    // The name on xtask's command line, the memory layout, and the MHz of the clock that the emulator gives the board.
    let (board, layout, clock) = match target.split('-').next().unwrap_or_default() {
        "thumbv6m" => ("qemu-m0", "mps2-an386.x", 25),
        "thumbv7m" => ("qemu-m3", "mps2-an386.x", 25),
        "thumbv7em" if has("cortex-m7") => ("qemu-m7", "mps2-an386.x", 25),
        "thumbv7em" => ("qemu-m4", "mps2-an386.x", 25),
        "thumbv8m.main" if has("cortex-m55") => ("qemu-m55", "mps3-an547.x", 32),
        "thumbv8m.main" => ("qemu-m33", "mps2-an505.x", 20),
        "riscv32imac" => ("qemu-rv32", "virt.x", 10),
        _ => panic!("no memory layout for {target}: add one under memory/ and name it in build.rs"),
    };
    println!("cargo:rustc-env=MOTE_BOARD={board}");
    println!("cargo:rustc-env=MOTE_CLOCK_MHZ={clock}");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let source = Path::new("memory").join(layout);
    fs::copy(&source, Path::new(&out).join("memory.x")).expect("copy the memory layout");
    println!("cargo:rerun-if-changed=memory");
    println!("cargo:rustc-link-search={out}");
    for argument in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-check-cfg=cfg(named_processor)");
    if flags.contains("target-cpu=cortex-m") {
        println!("cargo:rustc-cfg=named_processor");
    }
}
