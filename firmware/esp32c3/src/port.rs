//! The chip's own serial port on USB, asked for bytes; its queue of 64 holds the host up while none is taken.

use core::convert::Infallible;
use core::future::poll_fn;
use core::task::Poll;
use embedded_io_async::{ErrorType, Read, Write};
use esp_hal::Blocking;
use esp_hal::usb::usb_serial_jtag::{UsbSerialJtagRx, UsbSerialJtagTx};

/// What comes from the host.
pub struct Receive(pub(crate) UsbSerialJtagRx<'static, Blocking>);

/// What goes to the host.
pub struct Send(pub(crate) UsbSerialJtagTx<'static, Blocking>);

impl ErrorType for Receive {
    type Error = Infallible;
}

impl ErrorType for Send {
    type Error = Infallible;
}

impl Read for Receive {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        poll_fn(|_| match self.0.drain_rx_fifo(into) {
            0 => Poll::Pending,
            len => Poll::Ready(Ok(len)),
        })
        .await
    }
}

impl Write for Send {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        poll_fn(|_| match bytes.iter().take_while(|&&byte| self.0.write_byte_nb(byte).is_ok()).count() {
            0 if !bytes.is_empty() => Poll::Pending,
            len => Poll::Ready(Ok(len)),
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        // It is sent as soon as the host asks for it.
        let _ = self.0.flush_tx_nb();
        Ok(())
    }
}
