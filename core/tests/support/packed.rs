//! Compressed segments taken apart and put together again, by the tables of `docs/log-format.md` and not by the code
//! under test.

pub const HEADER_BYTES: usize = 96;
pub const BLOCK_HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 32;

/// What [`fix`] puts right.
pub const HEADER: u8 = 1;
pub const TABLE: u8 = 2;
pub const BLOCKS: u8 = 4;

fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let field = bytes.get(at..at + length)?;
    let mut wide = [0; 8];
    wide[..length].copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// Where each block begins, and the length of its frame, as far as the file goes.
pub fn blocks(bytes: &[u8]) -> Vec<(usize, usize)> {
    let table_at = number(bytes, 72, 8).unwrap_or(0).min(bytes.len());
    let (mut at, mut blocks) = (HEADER_BYTES, Vec::new());
    while at < table_at
        && let Some(frame) = number(bytes, at + 36, 4)
        && at + BLOCK_HEADER_BYTES + frame <= table_at
    {
        blocks.push((at, frame));
        at += BLOCK_HEADER_BYTES + frame;
    }
    blocks
}

/// Puts checksums right, so that arbitrary bytes get past them.
pub fn fix(bytes: &mut [u8], what: u8) {
    if what & BLOCKS != 0 {
        for (at, frame) in blocks(bytes) {
            let frame_at = at + BLOCK_HEADER_BYTES;
            let crc = crc32c::crc32c(&bytes[frame_at..frame_at + frame]).to_le_bytes();
            put(bytes, at + 40, &crc);
            let crc = crc32c::crc32c(&bytes[at..at + 44]).to_le_bytes();
            put(bytes, at + 44, &crc);
        }
    }
    if what & TABLE != 0
        && let Some(table) = number(bytes, 72, 8).and_then(|at| bytes.get(at..))
    {
        let crc = crc32c::crc32c(table).to_le_bytes();
        put(bytes, 80, &crc);
    }
    if what & HEADER != 0
        && let Some(header) = bytes.get(..HEADER_BYTES - 4)
    {
        let crc = crc32c::crc32c(header).to_le_bytes();
        put(bytes, HEADER_BYTES - 4, &crc);
    }
}

/// Leaves the segment with one block, which is `frame` and claims to hold `raw_bytes`, under good checksums.
pub fn replace_only_block(bytes: &mut Vec<u8>, frame: &[u8], raw_bytes: usize) {
    let table_at = HEADER_BYTES + BLOCK_HEADER_BYTES + frame.len();
    let entry = bytes[bytes.len() - ENTRY_BYTES * blocks(bytes).len()..][..ENTRY_BYTES].to_vec();
    bytes.truncate(HEADER_BYTES + BLOCK_HEADER_BYTES);
    bytes.extend_from_slice(frame);
    bytes.extend_from_slice(&entry);
    put(bytes, 12, &1_u32.to_le_bytes());
    put(bytes, 56, &(64 + raw_bytes as u64).to_le_bytes());
    put(bytes, 72, &(table_at as u64).to_le_bytes());
    put(bytes, HEADER_BYTES + 32, &u32::try_from(raw_bytes).unwrap().to_le_bytes());
    put(bytes, HEADER_BYTES + 36, &u32::try_from(frame.len()).unwrap().to_le_bytes());
    fix(bytes, HEADER | TABLE | BLOCKS);
}
