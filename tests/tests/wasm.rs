//! The kernels for WebAssembly in an interpreter: the same bits as on the host.

use mote_core::selftest;
use std::path::{Path, PathBuf};
use std::process::Command;
use wasmi::{Engine, Instance, Linker, Module, Store, WasmParams, WasmResults};

const TARGET: &str = "wasm32-unknown-unknown";
/// Random cases on which kernels are compared with the reference.
const CASES: u32 = 300;

/// Builds core's `selftest` example with these compiler flags; `None` if there is no compiler for the target.
fn build(folder: &Path, flags: &str) -> Option<PathBuf> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).env("RUSTFLAGS", flags);
        command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_TARGET_DIR", folder);
        command.status().expect("cargo starts").success()
    };
    let installed = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let libraries = String::from_utf8(installed.expect("rustc starts").stdout).expect("a path in UTF-8");
    if !Path::new(libraries.trim()).exists() {
        return None;
    }
    let arguments = ["build", "--quiet", "--locked", "--release", "-p", "mote-core", "--example", "selftest"];
    assert!(cargo(&[&arguments[..], &["--target", TARGET]].concat()), "the example does not build for {TARGET}");
    Some(folder.join(TARGET).join("release/examples/selftest.wasm"))
}

/// Calls an exported function.
fn call<P: WasmParams, R: WasmResults>(store: &mut Store<()>, instance: &Instance, name: &str, parameters: P) -> R {
    let function = instance.get_typed_func::<P, R>(&mut *store, name).expect("the function is exported");
    function.call(store, parameters).expect("nothing traps")
}

#[test]
fn wasm_computes_the_host_s_bits_with_and_without_simd128() {
    for flags in ["-Ctarget-feature=-simd128", "-Ctarget-feature=+simd128"] {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = build(folder.path(), flags) else {
            println!("SKIPPED: {TARGET} is not installed: `rustup target add {TARGET}`");
            return;
        };
        let engine = Engine::default();
        let module = Module::new(&engine, std::fs::read(path).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate_and_start(&mut store, &module).unwrap();
        let checksum: u32 = call(&mut store, &instance, "run_selftest", ());
        assert_eq!(checksum, selftest::EXPECTED, "the self-test with {flags}");
        let equal: u32 = call(&mut store, &instance, "equal_cases", CASES);
        assert_eq!(equal, CASES, "kernels differ from the reference in this case with {flags}");
    }
}
