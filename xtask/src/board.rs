//! The emulated boards: one for each kind of processor the firmware builds for.

/// A machine that the emulator can be, and the target whose code it runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Board {
    /// Its name on our command line.
    pub(crate) name: &'static str,
    /// Rust's name for its code.
    pub(crate) target: &'static str,
    /// The processor that the compiler is told, where the target leaves instructions out that this one has.
    pub(crate) cpu: Option<&'static str>,
    /// The emulator's program.
    pub(crate) emulator: &'static str,
    /// The emulator's name for the machine.
    pub(crate) machine: &'static str,
    /// What else the emulator must be told.
    pub(crate) options: &'static [&'static str],
    /// What it stands for.
    pub(crate) processor: &'static str,
}

/// The Cortex-M4: the default board.
pub(crate) const QEMU_M4: Board = Board {
    name: "qemu-m4",
    target: "thumbv7em-none-eabi",
    cpu: None,
    emulator: "qemu-system-arm",
    machine: "mps2-an386",
    options: &[],
    processor: "Cortex-M4",
};

/// All boards.
pub(crate) const BOARDS: [Board; 6] = [
    QEMU_M4,
    Board {
        name: "qemu-m0",
        target: "thumbv6m-none-eabi",
        cpu: None,
        emulator: "qemu-system-arm",
        machine: "mps2-an385",
        options: &[],
        processor: "Cortex-M0+ (its code, on a Cortex-M3)",
    },
    Board {
        name: "qemu-m7",
        target: "thumbv7em-none-eabi",
        cpu: Some("cortex-m7"),
        emulator: "qemu-system-arm",
        machine: "mps2-an500",
        options: &[],
        processor: "Cortex-M7",
    },
    Board {
        name: "qemu-m33",
        target: "thumbv8m.main-none-eabi",
        cpu: Some("cortex-m33"),
        emulator: "qemu-system-arm",
        machine: "mps2-an505",
        options: &[],
        processor: "Cortex-M33",
    },
    Board {
        name: "qemu-m55",
        target: "thumbv8m.main-none-eabi",
        cpu: Some("cortex-m55"),
        emulator: "qemu-system-arm",
        machine: "mps3-an547",
        options: &[],
        processor: "Cortex-M55",
    },
    Board {
        name: "qemu-rv32",
        target: "riscv32imac-unknown-none-elf",
        cpu: None,
        emulator: "qemu-system-riscv32",
        machine: "virt",
        options: &["-bios", "none"],
        processor: "RV32IMAC",
    },
];

/// The other processor of hosts whose kernels are tested where its target and its emulator can be had.
pub(crate) const AARCH64: &str = "aarch64-unknown-linux-musl";
/// The emulator that runs its programs.
pub(crate) const USER_EMULATOR: &str = "qemu-aarch64";

/// The targets that mote-core must build for: the boards' and the browser's.
pub(crate) const CORE_TARGETS: [&str; 5] = [
    "thumbv7em-none-eabi",
    "thumbv6m-none-eabi",
    "thumbv8m.main-none-eabi",
    "riscv32imac-unknown-none-elf",
    "wasm32-unknown-unknown",
];
