//! How much stack a program uses: memory below the stack is painted first; what is overwritten later was used.

const PAINT: u32 = 0x5AFE_57AC;

/// Words painted: more than any program here needs, in memory that only the stack uses.
const PAINTED: usize = 16 * 1024;

/// Bytes between a function's own frame and what it paints.
const MARGIN: usize = 128;

unsafe extern "C" {
    /// The stack begins here and grows down.
    static _stack_start: u8;
}

/// The lowest painted word.
pub struct Stack(*mut u32);

impl Stack {
    /// Paints the memory below the stack.
    #[inline(never)]
    pub fn paint() -> Stack {
        let frame = 0u32;
        let end = ((&raw const frame).addr() - MARGIN) & !3;
        let start = core::ptr::with_exposed_provenance_mut::<u32>(end - 4 * PAINTED);
        for index in 0..PAINTED {
            // SAFETY: the boards have megabytes of RAM below the stack that nothing else uses, and no interrupt is on.
            unsafe { start.add(index).write_volatile(PAINT) }
        }
        Stack(start)
    }

    /// Bytes from the stack's beginning to the lowest word that was ever overwritten.
    pub fn used(&self) -> usize {
        // SAFETY: as in `paint`; what was painted is initialized.
        let intact = (0..PAINTED).take_while(|&index| unsafe { self.0.add(index).read_volatile() } == PAINT).count();
        (&raw const _stack_start).addr() - self.0.addr() - 4 * intact
    }
}
