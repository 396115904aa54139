//! Chooses the kernels: `mote_dsp` for processors with the Armv7E-M DSP instructions. Kernels never change a number.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(mote_dsp)");
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    // Armv8-M has the instructions only as an extension, which the assembler does not take from the processor's name.
    if target.starts_with("thumbv7em") {
        println!("cargo:rustc-cfg=mote_dsp");
    }
}
