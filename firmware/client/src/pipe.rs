//! Reading with a time limit from what has none.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long a read waits.
const WAIT: Duration = Duration::from_millis(20);

/// A transport of two ends, such as the standard streams of an emulator: a thread reads, so that reading has a time limit.
#[derive(Debug)]
pub struct Pipe<W> {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// What came and was not read yet.
    rest: Vec<u8>,
    writer: W,
}

impl<W: Write> Pipe<W> {
    /// The thread ends with the reader, or when the pipe is dropped and another byte comes.
    pub fn new(mut reader: impl Read + Send + 'static, writer: W) -> Self {
        let (sender, chunks) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let chunk = reader.read(&mut bytes).map(|len| bytes[..len].to_vec());
                let last = chunk.as_ref().map_or(true, Vec::is_empty);
                if sender.send(chunk).is_err() || last {
                    return;
                }
            }
        });
        Pipe { chunks, rest: Vec::new(), writer }
    }
}

impl<W> Read for Pipe<W> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = match self.chunks.recv_timeout(WAIT) {
                Ok(chunk) => chunk?,
                Err(RecvTimeoutError::Timeout) => return Err(ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => Vec::new(),
            };
        }
        let len = bytes.len().min(self.rest.len());
        bytes[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_reader_times_out_and_an_ended_one_ends() {
        let (reader, mut other_end) = io::pipe().unwrap();
        let mut pipe = Pipe::new(reader, Vec::new());
        let mut bytes = [0; 2];
        assert_eq!(pipe.read(&mut bytes).unwrap_err().kind(), ErrorKind::TimedOut);
        other_end.write_all(b"abc").unwrap();
        drop(other_end);
        let mut all = Vec::new();
        while all.len() < 3 {
            match pipe.read(&mut bytes) {
                Ok(len) => all.extend(&bytes[..len]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
            }
        }
        assert_eq!((all.as_slice(), pipe.read(&mut bytes).unwrap()), (&b"abc"[..], 0));
    }
}
