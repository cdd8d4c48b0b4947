//! Options of the SQLite sink.

use std::path::PathBuf;
use std::sync::Arc;

use crate::database::Sync;
use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};

#[derive(Debug)]
pub(super) struct Config {
    pub(super) path: PathBuf,
    pub(super) table: Arc<str>,
    pub(super) sync: Sync,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let path = options.required("path")?;
        if path.is_empty() || path.contains('\0') {
            return Err(options.wrong("path", "is no file name"));
        }
        let table = options.target_or_rule();
        let lower = table.to_ascii_lowercase();
        if table.is_empty() || table.contains('\0') {
            return Err(SinkError::misconfigured("a table's name must not be empty nor hold a NUL"));
        }
        if lower.starts_with("sqlite_") || lower.starts_with("_muster_") {
            return Err(SinkError::misconfigured(format!(
                "the table name `{table}` is reserved; choose another"
            )));
        }
        let sync = options.one_of("synchronous", &[("full", Sync::Full), ("normal", Sync::Normal)])?;
        Ok(Self { path: env.data_dir.join(path), table: table.into(), sync })
    }
}
