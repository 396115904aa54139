//! The build script of every board with a Cortex-M: puts the board's memory layout where the linker finds it, and names the
//! linker's scripts.

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let layout = fs::read_to_string("memory.x").expect("the board's folder has a memory.x");
    fs::write(Path::new(&out).join("memory.x"), &layout).expect("write the memory layout");
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rustc-link-search={out}");
    for argument in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    // The RP2040 starts with a loader of 256 bytes, which embassy-rp brings.
    if layout.contains("BOOT2") {
        println!("cargo:rustc-link-arg-bins=-Tlink-rp.x");
    }
}
