//! `jq(program, json)`.
use super::Function;
pub(super) const TABLE: &[Function] = &[];
#[derive(Debug)]
pub(crate) struct Filter;
/// Most outputs of one jq program.
pub const JQ_OUTPUTS_MAX: usize = 100_000;
/// How long a jq program may run when the call does not say.
pub const JQ_TIME_DEFAULT_MS: u64 = 10_000;
