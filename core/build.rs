//! Chooses the kernels: `mote_dsp` for processors with the Armv7E-M DSP instructions, `mote_mve` for those with Armv8.1-M's
//! vector extension, `mote_packed` for Armv6-M, Armv7-M and RV32IM, `mote_neon`, `mote_simd128` and `mote_x86` for AArch64,
//! WebAssembly and x86-64 with vector registers. Kernels never change a number.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(mote_dsp, mote_dsp_extension, mote_mve, mote_packed)");
    println!("cargo:rustc-check-cfg=cfg(mote_neon, mote_simd128, mote_x86)");
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    // On Armv8-M the instructions are an extension, and no stable cfg tells: the processor named to the compiler does.
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let named = |cpus: &[&str]| target.starts_with("thumbv8m.main") && cpus.iter().any(|cpu| flags.contains(cpu));
    if named(&["cortex-m55", "cortex-m85"]) {
        println!("cargo:rustc-cfg=mote_mve");
    }
    let extension = named(&["cortex-m33", "cortex-m35p"]);
    if extension {
        println!("cargo:rustc-cfg=mote_dsp_extension");
    }
    if extension || target.starts_with("thumbv7em") {
        println!("cargo:rustc-cfg=mote_dsp");
    }
    if ["thumbv6m", "thumbv7m-", "riscv32im"].iter().any(|family| target.starts_with(family)) {
        println!("cargo:rustc-cfg=mote_packed");
    }
    let cfg = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let (arch, features) = (cfg("ARCH"), cfg("FEATURE"));
    let has = |feature: &str| features.split(',').any(|enabled| enabled == feature);
    match arch.as_str() {
        "aarch64" if has("neon") && cfg("ENDIAN") == "little" => println!("cargo:rustc-cfg=mote_neon"),
        "wasm32" if has("simd128") => println!("cargo:rustc-cfg=mote_simd128"),
        // Soft-float targets lack even SSE2; what else the processor has is asked when the program runs.
        "x86_64" if has("sse2") => println!("cargo:rustc-cfg=mote_x86"),
        _ => {}
    }
}
