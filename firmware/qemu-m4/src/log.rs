//! defmt's frames, to the host's standard output.

use crate::host::File;
use core::cell::UnsafeCell;
use defmt::Encoder;

#[defmt::global_logger]
struct Logger;

struct Channel {
    encoder: Encoder,
    output: Option<File>,
}

struct Shared(UnsafeCell<Channel>);

// SAFETY: one core, and no interrupt is on: nothing else runs while the logger does.
unsafe impl Sync for Shared {}

static CHANNEL: Shared = Shared(UnsafeCell::new(Channel { encoder: Encoder::new(), output: None }));

/// Hands the encoder over, and what it writes its bytes with.
fn with_channel(work: impl FnOnce(&mut Encoder, &dyn Fn(&[u8]))) {
    // SAFETY: see `Shared`; the reference lives as long as this call, and the encoder does not log.
    let Channel { encoder, output } = unsafe { &mut *CHANNEL.0.get() };
    let output = &*output.get_or_insert_with(|| File::standard_output().unwrap_or_else(|| crate::host::exit(1)));
    work(encoder, &|bytes| {
        // What the host does not take is lost: there is nobody to tell.
        let _ = output.write(bytes);
    });
}

// SAFETY: defmt calls acquire, then write any number of times, then release; nothing interrupts.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        with_channel(|encoder, write| encoder.start_frame(write));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        with_channel(|encoder, write| encoder.end_frame(write));
    }

    unsafe fn write(bytes: &[u8]) {
        with_channel(|encoder, write| encoder.write(bytes, write));
    }
}
