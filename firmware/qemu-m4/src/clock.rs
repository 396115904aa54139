//! A clock: SysTick, or the timer of RISC-V.
//!
//! The emulator's time is the host's, or, with `-icount shift=0`, a nanosecond an instruction.

/// Ticks in a second.
pub const HZ: u32 = board::HZ;

/// A clock that wraps after 32 bits.
#[derive(Debug)]
pub struct Clock(board::Timer);

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        Clock(board::Timer::start())
    }

    /// The time; to be asked before 2^24 ticks have passed since it was asked last, or the clock falls behind.
    pub fn ticks(&mut self) -> u32 {
        self.0.ticks()
    }
}

#[cfg(target_arch = "arm")]
mod board {
    /// SysTick's registers (Armv7-M Architecture Reference Manual, section B3.3).
    const CONTROL: *mut u32 = core::ptr::without_provenance_mut(0xE000_E010);
    const RELOAD: *mut u32 = core::ptr::without_provenance_mut(0xE000_E014);
    const CURRENT: *mut u32 = core::ptr::without_provenance_mut(0xE000_E018);

    /// In CONTROL: on, without an interrupt, at the processor's frequency.
    const ON: u32 = 5;
    /// It counts down 24 bits.
    const MASK: u32 = 0xFF_FFFF;

    /// The processor's frequency, which the build script knows.
    pub(super) const HZ: u32 = 1_000_000 * super::parse(env!("MOTE_CLOCK_MHZ"));

    #[derive(Debug)]
    pub(super) struct Timer {
        last: u32,
        ticks: u32,
    }

    impl Timer {
        pub(super) fn start() -> Self {
            // SAFETY: SysTick has its registers here on every Cortex-M, and only this module uses them.
            unsafe {
                RELOAD.write_volatile(MASK);
                CURRENT.write_volatile(0);
                CONTROL.write_volatile(ON);
            }
            Timer { last: MASK, ticks: 0 }
        }

        pub(super) fn ticks(&mut self) -> u32 {
            // SAFETY: as in `start`.
            let now = unsafe { CURRENT.read_volatile() };
            self.ticks = self.ticks.wrapping_add(self.last.wrapping_sub(now) & MASK);
            self.last = now;
            self.ticks
        }
    }
}

#[cfg(target_arch = "riscv32")]
mod board {
    pub(super) const HZ: u32 = 1_000_000 * super::parse(env!("MOTE_CLOCK_MHZ"));

    #[derive(Debug)]
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn start() -> Self {
            Timer
        }

        pub(super) fn ticks(&mut self) -> u32 {
            let time;
            // SAFETY: reads the lower half of the timer (RISC-V Unprivileged ISA, Zicntr).
            unsafe { core::arch::asm!("rdtime {}", out(reg) time, options(nomem, nostack)) }
            time
        }
    }
}

/// A decimal number.
const fn parse(text: &str) -> u32 {
    let (mut value, mut rest) = (0, text.as_bytes());
    while let [digit, more @ ..] = rest {
        value = 10 * value + (*digit - b'0') as u32;
        rest = more;
    }
    value
}
