//! The emulator provides the plugin's undefined symbols when it loads it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let macos = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos");
    let argument = if macos { "-Wl,-undefined,dynamic_lookup" } else { "-Wl,--unresolved-symbols=ignore-all" };
    println!("cargo:rustc-cdylib-link-arg={argument}");
}
