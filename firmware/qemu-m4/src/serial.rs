//! The board's first serial port. It is asked for bytes, so its futures are for [`mote_device::block_on`].

use core::convert::Infallible;
use core::future::poll_fn;
use core::task::Poll;
use embedded_io_async::{ErrorType, Read, Write};

unsafe extern "C" {
    /// The port's registers; the memory layout defines it.
    static mut mote_serial: u8;
}

/// Arm's CMSDK APB UART (Arm DDI 0479, section 4.3). It holds one byte, so an interrupt puts what comes into a queue: a frame
/// arrives while a layer of the network is computed, and not a byte between two of them.
#[cfg(target_arch = "arm")]
mod uart {
    use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    type Register = u32;
    const DATA: usize = 0x00;
    const STATE: usize = 0x04;
    const CONTROL: usize = 0x08;
    const INTERRUPT: usize = 0x0C;
    const DIVIDER: usize = 0x10;

    /// In STATE: the transmitter takes no byte now; the receiver has one.
    const TRANSMITTER_FULL: Register = 1;
    const RECEIVER_FULL: Register = 2;
    /// In CONTROL: transmitter and receiver on, and an interrupt for what is received.
    const ON: Register = 0b1011;
    /// In INTERRUPT: that of the receiver; writing it takes it back.
    const RECEIVED: Register = 2;
    /// The smallest that the port accepts; the emulator sends at any speed.
    const SMALLEST_DIVIDER: Register = 16;

    /// The interrupt controller (Armv7-M Architecture Reference Manual, section B3.4): a bit an interrupt, to enable it and to
    /// have it happen.
    const ENABLE: *mut u32 = core::ptr::without_provenance_mut(0xE000_E100);
    const PEND: *mut u32 = core::ptr::without_provenance_mut(0xE000_E200);

    /// Bytes that came, at most; a power of two. The port holds the next one, and the host waits with the rest.
    const ROOM: usize = 512;

    /// Bytes from one writer, the interrupt, to one reader.
    struct Queue {
        bytes: [AtomicU8; ROOM],
        /// How many came and how many were taken, wrapping.
        came: AtomicUsize,
        taken: AtomicUsize,
    }

    static QUEUE: Queue =
        Queue { bytes: [const { AtomicU8::new(0) }; ROOM], came: AtomicUsize::new(0), taken: AtomicUsize::new(0) };

    unsafe extern "C" {
        /// Its address is the number of the receiver's interrupt; the memory layout defines it.
        static mote_serial_interrupt: u8;
    }

    fn register(offset: usize) -> *mut Register {
        (&raw mut super::mote_serial).wrapping_add(offset).cast()
    }

    /// Sets the receiver's bit in a bank of the interrupt controller.
    fn set(bank: *mut u32) {
        let number = (&raw const mote_serial_interrupt).addr();
        // SAFETY: the banks have a register for every 32 interrupts; ones alone have an effect.
        unsafe { bank.wrapping_add(number / 32).write_volatile(1 << (number % 32)) }
    }

    fn is_set(state: Register) -> bool {
        // SAFETY: the board's port has its registers here, and only this module uses them.
        unsafe { register(STATE).read_volatile() & state != 0 }
    }

    pub(super) fn start() {
        // SAFETY: as in `is_set`.
        unsafe {
            register(DIVIDER).write_volatile(SMALLEST_DIVIDER);
            register(CONTROL).write_volatile(ON);
        }
        set(ENABLE);
    }

    /// To be called by the interrupt: takes what has come, as far as there is room.
    pub fn interrupted() {
        // SAFETY: as in `is_set`.
        unsafe { register(INTERRUPT).write_volatile(RECEIVED) };
        let mut came = QUEUE.came.load(Ordering::Relaxed);
        while came.wrapping_sub(QUEUE.taken.load(Ordering::Acquire)) < ROOM && is_set(RECEIVER_FULL) {
            // SAFETY: as in `is_set`.
            let byte = unsafe { register(DATA).read_volatile() } as u8;
            QUEUE.bytes[came % ROOM].store(byte, Ordering::Relaxed);
            came = came.wrapping_add(1);
            QUEUE.came.store(came, Ordering::Release);
        }
    }

    pub(super) fn receive() -> Option<u8> {
        let taken = QUEUE.taken.load(Ordering::Relaxed);
        if taken == QUEUE.came.load(Ordering::Acquire) {
            // What found no room is fetched now that there is some.
            if is_set(RECEIVER_FULL) {
                set(PEND);
            }
            return None;
        }
        let byte = QUEUE.bytes[taken % ROOM].load(Ordering::Relaxed);
        QUEUE.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some(byte)
    }

    pub(super) fn send(byte: u8) -> bool {
        let is_full = is_set(TRANSMITTER_FULL);
        if !is_full {
            // SAFETY: as in `is_set`.
            unsafe { register(DATA).write_volatile(byte.into()) };
        }
        !is_full
    }
}

/// The 16550 (National Semiconductor PC16550D data sheet, section 8), which queues 16 bytes itself.
#[cfg(target_arch = "riscv32")]
mod uart {
    const DATA: usize = 0;
    const FIFO_CONTROL: usize = 2;
    const LINE_STATUS: usize = 5;

    /// In FIFO_CONTROL: FIFOs on and emptied.
    const FIFO_ON: u8 = 0x07;
    /// In LINE_STATUS: the receiver has a byte; the transmitter takes one.
    const RECEIVED: u8 = 0x01;
    const CAN_SEND: u8 = 0x20;

    fn register(offset: usize) -> *mut u8 {
        (&raw mut super::mote_serial).wrapping_add(offset)
    }

    pub(super) fn start() {
        // SAFETY: the board's port has its registers here, and only this module uses them.
        unsafe { register(FIFO_CONTROL).write_volatile(FIFO_ON) }
    }

    pub(super) fn receive() -> Option<u8> {
        // SAFETY: as in `start`.
        unsafe {
            let is_there = register(LINE_STATUS).read_volatile() & RECEIVED != 0;
            is_there.then(|| register(DATA).read_volatile())
        }
    }

    pub(super) fn send(byte: u8) -> bool {
        // SAFETY: as in `start`.
        unsafe {
            let can_send = register(LINE_STATUS).read_volatile() & CAN_SEND != 0;
            if can_send {
                register(DATA).write_volatile(byte);
            }
            can_send
        }
    }
}

#[cfg(target_arch = "arm")]
pub use uart::interrupted;

/// Switches the port on. On Arm, a program's interrupts are the port's: they call `interrupted`.
pub fn start() -> (Receiver, Sender) {
    uart::start();
    (Receiver(()), Sender(()))
}

/// What comes in.
#[derive(Debug)]
pub struct Receiver(());

/// What goes out.
#[derive(Debug)]
pub struct Sender(());

impl ErrorType for Receiver {
    type Error = Infallible;
}

impl ErrorType for Sender {
    type Error = Infallible;
}

impl Read for Receiver {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        some(|| {
            let mut len = 0;
            for (place, byte) in bytes.iter_mut().zip(core::iter::from_fn(uart::receive)) {
                *place = byte;
                len += 1;
            }
            len
        })
        .await
    }
}

impl Write for Sender {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        some(|| bytes.iter().take_while(|&&byte| uart::send(byte)).count()).await
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Asks until the answer is not zero.
async fn some(mut ask: impl FnMut() -> usize) -> Result<usize, Infallible> {
    poll_fn(|_| match ask() {
        0 => Poll::Pending,
        count => Poll::Ready(Ok(count)),
    })
    .await
}
