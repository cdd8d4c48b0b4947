//! ClickHouse's own framing of compressed data (`decompress=1`): a checksum, a method, two sizes, and LZ4. It must
//! never know what is compressed.
//!
//! The crate `clickhouse` has the same inside and keeps it to itself.

/// Bytes before compression in one frame: enough to compress well, little enough to hold twice.
const FRAME_BYTES: usize = 1 << 20;
/// Checksum, method, size of method, sizes and data, size before compression.
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const LZ4: u8 = 0x82;

/// `plain` in frames; none where there is none.
pub(super) fn compress(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() / 3 + 64);
    for piece in plain.chunks(FRAME_BYTES) {
        let packed = lz4_flex::block::compress(piece);
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let start = out.len();
        out.extend_from_slice(&[0; CHECKSUM_BYTES]);
        out.push(LZ4);
        out.extend_from_slice(&size(HEADER_BYTES + packed.len()));
        out.extend_from_slice(&size(piece.len()));
        out.extend_from_slice(&packed);
        let (checksum, body) = out[start..].split_at_mut(CHECKSUM_BYTES);
        // Its two halves are the other way round.
        checksum.copy_from_slice(&cityhash_rs::cityhash_102_128(body).rotate_right(64).to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_what_they_were_made_of() {
        let plain: Vec<u8> = (0..FRAME_BYTES as u32 + 5000).map(|at| (at / 7) as u8).collect();
        let framed = compress(&plain);
        let (mut rest, mut back, mut frames) = (&framed[..], Vec::new(), 0);
        while !rest.is_empty() {
            let size = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            let (packed, plain) = (size(17), size(21));
            let body = &rest[CHECKSUM_BYTES..CHECKSUM_BYTES + packed];
            assert_eq!(body[0], LZ4);
            back.extend(lz4_flex::block::decompress(&body[HEADER_BYTES..], plain).unwrap());
            rest = &rest[CHECKSUM_BYTES + packed..];
            frames += 1;
        }
        assert_eq!((frames, back == plain), (2, true));
        assert_eq!(compress(b""), b"");
    }
}
