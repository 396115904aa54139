//! Puts the board's memory layout where the linker finds it, as `memory.x`.
//!
//! The board is known by its target and, where two share one, by the processor that the compiler is told
//! (`RUSTFLAGS=-Ctarget-cpu=...`, see `xtask/src/board.rs`).

use std::path::Path;
use std::{env, fs};

fn main() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let layout = match target.split('-').next().unwrap_or_default() {
        "thumbv6m" | "thumbv7em" => "mps2-an386.x",
        "thumbv8m.main" if flags.contains("cortex-m55") => "mps3-an547.x",
        "thumbv8m.main" => "mps2-an505.x",
        "riscv32imac" => "virt.x",
        _ => panic!("no memory layout for {target}: add one under memory/ and name it in build.rs"),
    };
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
