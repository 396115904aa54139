//! The packed data set file: offsets and meaning in `data/fashion14.md`.

use std::io::Read;

use super::{Dataset, DatasetError, SampleShape, Values};

const MAGIC: &[u8] = b"MOTEDATA";
const VERSION: u16 = 1;
/// More than any file of ours; a damaged header must not ask for more memory than this.
const MAX_CONTENT: u64 = 1 << 28;

/// Reads a packed data set.
pub fn parse_packed(file: &[u8]) -> Result<Dataset, DatasetError> {
    let mut rest = file;
    if take(&mut rest, MAGIC.len())? != MAGIC {
        return Err(DatasetError::Packed("it does not begin with MOTEDATA"));
    }
    if take_u16(&mut rest)? != VERSION {
        return Err(DatasetError::Packed("its version is not 1"));
    }
    let mut shape = [0; 3];
    for length in &mut shape {
        *length = usize::from(take_u16(&mut rest)?);
    }
    if take_u16(&mut rest)? != 4 {
        return Err(DatasetError::Packed("it does not have 4 bits a value"));
    }
    let classes = usize::from(take_u16(&mut rest)?);
    if !(1..=256).contains(&classes) || shape.contains(&0) {
        return Err(DatasetError::Packed("a side or the number of classes is out of range"));
    }
    let n = u32::from_le_bytes(take(&mut rest, 4)?.try_into().expect("4 bytes")) as usize;
    let mut class_names = Vec::with_capacity(classes);
    for _ in 0..classes {
        let length = usize::from(take(&mut rest, 1)?[0]);
        let name = std::str::from_utf8(take(&mut rest, length)?);
        class_names.push(name.map_err(|_| DatasetError::Packed("a class name is not UTF-8"))?.to_owned());
    }

    let values = shape.iter().fold(n as u64, |product, &length| product.saturating_mul(length as u64));
    let content_len = n as u64 + values.div_ceil(2);
    if content_len > MAX_CONTENT {
        return Err(DatasetError::Packed("its header asks for more than 256 MiB"));
    }
    let mut content = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(rest).take(content_len + 1);
    decoder.read_to_end(&mut content).map_err(|_| DatasetError::Packed("its compressed part cannot be decoded"))?;
    if content.len() as u64 != content_len {
        return Err(DatasetError::Packed("its compressed part has the wrong length"));
    }
    let nibbles = content.split_off(n);
    if content.iter().any(|&label| usize::from(label) >= classes) {
        return Err(DatasetError::Packed("a label is not below the number of classes"));
    }
    let mut images: Vec<u8> = nibbles.iter().flat_map(|pair| [17 * (pair >> 4), 17 * (pair & 15)]).collect();
    images.truncate(values as usize);
    let [height, width, channels] = shape;
    let labels = content.into_iter().map(u16::from).collect();
    Ok(Dataset::new(SampleShape { height, width, channels }, Values::Bytes(images), labels, class_names))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], DatasetError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(DatasetError::Packed("it ends early"))?;
    *rest = tail;
    Ok(head)
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, DatasetError> {
    let bytes = take(rest, 2)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::super::EMBEDDED_FILE;
    use super::*;

    #[test]
    fn a_truncated_file_is_refused_at_every_length() {
        let header = 24 + 10 + "T-shirttrouserpulloverdresscoatsandalshirtsneakerbagboot".len();
        for length in (0..header).chain([header + 1, EMBEDDED_FILE.len() / 2, EMBEDDED_FILE.len() - 5]) {
            assert!(parse_packed(&EMBEDDED_FILE[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_changed_header_byte_is_refused_or_harmless() {
        for at in 0..24 {
            for flip in [1, 0x80, 0xff] {
                let mut file = EMBEDDED_FILE.to_vec();
                file[at] ^= flip;
                if let Ok(set) = parse_packed(&file) {
                    let length = set.len() * set.shape.len();
                    assert!(matches!(set.values, Values::Bytes(bytes) if bytes.len() == length));
                }
            }
        }
    }
}
