//! The board's first serial port. Nothing interrupts: it is asked for bytes, so its futures are for [`mote_device::block_on`].

use core::convert::Infallible;
use core::future::poll_fn;
use core::task::Poll;
use embedded_io_async::{ErrorType, Read, Write};

unsafe extern "C" {
    /// The port's registers; the memory layout defines it.
    static mut mote_serial: u8;
}

/// Arm's CMSDK APB UART (Arm DDI 0479, section 4.3).
#[cfg(target_arch = "arm")]
mod uart {
    type Register = u32;
    const DATA: usize = 0x00;
    const STATE: usize = 0x04;
    const CONTROL: usize = 0x08;
    const DIVIDER: usize = 0x10;

    /// In STATE: the transmitter takes no byte now; the receiver has one.
    const TRANSMITTER_FULL: Register = 1;
    const RECEIVER_FULL: Register = 2;
    /// In CONTROL: transmitter and receiver on.
    const ON: Register = 3;
    /// The smallest that the port accepts; the emulator sends at any speed.
    const SMALLEST_DIVIDER: Register = 16;

    fn register(offset: usize) -> *mut Register {
        (&raw mut super::mote_serial).wrapping_add(offset).cast()
    }

    pub(super) fn start() {
        // SAFETY: the board's port has its registers here, and only this module uses them.
        unsafe {
            register(DIVIDER).write_volatile(SMALLEST_DIVIDER);
            register(CONTROL).write_volatile(ON);
        }
    }

    pub(super) fn receive() -> Option<u8> {
        // SAFETY: as in `start`.
        unsafe {
            let is_full = register(STATE).read_volatile() & RECEIVER_FULL != 0;
            is_full.then(|| register(DATA).read_volatile() as u8)
        }
    }

    pub(super) fn send(byte: u8) -> bool {
        // SAFETY: as in `start`.
        unsafe {
            let is_full = register(STATE).read_volatile() & TRANSMITTER_FULL != 0;
            if !is_full {
                register(DATA).write_volatile(byte.into());
            }
            !is_full
        }
    }
}

/// The 16550 (National Semiconductor PC16550D data sheet, section 8).
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

/// Switches the port on.
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
