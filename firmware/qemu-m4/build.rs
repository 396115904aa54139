//! Puts the target's memory layout where the linker finds it, as `memory.x`.

use std::path::Path;
use std::{env, fs};

fn main() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let layout = match target.split('-').next().unwrap_or_default() {
        "thumbv6m" | "thumbv7em" => "mps2-an386.x",
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
}
