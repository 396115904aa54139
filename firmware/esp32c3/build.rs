//! Names the linker's script, which esp-hal brings; the layout of flash is the table of partitions'.

fn main() {
    println!("cargo:rustc-link-arg-bins=-Tlinkall.x");
}
