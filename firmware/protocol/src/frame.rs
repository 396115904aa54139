//! Frames: how a message becomes bytes on a wire that loses, changes, repeats and reorders them.
//!
//! ```text
//! wire:   00  COBS(frame)  00
//! frame:  version u8 | session u32 | sequence u16 | body | CRC-32 of all before u32      (little-endian)
//! body:   one message, encoded by postcard
//! ```
//!
//! COBS (Cheshire and Baker, *Consistent Overhead Byte Stuffing*, 1999, section 3) leaves no zero in a frame, so zeros
//! delimit frames: whatever noise precedes one, the next is received whole. A frame that is damaged is dropped in silence;
//! who waits for an answer asks again. Version, session and sequence keep their places in all versions.

use crate::DATA_LEN;
use mote_core::format::checksum;
use serde::{Deserialize, Serialize};

/// Version of the protocol. It rises with every change that an older side would misunderstand.
pub const VERSION: u8 = 1;

/// Most bytes of an encoded message: a part of a model and what says where it belongs.
pub const BODY_LEN: usize = DATA_LEN + 24;

/// Bytes of version, session and sequence.
const HEADER_LEN: usize = 7;
const CHECKSUM_LEN: usize = 4;

/// Most bytes of a frame.
const FRAME_LEN: usize = HEADER_LEN + BODY_LEN + CHECKSUM_LEN;

/// Most bytes of a frame after COBS, delimiters apart.
const STUFFED_LEN: usize = cobs::max_encoding_length(FRAME_LEN);

/// The byte between frames.
const DELIMITER: u8 = 0;

/// Which conversation and which command a frame belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the client at random, so that it does not take answers to an earlier client for its own.
    pub session: u32,
    /// Number of the command, one more each time, wrapping.
    pub sequence: u16,
}

/// A frame as it goes over the wire, delimiters included.
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: [u8; STUFFED_LEN + 2],
    len: usize,
}

impl Encoded {
    /// Nothing to send.
    pub const fn empty() -> Self {
        Encoded { bytes: [DELIMITER; STUFFED_LEN + 2], len: 0 }
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Makes a frame of a message; `None` if it has more than [`BODY_LEN`] bytes, which no message of this crate has whose data
/// and texts keep to [`DATA_LEN`] and [`TEXT_LEN`](crate::TEXT_LEN).
pub fn encode(header: Header, message: &impl Serialize) -> Option<Encoded> {
    let mut frame = [0; FRAME_LEN];
    let (head, rest) = frame.split_at_mut(HEADER_LEN);
    let ([s0, s1, s2, s3], [low, high]) = (header.session.to_le_bytes(), header.sequence.to_le_bytes());
    head.copy_from_slice(&[VERSION, s0, s1, s2, s3, low, high]);
    let body = postcard::to_slice(message, rest.get_mut(..BODY_LEN)?).ok()?.len();
    let content = HEADER_LEN + body;
    let sum = checksum(frame.get(..content)?).to_le_bytes();
    frame.get_mut(content..content + CHECKSUM_LEN)?.copy_from_slice(&sum);

    let mut encoded = Encoded::empty();
    let room = encoded.bytes.get_mut(1..=STUFFED_LEN)?;
    let stuffed = cobs::try_encode(frame.get(..content + CHECKSUM_LEN)?, room).ok()?;
    encoded.len = stuffed + 2;
    *encoded.bytes.get_mut(stuffed + 1)? = DELIMITER;
    Some(encoded)
}

/// Why the bytes between two delimiters are no frame of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Damaged: too long, too short, or of another checksum. There is nobody to answer.
    Damaged,
    /// Whole, but of another version; the header can be answered.
    Version {
        /// The frame's header.
        header: Header,
        /// The frame's version.
        found: u8,
    },
}

/// A whole frame of this version.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Session and sequence number.
    pub header: Header,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The message.
    ///
    /// # Errors
    /// If the body is no message of type `M`, or has bytes left over.
    pub fn message<M: Deserialize<'a>>(&self) -> Result<M, UnknownMessage> {
        match postcard::take_from_bytes(self.body) {
            Ok((message, [])) => Ok(message),
            _ => Err(UnknownMessage),
        }
    }
}

/// A frame's body is no message that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMessage;

/// Finds frames in a stream of bytes.
#[derive(Clone, Debug)]
pub struct Receiver {
    bytes: [u8; STUFFED_LEN],
    /// Bytes since the last delimiter, those that had no room included.
    len: usize,
    state: ReceiverState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReceiverState {
    /// Between two delimiters.
    Collecting,
    /// The second delimiter came; the bytes hold a frame of so many bytes, or of none if it is damaged.
    Complete(usize),
}

impl Receiver {
    /// Nothing received yet.
    pub const fn new() -> Self {
        Receiver { bytes: [0; STUFFED_LEN], len: 0, state: ReceiverState::Collecting }
    }

    /// Takes the next byte. Returns whether it completes a frame, whole or damaged: look at it with [`Receiver::frame`]
    /// before the next byte.
    pub fn push(&mut self, byte: u8) -> bool {
        if let ReceiverState::Complete(_) = self.state {
            self.state = ReceiverState::Collecting;
            self.len = 0;
        }
        if byte != DELIMITER {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
            }
            self.len = self.len.saturating_add(1);
            return false;
        }
        if self.len == 0 {
            return false;
        }
        let stuffed = self.bytes.get_mut(..self.len);
        self.state = ReceiverState::Complete(stuffed.map_or(0, |bytes| cobs::decode_in_place(bytes).unwrap_or(0)));
        true
    }

    /// The frame that was completed last.
    ///
    /// # Errors
    /// [`FrameError`] if it is damaged, there is none, or it is of another version.
    pub fn frame(&self) -> Result<Frame<'_>, FrameError> {
        let ReceiverState::Complete(len) = self.state else { return Err(FrameError::Damaged) };
        let frame = self.bytes.get(..len).unwrap_or_default();
        let Some((content, sum)) = frame.split_last_chunk::<CHECKSUM_LEN>() else { return Err(FrameError::Damaged) };
        if checksum(content) != u32::from_le_bytes(*sum) {
            return Err(FrameError::Damaged);
        }
        let Some((&[version, s0, s1, s2, s3, low, high], body)) = content.split_first_chunk() else {
            return Err(FrameError::Damaged);
        };
        let (session, sequence) = (u32::from_le_bytes([s0, s1, s2, s3]), u16::from_le_bytes([low, high]));
        let header = Header { session, sequence };
        if version == VERSION {
            Ok(Frame { header, body })
        } else {
            Err(FrameError::Version { header, found: version })
        }
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}
