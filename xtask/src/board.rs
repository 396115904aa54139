//! The boards: what code each runs, where everything lies in its memory, and what programs it.
//!
//! This table is the one source of addresses. A board's package repeats them for the linker in `memory.x`, and a test
//! here compares the two.

use crate::verb::flash::uf2::Family;

/// A board: a real one, or a machine that the emulator can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Board {
    /// Its name on our command line.
    pub(crate) name: &'static str,
    /// The folder of its package under `firmware/`.
    pub(crate) package: &'static str,
    /// Rust's name for its code.
    pub(crate) target: &'static str,
    /// The processor that the compiler is told, where the target leaves instructions out that this one has.
    pub(crate) cpu: Option<&'static str>,
    /// What it is, or stands for.
    pub(crate) processor: &'static str,
    /// Its memory.
    pub(crate) memory: Memory,
    /// What programs it.
    pub(crate) programmer: Programmer,
}

impl Board {
    /// The machine that plays it, if it is an emulated one.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        match &self.programmer {
            Programmer::Emulator(machine) => Some(machine),
            _ => None,
        }
    }
}

/// How firmware and models get onto a board.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Programmer {
    /// They lie in a file that the emulator loads.
    Emulator(Machine),
    /// A debug probe, driven by probe-rs.
    Probe {
        /// probe-rs' name for the chip.
        chip: &'static str,
    },
    /// The drive that the chip's boot ROM shows on USB takes UF2 files; a debug probe works too.
    Uf2 {
        /// `Board-ID` in the drive's `INFO_UF2.TXT`.
        drive: &'static str,
        /// UF2 family of the firmware.
        firmware: Family,
        /// UF2 family of a file without firmware.
        data: Family,
        /// probe-rs' name for the chip.
        chip: &'static str,
    },
    /// A serial port, driven by espflash.
    Espflash {
        /// espflash's name for the chip.
        chip: &'static str,
    },
}

/// What the emulator must be told to play a board.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The emulator's program.
    pub(crate) emulator: &'static str,
    /// The emulator's name for the machine.
    pub(crate) name: &'static str,
    /// What else the emulator must be told.
    pub(crate) options: &'static [&'static str],
}

/// What lies where. Addresses are the processor's, except where flash is not mapped into memory (ESP32): there, offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the chip's boot ROM needs before the firmware.
    pub(crate) bootloader: Option<Region>,
    /// Flash for the firmware: `FLASH` in `memory.x`.
    pub(crate) firmware: Region,
    /// Flash for the two model slots, which halve it: `MODEL` in `memory.x`.
    pub(crate) slots: Region,
    /// RAM for data and stack: `RAM` in `memory.x`.
    pub(crate) ram: Region,
    /// Bytes of the working memory, `MOTE_ARENA`, in that RAM.
    pub(crate) arena: u32,
    /// Bytes of flash that are erased together, as the board's flash driver does it.
    pub(crate) erase: u32,
    /// Bytes of flash that are written together, as the board's flash driver does it.
    pub(crate) write: u32,
}

impl Memory {
    /// Slot A and slot B.
    pub(crate) fn slot(&self, slot: usize) -> Region {
        let len = self.slots.len / 2;
        Region { start: self.slots.start + slot as u32 * len, len }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The first.
    pub(crate) start: u32,
    /// How many.
    pub(crate) len: u32,
}

impl Region {
    const fn new(start: u32, len: u32) -> Self {
        Region { start, len }
    }

    /// One past the last address.
    pub(crate) fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.len)
    }
}

const KIB: u32 = 1024;

/// Memory of the emulated boards, which differ only in where it begins: a flash of 4 MiB, 4 MiB of RAM.
const fn emulated(flash: u32, ram: u32) -> Memory {
    Memory {
        bootloader: None,
        firmware: Region::new(flash, 512 * KIB),
        slots: Region::new(flash + 512 * KIB, 3584 * KIB),
        ram: Region::new(ram, 4096 * KIB),
        arena: 128 * KIB,
        erase: 4 * KIB,
        write: 4,
    }
}

const fn arm_machine(name: &'static str) -> Programmer {
    Programmer::Emulator(Machine { emulator: "qemu-system-arm", name, options: &[] })
}

/// The Cortex-M4: the default board.
pub(crate) const QEMU_M4: Board = Board {
    name: "qemu-m4",
    package: "qemu-m4",
    target: "thumbv7em-none-eabi",
    cpu: None,
    processor: "Cortex-M4",
    memory: emulated(0, 0x2000_0000),
    programmer: arm_machine("mps2-an386"),
};

/// The emulated boards: one for each kind of processor the firmware builds for.
pub(crate) const EMULATED: [Board; 7] = [
    QEMU_M4,
    Board {
        name: "qemu-m0",
        target: "thumbv6m-none-eabi",
        processor: "Cortex-M0+ (its code, on a Cortex-M3)",
        programmer: arm_machine("mps2-an385"),
        ..QEMU_M4
    },
    Board {
        name: "qemu-m7",
        cpu: Some("cortex-m7"),
        processor: "Cortex-M7",
        programmer: arm_machine("mps2-an500"),
        ..QEMU_M4
    },
    Board {
        name: "qemu-m33",
        target: "thumbv8m.main-none-eabi",
        cpu: Some("cortex-m33"),
        processor: "Cortex-M33",
        memory: emulated(0x1000_0000, 0x3800_0000),
        programmer: arm_machine("mps2-an505"),
        ..QEMU_M4
    },
    Board {
        name: "qemu-m55",
        target: "thumbv8m.main-none-eabi",
        cpu: Some("cortex-m55"),
        processor: "Cortex-M55",
        memory: Memory { slots: Region::new(0x1100_0000, 2048 * KIB), ..emulated(0x1000_0000, 0x3100_0000) },
        programmer: arm_machine("mps3-an547"),
        ..QEMU_M4
    },
    Board {
        name: "qemu-rv32",
        target: "riscv32imac-unknown-none-elf",
        processor: "RV32IMAC",
        memory: emulated(0x8000_0000, 0x8040_0000),
        programmer: Programmer::Emulator(Machine {
            emulator: "qemu-system-riscv32",
            name: "virt",
            options: &["-bios", "none"],
        }),
        ..QEMU_M4
    },
    Board {
        name: "qemu-m3",
        target: "thumbv7m-none-eabi",
        processor: "Cortex-M3",
        programmer: arm_machine("mps2-an385"),
        ..QEMU_M4
    },
];

/// The real boards, one for each family of chips.
pub(crate) const HARDWARE: [Board; 6] = [
    Board {
        name: "rp2350",
        package: "rp2350",
        // With hardware floating point, though nothing here computes with it: so the HAL turns that unit on for both cores,
        // which the compiler uses to move data.
        target: "thumbv8m.main-none-eabihf",
        cpu: Some("cortex-m33"),
        processor: "Raspberry Pi Pico 2 (RP2350, 2 x Cortex-M33, 150 MHz)",
        // QSPI flash of 4 MiB, sectors of 4 KiB, pages of 256 bytes (RP2350 datasheet, 2.2 and 12.14).
        memory: Memory {
            bootloader: None,
            firmware: Region::new(0x1000_0000, 1024 * KIB),
            slots: Region::new(0x1010_0000, 3072 * KIB),
            ram: Region::new(0x2000_0000, 512 * KIB),
            arena: 384 * KIB,
            erase: 4 * KIB,
            write: 256,
        },
        programmer: Programmer::Uf2 {
            drive: "RP2350",
            firmware: Family::Rp2350ArmSecure,
            data: Family::Absolute,
            chip: "RP235x",
        },
    },
    Board {
        name: "rp2040",
        package: "rp2040",
        target: "thumbv6m-none-eabi",
        cpu: None,
        processor: "Raspberry Pi Pico (RP2040, 2 x Cortex-M0+, 125 MHz)",
        // QSPI flash of 2 MiB, sectors of 4 KiB, pages of 256 bytes (RP2040 datasheet, 2.6.3).
        memory: Memory {
            bootloader: Some(Region::new(0x1000_0000, 256)),
            firmware: Region::new(0x1000_0100, 512 * KIB - 256),
            slots: Region::new(0x1008_0000, 1536 * KIB),
            ram: Region::new(0x2000_0000, 256 * KIB),
            arena: 192 * KIB,
            erase: 4 * KIB,
            write: 256,
        },
        programmer: Programmer::Uf2 {
            drive: "RPI-RP2",
            firmware: Family::Rp2040,
            data: Family::Rp2040,
            chip: "RP2040",
        },
    },
    Board {
        name: "stm32f4",
        package: "stm32f4",
        target: "thumbv7em-none-eabi",
        cpu: None,
        processor: "Adafruit Feather STM32F405 (STM32F405RG, Cortex-M4F, 168 MHz)",
        // 1 MiB: sectors of 16, 16, 16, 16, 64 and seven times 128 KiB (RM0090, table 5). The slots have three of the last
        // each, and one sector of them stays free for the firmware.
        memory: Memory {
            bootloader: None,
            firmware: Region::new(0x0800_0000, 256 * KIB),
            slots: Region::new(0x0804_0000, 768 * KIB),
            ram: Region::new(0x2000_0000, 128 * KIB),
            arena: 96 * KIB,
            erase: 128 * KIB,
            write: 4,
        },
        programmer: Programmer::Probe { chip: "STM32F405RG" },
    },
    Board {
        name: "stm32h7",
        package: "stm32h7",
        target: "thumbv7em-none-eabi",
        cpu: None,
        processor: "NUCLEO-H743ZI (STM32H743ZI, Cortex-M7, 400 MHz)",
        // 2 MiB in two banks, sectors of 128 KiB, flash words of 32 bytes with a check code (RM0433, 4.3). The slots are in
        // the second bank: writing it does not stop code in the first. The RAM is the AXI SRAM.
        memory: Memory {
            bootloader: None,
            firmware: Region::new(0x0800_0000, 1024 * KIB),
            slots: Region::new(0x0810_0000, 1024 * KIB),
            ram: Region::new(0x2400_0000, 512 * KIB),
            arena: 384 * KIB,
            erase: 128 * KIB,
            write: 32,
        },
        programmer: Programmer::Probe { chip: "STM32H743ZI" },
    },
    Board {
        name: "nrf52840",
        package: "nrf52840",
        target: "thumbv7em-none-eabi",
        cpu: None,
        processor: "nRF52840-DK (Cortex-M4F, 64 MHz)",
        // 1 MiB, pages of 4 KiB, words of 4 bytes (nRF52840 product specification, NVMC).
        memory: Memory {
            bootloader: None,
            firmware: Region::new(0, 256 * KIB),
            slots: Region::new(0x0004_0000, 768 * KIB),
            ram: Region::new(0x2000_0000, 256 * KIB),
            arena: 192 * KIB,
            erase: 4 * KIB,
            write: 4,
        },
        programmer: Programmer::Probe { chip: "nRF52840_xxAA" },
    },
    Board {
        name: "esp32c3",
        package: "esp32c3",
        target: "riscv32imc-unknown-none-elf",
        cpu: None,
        processor: "ESP32-C3 (RV32IMC, 160 MHz)",
        // Flash of 4 MiB behind a cache whose mapping the bootloader sets: these are offsets. The bootloader and the table
        // of partitions take the first 64 KiB.
        memory: Memory {
            bootloader: Some(Region::new(0, 64 * KIB)),
            firmware: Region::new(0x0001_0000, 1024 * KIB),
            slots: Region::new(0x0011_0000, 2944 * KIB),
            ram: Region::new(0x3FC8_0000, 320 * KIB),
            arena: 96 * KIB,
            erase: 4 * KIB,
            write: 4,
        },
        programmer: Programmer::Espflash { chip: "esp32c3" },
    },
];

/// The board with this name.
pub(crate) fn find(name: &str) -> Option<&'static Board> {
    boards().find(|board| board.name == name)
}

/// Every board, the emulated ones first.
pub(crate) fn boards() -> impl Iterator<Item = &'static Board> {
    EMULATED.iter().chain(&HARDWARE)
}

/// The other processor of hosts whose kernels are tested where its target and its emulator can be had.
pub(crate) const AARCH64: &str = "aarch64-unknown-linux-musl";
/// The emulator that runs its programs.
pub(crate) const USER_EMULATOR: &str = "qemu-aarch64";

/// The targets that mote-core must build for: the boards' and the browser's.
pub(crate) const CORE_TARGETS: [&str; 8] = [
    "thumbv7em-none-eabi",
    "thumbv6m-none-eabi",
    "thumbv7m-none-eabi",
    "thumbv8m.main-none-eabi",
    "thumbv8m.main-none-eabihf",
    "riscv32imac-unknown-none-elf",
    "riscv32imc-unknown-none-elf",
    "wasm32-unknown-unknown",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The regions of a linker's memory layout, by name.
    fn regions(memory_x: &str) -> Vec<(String, Region)> {
        let number = |text: &str| -> Option<u32> {
            let text = text.trim();
            let units = [("K", KIB), ("M", KIB * KIB), ("", 1)];
            let (digits, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
            let value = match digits.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => digits.parse().ok()?,
            };
            Some(value * unit)
        };
        let region = |line: &str| {
            let (name, rest) = line.split_once(':')?;
            let (start, len) = rest.split_once("ORIGIN =")?.1.split_once(", LENGTH =")?;
            Some((name.trim().to_owned(), Region { start: number(start)?, len: number(len)? }))
        };
        memory_x.lines().filter_map(region).collect()
    }

    #[test]
    fn slots_are_whole_erase_blocks_and_nothing_overlaps() {
        for board in boards() {
            let Memory { bootloader, firmware, slots, ram, arena, erase, write } = board.memory;
            assert!(slots.start.is_multiple_of(erase) && (slots.len / 2).is_multiple_of(erase), "{}", board.name);
            assert!(erase.is_multiple_of(write) && write.is_power_of_two(), "{}", board.name);
            assert!(firmware.end() <= u64::from(slots.start), "{}", board.name);
            assert!(bootloader.is_none_or(|region| region.end() <= u64::from(firmware.start)), "{}", board.name);
            assert!(arena < ram.len, "{}", board.name);
            assert_eq!(board.memory.slot(1).end(), slots.end(), "{}", board.name);
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = boards().map(|board| board.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), boards().count());
    }

    #[test]
    fn the_linker_is_told_what_the_table_says() {
        for board in boards() {
            let folder = crate::places::root().join("firmware").join(board.package);
            let file = match board.machine() {
                Some(machine) if machine.name.starts_with("mps2-an38") || machine.name == "mps2-an500" => {
                    "memory/mps2-an386.x".to_owned()
                }
                Some(machine) => format!("memory/{}.x", machine.name),
                None => "memory.x".to_owned(),
            };
            // A board whose package has no layout of its own (esp32c3: its partitions) or is not written yet.
            let Ok(text) = std::fs::read_to_string(folder.join(file)) else { continue };
            let found = regions(&text);
            let region = |name: &str| found.iter().find(|(found, _)| found == name).map(|(_, region)| *region);
            let Memory { firmware, slots, ram, .. } = board.memory;
            assert_eq!(
                [region("FLASH"), region("MODEL"), region("RAM")],
                [Some(firmware), Some(slots), Some(ram)],
                "{}",
                board.name
            );
        }
    }
}
