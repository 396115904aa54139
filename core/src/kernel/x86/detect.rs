//! What the processor has.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU8, Ordering};

/// What kernels need of the processor, the better the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// Nothing: the definition.
    Definition,
    /// AVX2.
    Avx2,
    /// AVX2 and AVX-VNNI.
    AvxVnni,
    /// AVX2 and AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
}

/// A bit for each [`Level`] that can run, by its number; 0 as long as nobody has asked.
static CAN_RUN: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// Every level, the best first.
    pub const ALL: [Level; 4] = [Level::Avx512Vnni, Level::AvxVnni, Level::Avx2, Level::Definition];

    /// Whether the processor has it and the operating system has switched its registers on.
    #[inline]
    pub fn can_run(self) -> bool {
        let mut levels = CAN_RUN.load(Ordering::Relaxed);
        if levels == 0 {
            levels = ask();
            CAN_RUN.store(levels, Ordering::Relaxed);
        }
        levels >> self as u8 & 1 != 0
    }

    /// The best level that can run and is no better than number `highest`.
    #[inline]
    pub(super) fn best(highest: u8) -> Level {
        let runs = |level: &Level| *level as u8 <= highest && level.can_run();
        Level::ALL.into_iter().find(runs).unwrap_or(Level::Definition)
    }
}

/// See Intel's *Software Developer's Manual*, volume 1, sections 14.3 and 15.2, for the bits.
#[cold]
fn ask() -> u8 {
    let has = |register: u32, bits: &[u32]| bits.iter().all(|bit| register >> bit & 1 != 0);
    let mut levels = 1 << Level::Definition as u8;
    // XSAVE switched on by the operating system, and AVX.
    if __cpuid(0).eax < 7 || !has(__cpuid(1).ecx, &[27, 28]) {
        return levels;
    }
    // SAFETY: a processor whose XSAVE is switched on has XGETBV.
    let saved = unsafe { saved_registers() };
    let features = __cpuid_count(7, 0);
    // The registers of SSE and AVX; AVX2.
    if !has(saved, &[1, 2]) || !has(features.ebx, &[5]) {
        return levels;
    }
    levels |= 1 << Level::Avx2 as u8;
    if features.eax >= 1 && has(__cpuid_count(7, 1).eax, &[4]) {
        levels |= 1 << Level::AvxVnni as u8;
    }
    // The registers of AVX-512; F, BW, VL; VNNI.
    if has(saved, &[5, 6, 7]) && has(features.ebx, &[16, 30, 31]) && has(features.ecx, &[11]) {
        levels |= 1 << Level::Avx512Vnni as u8;
    }
    levels
}

/// The sets of registers that the operating system saves.
#[target_feature(enable = "xsave")]
fn saved_registers() -> u32 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) as u32 }
}
