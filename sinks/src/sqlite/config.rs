//! Options of the SQLite sink.

use std::path::PathBuf;
use std::sync::Arc;

use crate::database::Sync;
use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};
use crate::upsert::Upsert;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// The longest time for which rows can be asked to be kept; beyond it, they are kept without.
const RETAIN_DAYS_MAX: i64 = 36_500;

#[derive(Debug)]
pub(super) struct Config {
    pub(super) path: PathBuf,
    pub(super) target: Arc<Target>,
    pub(super) sync: Sync,
}

/// The table, and what is special about it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) table: String,
    /// How rows replace each other; none where all of them stay.
    pub(super) upsert: Option<Upsert>,
    /// How long rows are kept, in milliseconds; none where it is for ever.
    pub(super) retain_ms: Option<i64>,
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
        let upsert = Upsert::parse(options, table)?;
        let target = Target { table: table.to_owned(), upsert, retain_ms: retain_ms(options, table)? };
        Ok(Self { path: env.data_dir.join(path), target: Arc::new(target), sync })
    }
}

/// What is said of the table alone goes before what is said of all.
fn retain_ms(options: &Options<'_>, table: &str) -> Result<Option<i64>, SinkError> {
    let own = options.with_prefix("retain_days.").find(|(name, _)| *name == table);
    let own = own.map(|(_, days)| (format!("retain_days.{table}"), days));
    let given = own.or_else(|| options.get("retain_days").map(|days| ("retain_days".to_owned(), days)));
    let Some((name, days)) = given else { return Ok(None) };
    let days = days.parse().ok().filter(|days| (0..=RETAIN_DAYS_MAX).contains(days));
    let days = days.ok_or_else(|| options.wrong(&name, "must be a whole number of days, 0 for ever"))?;
    Ok((days > 0).then_some(days * DAY_MS))
}
