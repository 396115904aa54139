//! The self-test's result as a line of text, for a person at a terminal.

use mote_core::selftest;

/// Bytes of the line.
pub const SELFTEST_LINE: usize = 15;

/// Runs mote-core's self-test: `PASS` and the hash that every target gives, or `FAIL` and what was found instead (0 if the
/// failure has no such number), with an end of line. Takes 32 kB of stack.
pub fn selftest_line() -> [u8; SELFTEST_LINE] {
    match selftest::run() {
        Ok(hash) => line(*b"PASS", hash),
        Err(selftest::SelftestError::Normals { found } | selftest::SelftestError::Samples { found }) => {
            line(*b"FAIL", found)
        }
        Err(_) => line(*b"FAIL", 0),
    }
}

fn line(word: [u8; 4], value: u32) -> [u8; SELFTEST_LINE] {
    let mut text = *b"____ ________\r\n";
    let hexadecimal = (0..8).rev().map(|digit| b"0123456789abcdef"[(value >> (4 * digit) & 0xF) as usize]);
    let all = word.into_iter().chain([b' ']).chain(hexadecimal);
    text.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_the_hash() {
        assert_eq!(line(*b"FAIL", 0x0123_CDEF), *b"FAIL 0123cdef\r\n");
        let hash = selftest::run().unwrap();
        assert_eq!(selftest_line(), line(*b"PASS", hash));
    }
}
