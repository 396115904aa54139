//! Serial ports.

use std::io;
use std::time::Duration;

/// How long a read waits.
const WAIT: Duration = Duration::from_millis(20);

/// The speed of boards whose transport has one, unless they say otherwise.
pub const BAUD: u32 = 115_200;

/// Opens a serial port: 8 data bits, no parity, 1 stop bit, no flow control. USB ports ignore the speed.
///
/// # Errors
/// If there is no such port, or it cannot be used.
pub fn open(path: &str, baud: u32) -> io::Result<Box<dyn serialport::SerialPort>> {
    Ok(serialport::new(path, baud).timeout(WAIT).open()?)
}
