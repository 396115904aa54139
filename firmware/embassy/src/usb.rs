//! A serial port on USB (CDC-ACM) that outlives its host: what is read or written while none is there waits for the next.

use core::convert::Infallible;
use embassy_usb::class::cdc_acm::{BufferedReceiver, CdcAcmClass, Sender, State};
use embassy_usb::driver::Driver;
use embassy_usb::{Builder, Config, UsbDevice};
use embedded_io_async::{ErrorType, Read, Write};
use static_cell::StaticCell;

/// Identifiers for tests, from a block that pid.codes keeps free: a product needs its own.
const VENDOR: u16 = 0x1209;
const PRODUCT: u16 = 0x0001;

/// Largest packet of a full-speed bulk endpoint (USB 2.0, 5.8.3).
const PACKET: usize = 64;

/// What the descriptors and the port's state lie in.
struct Buffers {
    config_descriptor: [u8; 128],
    bos_descriptor: [u8; 16],
    control: [u8; PACKET],
    packet: [u8; PACKET],
    state: State<'static>,
}

/// The device, which must be run, and the two directions of its port. To be called once.
pub(crate) fn serial<D: Driver<'static>>(
    driver: D,
    name: &'static str,
) -> (UsbDevice<'static, D>, Receive<D>, Send<D>) {
    static BUFFERS: StaticCell<Buffers> = StaticCell::new();
    let Buffers { config_descriptor, bos_descriptor, control, packet, state } = BUFFERS.init(Buffers {
        config_descriptor: [0; 128],
        bos_descriptor: [0; 16],
        control: [0; PACKET],
        packet: [0; PACKET],
        state: State::new(),
    });
    let mut config = Config::new(VENDOR, PRODUCT);
    config.manufacturer = Some("Mote");
    config.product = Some(name);
    let mut builder = Builder::new(driver, config, config_descriptor, bos_descriptor, &mut [], control);
    let (send, receive) = CdcAcmClass::new(&mut builder, state, PACKET as u16).split();
    (builder.build(), Receive(receive.into_buffered(packet)), Send { sender: send, ends_with_whole_packet: false })
}

/// What comes from the host.
pub(crate) struct Receive<D: Driver<'static>>(BufferedReceiver<'static, D>);

impl<D: Driver<'static>> ErrorType for Receive<D> {
    type Error = Infallible;
}

impl<D: Driver<'static>> Read for Receive<D> {
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        loop {
            match self.0.read(into).await {
                // A packet without bytes is not the end.
                Ok(0) => {}
                Ok(len) => return Ok(len),
                Err(_) => self.0.wait_connection().await,
            }
        }
    }
}

/// What goes to the host.
pub(crate) struct Send<D: Driver<'static>> {
    sender: Sender<'static, D>,
    /// The host waits for more after a packet of full length.
    ends_with_whole_packet: bool,
}

impl<D: Driver<'static>> ErrorType for Send<D> {
    type Error = Infallible;
}

impl<D: Driver<'static>> Write for Send<D> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let packet = bytes.get(..PACKET).unwrap_or(bytes);
        while self.sender.write_packet(packet).await.is_err() {
            self.sender.wait_connection().await;
        }
        self.ends_with_whole_packet = packet.len() == PACKET;
        Ok(packet.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        if core::mem::take(&mut self.ends_with_whole_packet) {
            // If no host is there, none waits.
            let _ = self.sender.write_packet(&[]).await;
        }
        Ok(())
    }
}
