//! Reads the primitive types of MQTT out of a packet. No read can pass the packet's end.

use bytes::{Buf as _, Bytes};

use super::DecodeError;

/// The rest of a packet.
pub(super) struct Reader {
    rest: Bytes,
}

const SHORT: DecodeError = DecodeError::Malformed("the packet ends early");

impl Reader {
    pub(super) fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(super) fn into_rest(self) -> Bytes {
        self.rest
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| SHORT)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_| SHORT)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_| SHORT)
    }

    /// A packet identifier, which is never 0.
    pub(super) fn pkid(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::Protocol("packet identifier 0")),
            pkid => Ok(pkid),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a number of more than four bytes"))
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        if count > self.rest.len() {
            return Err(SHORT);
        }
        Ok(self.rest.split_to(count))
    }

    /// Bytes with their length before them.
    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let count = self.u16()?;
        self.take(usize::from(count))
    }

    /// Text with its length before it: UTF-8 without U+0000 (MQTT 5.0, 1.5.4).
    pub(super) fn string(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| DecodeError::Malformed("text that is not UTF-8"))?;
        if text.contains('\0') {
            return Err(DecodeError::Malformed("text with U+0000"));
        }
        Ok(text.to_owned())
    }
}
