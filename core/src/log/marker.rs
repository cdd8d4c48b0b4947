//! The mark of a clean stop: where the log ended. With it the next start need not look at the tail. It is removed
//! before anything is written again.

use std::path::Path;

use super::disk::{Access, Disk, read_up_to};
use super::format::{check_header, id_at, seal_header, u64_at};

/// The file's name in the log's directory.
pub(super) const MARKER_NAME: &str = "CLEAN";
const MARKER_MAGIC: &[u8; 8] = b"MUSTRCLN";
const MARKER_BYTES: usize = 64;

/// Where the log ended when it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) log_id: u128,
    pub(super) base_offset: u64,
    pub(super) end_offset: u64,
    pub(super) segment_bytes: u64,
}

impl Marker {
    pub(super) fn encode(&self) -> [u8; MARKER_BYTES] {
        let mut out = [0; MARKER_BYTES];
        out[16..32].copy_from_slice(&self.log_id.to_be_bytes());
        out[32..40].copy_from_slice(&self.base_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.end_offset.to_le_bytes());
        out[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        seal_header(&mut out, MARKER_MAGIC);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        check_header(bytes, MARKER_BYTES, MARKER_MAGIC).ok()?;
        Some(Self {
            log_id: id_at(bytes, 16),
            base_offset: u64_at(bytes, 32),
            end_offset: u64_at(bytes, 40),
            segment_bytes: u64_at(bytes, 48),
        })
    }

    /// The mark in `dir`; none if there is none to be trusted.
    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Option<Self> {
        let file = disk.open(&dir.join(MARKER_NAME), Access::Read).ok()?;
        let mut bytes = [0; MARKER_BYTES];
        let read = read_up_to(&*file, &mut bytes, 0).ok()?;
        Self::decode(&bytes[..read])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_any_flipped_bit_is_seen() {
        let marker = Marker { log_id: 1 << 100, base_offset: 2, end_offset: 3, segment_bytes: 4 };
        let bytes = marker.encode();
        assert_eq!(Marker::decode(&bytes), Some(marker));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(Marker::decode(&bad), None, "byte {at}");
        }
    }
}
