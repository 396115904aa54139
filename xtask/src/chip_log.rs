//! Reading defmt's log frames.
//!
//! The chip sends the index of a format string and the raw arguments; the strings are names of symbols in the firmware's
//! ELF file. This reads what our firmware sends: integers, strings, and nested values that were formatted on the chip.
//! The complete decoder is the crate `defmt-decoder`; its seventy dependencies take minutes to compile, which is why it
//! is not used here. The encoding is defmt's wire format 4 with rzCOBS framing.

use serde_json::Value;
use std::collections::HashMap;

/// The format strings of a firmware, by index.
#[derive(Debug, Default)]
pub(crate) struct Formats(HashMap<u16, Format>);

#[derive(Debug)]
struct Format {
    level: String,
    text: String,
}

impl Formats {
    /// Collects the format strings from the symbols of a firmware: (name, value) pairs.
    pub(crate) fn new<'a>(symbols: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let format = |(name, value): (&str, u64)| {
            let json: Value = serde_json::from_str(name).ok()?;
            let level = json["tag"].as_str()?.trim_start_matches("defmt_").to_owned();
            Some((u16::try_from(value).ok()?, Format { level, text: json["data"].as_str()?.to_owned() }))
        };
        Formats(symbols.filter(|(name, _)| name.starts_with('{')).filter_map(format).collect())
    }

    /// Decodes a whole log: one line a frame, `level: message`.
    pub(crate) fn decode(&self, log: &[u8]) -> Vec<String> {
        let frames = log.split(|&byte| byte == 0).filter(|frame| !frame.is_empty());
        frames
            .map(|frame| self.line(frame).unwrap_or_else(|| format!("error: unreadable log frame {frame:02x?}")))
            .collect()
    }

    fn line(&self, frame: &[u8]) -> Option<String> {
        let bytes = unstuff(frame)?;
        let mut rest = bytes.as_slice();
        let format = self.0.get(&u16::from_le_bytes(take(&mut rest)?))?;
        Some(format!("{}: {}", format.level, self.message(&format.text, "", &mut rest)?))
    }

    /// Fills the placeholders of a format string from the front of `rest`. What a placeholder does not say about how to
    /// show its argument, `outer` does.
    fn message(&self, format: &str, outer: &str, rest: &mut &[u8]) -> Option<String> {
        let mut text = String::new();
        let mut pieces = format.split('{');
        text += pieces.next()?;
        for piece in pieces {
            let (placeholder, literal) = piece.split_once('}')?;
            text += &self.argument(placeholder, outer, rest)?;
            text += literal;
        }
        Some(text)
    }

    fn argument(&self, placeholder: &str, outer: &str, rest: &mut &[u8]) -> Option<String> {
        let (kind, hint) = placeholder.split_once(':').unwrap_or((placeholder, outer));
        let number = match kind {
            "=u8" => u8::from_le_bytes(take(rest)?).into(),
            "=u16" => u16::from_le_bytes(take(rest)?).into(),
            "=u32" | "=usize" => u32::from_le_bytes(take(rest)?).into(),
            "=u64" => u64::from_le_bytes(take(rest)?),
            "=i32" => return Some(i32::from_le_bytes(take(rest)?).to_string()),
            "=str" => {
                let len = u32::from_le_bytes(take(rest)?) as usize;
                return text(rest.split_off(..len)?);
            }
            "=__internal_Display" | "=__internal_Debug" => {
                let len = rest.iter().position(|&byte| byte == 0xFF)?;
                let message = text(rest.split_off(..len)?);
                rest.split_off_first()?;
                return message;
            }
            "" | "=?" => {
                let format = self.0.get(&u16::from_le_bytes(take(rest)?))?;
                return self.message(&format.text, hint, rest);
            }
            _ => return None,
        };
        Some(if hint == "08x" { format!("{number:08x}") } else { number.to_string() })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Undoes rzCOBS: read from the end, each code byte says which of the bytes before it were zero.
fn unstuff(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut input = frame.iter().rev().copied();
    while let Some(code) = input.next() {
        match code {
            0 => return None,
            0x01..=0x7F => {
                for bit in (0..7).rev() {
                    bytes.push(if code >> bit & 1 == 1 { 0 } else { input.next()? });
                }
            }
            0x80..=0xFE => {
                bytes.push(0);
                for _ in 0..(code & 0x7F) + 7 {
                    bytes.push(input.next()?);
                }
            }
            0xFF => {
                for _ in 0..134 {
                    bytes.push(input.next()?);
                }
            }
        }
    }
    bytes.reverse();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as the emulator printed it, from a `selftest` that passed.
    #[test]
    fn a_captured_frame_is_read() {
        let symbols = [(r#"{"tag":"defmt_info","data":"PASS philox4x32-10"}"#, 2)];
        let formats = Formats::new(symbols.into_iter());
        assert_eq!(formats.decode(&[0x00, 0x02, 0x7E, 0x00]), ["info: PASS philox4x32-10"]);
    }

    /// A frame as the emulator printed it, from a `generate` without arguments.
    #[test]
    fn a_nested_message_formatted_on_the_chip_is_read() {
        let frame = b"\x00\x04\x0cc:ommand line\x01\x85no output file: give OUT SEED FIRST COUNT CLASS\xff\xa9\x00";
        let symbols = [
            (r#"{"tag":"defmt_error","data":"{=str}: {}"}"#, 4),
            (r#"{"tag":"defmt_derived","data":"{=__internal_Display}"}"#, 1),
        ];
        let lines = Formats::new(symbols.into_iter()).decode(frame);
        assert_eq!(lines, ["error: command line: no output file: give OUT SEED FIRST COUNT CLASS"]);
    }

    #[test]
    fn a_nested_number_is_shown_as_the_outer_placeholder_says() {
        let formats = Formats::new([(r#"{"tag":"defmt_prim","data":"{=u32}"}"#, 7)].into_iter());
        let arguments = [7, 0, 0x3A, 1, 0, 0];
        assert_eq!(formats.message("{:08x}", "", &mut &arguments[..]).as_deref(), Some("0000013a"));
    }

    #[test]
    fn an_unreadable_frame_is_reported_and_the_next_one_read() {
        let symbols = [(r#"{"tag":"defmt_info","data":"on"}"#, 2)];
        let lines = Formats::new(symbols.into_iter()).decode(&[0x01, 0x00, 0x02, 0x7E, 0x00]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "info: on");
    }
}
