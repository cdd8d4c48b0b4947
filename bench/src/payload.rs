//! What stands in each message: JSON, so that rules of any platform can read it, with numbers of fixed width, so that
//! they are patched and read in place. It says who sent it, which one it is, and when it should have been sent.

/// Added to the number of a publisher, so that it always has six digits.
pub(crate) const PUBLISHER_BASE: u64 = 100_000;
/// Added to the number of a message, so that it always has ten digits.
pub(crate) const MESSAGE_BASE: u64 = 1_000_000_000;

const SHAPE: &str = r#"{"p":100000,"n":1000000000,"t":1000000000000000,"v":"""#;
const PUBLISHER: std::ops::Range<usize> = 5..11;
const MESSAGE: std::ops::Range<usize> = 16..26;
const TIME: std::ops::Range<usize> = 31..47;

/// Smallest payload, in bytes.
pub(crate) const BYTES_MIN: usize = SHAPE.len() + 1;

/// What a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) publisher: u32,
    pub(crate) message: u64,
    /// Microseconds since 1970.
    pub(crate) intended_us: u64,
}

/// A payload of a publisher, filled up to a size.
pub(crate) fn new(publisher: u32, bytes: usize) -> Vec<u8> {
    let mut payload = SHAPE.as_bytes().to_vec();
    payload.pop();
    payload.resize(bytes.max(BYTES_MIN) - 2, b'x');
    payload.extend_from_slice(b"\"}");
    write(&mut payload[PUBLISHER], PUBLISHER_BASE + u64::from(publisher));
    payload
}

/// Makes it the next message.
pub(crate) fn patch(payload: &mut [u8], message: u64, intended_us: u64) {
    write(&mut payload[MESSAGE], MESSAGE_BASE + message);
    write(&mut payload[TIME], intended_us);
}

/// What it says; none when it is not one of ours.
pub(crate) fn read(payload: &[u8]) -> Option<Stamp> {
    let publisher = number(payload.get(PUBLISHER)?)?.checked_sub(PUBLISHER_BASE)?;
    let message = number(payload.get(MESSAGE)?)?.checked_sub(MESSAGE_BASE)?;
    let intended_us = number(payload.get(TIME)?)?;
    Some(Stamp { publisher: u32::try_from(publisher).ok()?, message, intended_us })
}

fn write(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

fn number(field: &[u8]) -> Option<u64> {
    field
        .iter()
        .try_fold(0_u64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_is_json() {
        for bytes in [0, BYTES_MIN, 64, 256, 4096] {
            let mut payload = new(9_999, bytes);
            patch(&mut payload, 1_234_567, 1_795_000_000_123_456);
            assert_eq!(payload.len(), bytes.max(BYTES_MIN));
            let stamp = Stamp { publisher: 9_999, message: 1_234_567, intended_us: 1_795_000_000_123_456 };
            assert_eq!(read(&payload), Some(stamp));
            let json: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
            assert_eq!(json["p"], 109_999);
            assert_eq!(json["n"], 1_001_234_567);
            assert_eq!(json["t"], 1_795_000_000_123_456_u64);
        }
    }

    #[test]
    fn strangers_are_not_read() {
        assert_eq!(read(b"hello"), None);
        assert_eq!(read(&[b'x'; 100]), None);
    }
}
