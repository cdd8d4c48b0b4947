//! Who was here at a moment, and how many came and went over time. Sessions that are over lie in a tree over time
//! (Kriegel, Pötke, Seidl: Managing Intervals Efficiently in Object-Relational Databases, VLDB 2000): each at the
//! number between its ends that has most zero bits at its end, so that all that hold at a moment lie on the way from
//! the root to it. It reads rows and must never write one.

use std::path::Path;

use rusqlite::{Connection, params};

use super::store::{StoreError, open_reader, uint};

/// Levels of the tree that are looked at: times up to the year 36,000.
const LEVELS: u32 = 50;

// What these ask for stands in indexes alone: a row a session, far apart from one another, is what would take the time.

/// Who came before a moment and is here still.
const OPEN: &str = "SELECT device FROM _muster_sessions WHERE fork IS NULL AND came <= ?1";
/// Of the sessions at one place of the tree: who went after a moment.
const ENDED: &str = "SELECT device FROM _muster_sessions WHERE fork = ?1 AND went > ?2";
/// And who came before one.
const BEGUN: &str = "SELECT device FROM _muster_sessions WHERE fork = ?1 AND came <= ?2";

/// Buckets of one timeline at most.
pub const BUCKETS_MAX: i64 = 10_000;

/// The width of a bucket is a multiple of this.
pub const BUCKET_MS_MIN: i64 = 60_000;

/// Where the tree keeps what lasts from `came` to `went`.
pub(super) const fn fork(came: i64, went: i64) -> i64 {
    if came == went {
        return came;
    }
    let level = (came ^ went).cast_unsigned().ilog2();
    (went >> level) << level
}

/// Who was here at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// How many.
    pub count: u64,
    /// Their client ids with the numbers of the devices, from the number asked for on.
    pub page: Vec<(u64, String)>,
    /// Whether there are more.
    pub has_next: bool,
}

/// Who was here at `at_ms`, in the order in which devices were first seen: how many, and up to `limit` of those whose
/// number is above `after`.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn present(path: &Path, at_ms: i64, after: u64, limit: usize) -> Result<Present, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let numbers = numbers_at(&db, at_ms)?;
        let from = numbers.partition_point(|number| *number <= after);
        let rest = numbers.get(from..).unwrap_or_default();
        let mut name = db.prepare("SELECT clientid FROM devices WHERE number = ?1 AND number > 0")?;
        let mut page = Vec::new();
        for number in rest.iter().take(limit) {
            page.push((
                *number,
                name.query_row([i64::try_from(*number).unwrap_or_default()], |row| row.get(0))?,
            ));
        }
        Ok(Present { count: numbers.len() as u64, page, has_next: rest.len() > limit })
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// The numbers of the devices that were here, in order.
pub(super) fn numbers_at(db: &Connection, at_ms: i64) -> Result<Vec<u64>, rusqlite::Error> {
    let mut numbers = Vec::new();
    let mut read = |sql: &str, bounds: &[i64]| {
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(bounds), |row| uint(row, "device"))?;
        for number in rows {
            numbers.push(number?);
        }
        Ok::<_, rusqlite::Error>(())
    };
    read(OPEN, &[at_ms])?;
    for level in 0..LEVELS {
        let fork = ((at_ms >> (level + 1)) << (level + 1)) | (1 << level);
        if fork <= at_ms {
            // It began before its fork; what counts is when it ended.
            read(ENDED, &[fork, at_ms])?;
        } else {
            read(BEGUN, &[fork, at_ms])?;
        }
    }
    // Around a step of the clock a device may have been here twice.
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// What happened in one bucket of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// When it begins, milliseconds since 1970.
    pub from_ms: i64,
    /// Sessions that were open at its end.
    pub online: i64,
    /// How many came.
    pub connects: i64,
    /// How many went.
    pub disconnects: i64,
}

/// The buckets of `bucket_ms` that begin in `from_ms..to_ms`; those that nothing happened in, too. `from_ms` and
/// `bucket_ms` are multiples of [`BUCKET_MS_MIN`].
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn timeline(path: &Path, from_ms: i64, to_ms: i64, bucket_ms: i64) -> Result<Vec<Bucket>, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let bucket_ms = bucket_ms.max(BUCKET_MS_MIN);
        // What was open when the first bucket began: what is now, and back from there.
        let minute = from_ms.div_euclid(BUCKET_MS_MIN);
        let open: i64 =
            db.query_row("SELECT COUNT(*) FROM _muster_sessions WHERE fork IS NULL", [], |row| row.get(0))?;
        let since: i64 = db.query_row(
            "SELECT COALESCE(SUM(connects - disconnects), 0) FROM _muster_minutes WHERE minute >= ?1",
            [minute],
            |row| row.get(0),
        )?;
        let mut online = open - since;
        let mut statement = db.prepare(
            "SELECT (minute * ?4 - ?1) / ?3 AS bucket, SUM(connects), SUM(disconnects) FROM _muster_minutes
             WHERE minute >= ?5 AND minute * ?4 < ?2 GROUP BY bucket ORDER BY bucket",
        )?;
        let rows = statement
            .query_map(params![from_ms, to_ms, bucket_ms, BUCKET_MS_MIN, minute], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let mut rows = rows.into_iter().peekable();
        let count = (to_ms - from_ms + bucket_ms - 1).div_euclid(bucket_ms).clamp(0, BUCKETS_MAX);
        let buckets = (0..count).map(|at| {
            let row = rows.next_if(|(bucket, ..)| *bucket == at);
            let (_, connects, disconnects) = row.unwrap_or_default();
            online += connects - disconnects;
            Bucket { from_ms: from_ms + at * bucket_ms, online, connects, disconnects }
        });
        Ok(buckets.collect())
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;

    #[test]
    fn who_was_here_is_read_from_indexes_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("muster.db");
        drop(Store::open(&path, 7).expect("a store"));
        let db = open_reader(&path).expect("a reader");
        for sql in [OPEN, ENDED, BEGUN] {
            let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a plan");
            let values: Vec<i64> = vec![0; plan.parameter_count()];
            let steps = plan.query_map(rusqlite::params_from_iter(values), |row| row.get("detail"));
            let steps: Vec<String> = steps.expect("steps").collect::<Result<_, _>>().expect("texts");
            assert!(
                matches!(steps.as_slice(), [step] if step.contains("USING COVERING INDEX")),
                "{sql}: {steps:?}"
            );
        }
    }
}
