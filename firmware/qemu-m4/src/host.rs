//! What the emulator's host does for a program: arguments, files, the exit status, by semihosting (Arm, *Semihosting for
//! AArch32 and AArch64*; RISC-V uses the same operations).

use core::arch::asm;
use core::ffi::CStr;

/// Operation numbers.
const OPEN: usize = 0x01;
const WRITE: usize = 0x05;
const SEEK: usize = 0x0A;
const GET_COMMAND_LINE: usize = 0x15;
const EXIT_EXTENDED: usize = 0x20;

/// Modes of [`OPEN`]: as in C, "r+b", "w" and "wb".
const MODE_CHANGE: usize = 3;
const MODE_TEXT: usize = 4;
const MODE_BINARY: usize = 5;

/// The reason that says: the second word of the block is the exit status.
const APPLICATION_EXIT: usize = 0x20026;

/// Asks the host for an operation; the meaning of `block` and of the answer is the operation's.
fn call(operation: usize, block: &mut [usize]) -> usize {
    let answer;
    // SAFETY: the operations used here read the block and what it points to, and GET_COMMAND_LINE writes the buffer that it
    // was given; the compiler takes all memory as read and written.
    #[cfg(target_arch = "arm")]
    unsafe {
        asm!("bkpt #0xAB", inout("r0") operation => answer, inout("r1") block.as_mut_ptr() => _);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv32")]
    unsafe {
        asm!(
            // The three instructions that mark a call, uncompressed and in one page.
            ".balign 16",
            ".option push",
            ".option norvc",
            "slli zero, zero, 0x1f",
            "ebreak",
            "srai zero, zero, 7",
            ".option pop",
            inout("a0") operation => answer,
            inout("a1") block.as_mut_ptr() => _,
        );
    }
    answer
}

/// A file of the host.
#[derive(Debug)]
pub struct File {
    handle: usize,
}

impl File {
    /// Creates a file, or empties it. `None` if the host cannot.
    pub fn create(path: &CStr) -> Option<File> {
        File::open(path, MODE_BINARY)
    }

    /// Opens a file to change parts of it. `None` if there is none.
    pub(crate) fn change(path: &CStr) -> Option<File> {
        File::open(path, MODE_CHANGE)
    }

    /// Writes all bytes from the file's byte `offset` on. `false` if the host cannot.
    #[must_use]
    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) -> bool {
        call(SEEK, &mut [self.handle, offset]) == 0 && self.write(bytes)
    }

    /// The host's standard output.
    pub(crate) fn standard_output() -> Option<File> {
        File::open(c":tt", MODE_TEXT)
    }

    fn open(path: &CStr, mode: usize) -> Option<File> {
        let handle = call(OPEN, &mut [path.as_ptr().addr(), mode, path.count_bytes()]);
        (handle != usize::MAX).then_some(File { handle })
    }

    /// Writes all bytes. `false` if the host cannot.
    #[must_use]
    pub fn write(&self, bytes: &[u8]) -> bool {
        call(WRITE, &mut [self.handle, bytes.as_ptr().expose_provenance(), bytes.len()]) == 0
    }
}

/// Longest command line, in bytes.
pub const COMMAND_LINE: usize = 256;

/// The words of the command line; the first is the program's own name. `None` if it is too long.
pub fn arguments(line: &mut [u8; COMMAND_LINE]) -> Option<impl Iterator<Item = &CStr>> {
    let mut block = [line.as_mut_ptr().expose_provenance(), COMMAND_LINE];
    if call(GET_COMMAND_LINE, &mut block) != 0 {
        return None;
    }
    // Each word ends with a zero, as the last one does.
    line.iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = 0);
    let words = line.get(..block[1] + 1)?.split_inclusive(|&byte| byte == 0);
    Some(words.filter_map(|word| CStr::from_bytes_with_nul(word).ok()))
}

/// Ends the program.
pub fn exit(status: usize) -> ! {
    loop {
        call(EXIT_EXTENDED, &mut [APPLICATION_EXIT, status]);
    }
}
