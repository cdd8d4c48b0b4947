//! Dates.
use super::Function;
pub(super) const TABLE: &[Function] = &[];
#[derive(Debug)]
pub(crate) struct Format;
/// Longest format.
pub const FORMAT_BYTES_MAX: usize = 1_024;
