//! Where devices are kept: the table `devices` of `DATA/muster.db`, with their history, the alarms that are on and the
//! fold's cursor in the same transaction.

use std::path::Path;
use std::time::Duration;

use muster_core::event::Event;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, RowIndex, Transaction, params};

use super::alarms::{self, ActiveAlarm, Silence};
use super::fold::Device;
use super::history::Batch;

/// What the fold is called in `_muster_projections`.
const NAME: &str = "devices";

/// The steps that bring any earlier database to this version's shape, in order.
const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("../../../migrations/sqlite/0001_devices.sql")),
    (2, include_str!("../../../migrations/sqlite/0002_alarms.sql")),
    (3, include_str!("../../../migrations/sqlite/0003_alarm_subjects.sql")),
    (4, include_str!("../../../migrations/sqlite/0004_history.sql")),
    (5, include_str!("../../../migrations/sqlite/0005_eras.sql")),
    (6, include_str!("../../../migrations/sqlite/0006_open.sql")),
];

/// How long a write waits for another writer of the same database (the embedded sink).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the writer keeps of the database in memory: sessions of a large fleet lie far apart.
const CACHE_KIB: i64 = 32 << 10;

/// Pages of 4 KiB that the journal beside the database has before they are put into it: rows of a large fleet lie far
/// apart, and a page that several transactions change is put there once.
const WAL_PAGES: i64 = 16 << 10;

/// What can go wrong with the table of devices.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the table of devices in {path} cannot be used")]
    Sqlite {
        /// The database.
        path: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version wrote the database.
    #[error("{path} was written by a newer version of Muster (shape {found}, this version knows {known})")]
    Newer {
        /// The database.
        path: String,
        /// The shape that it has.
        found: u32,
        /// The newest that we know.
        known: u32,
    },
}

/// The one writer of the table.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: String,
    log_id: u128,
    cursor: Option<u64>,
    /// Where a fold that begins now begins.
    begins: u64,
}

impl Store {
    /// Opens the database, brings it to today's shape, and finds how far the fold of this log has come. A table that
    /// was folded from another log is emptied: what it says is about other events.
    ///
    /// # Errors
    /// The database cannot be opened or is of a newer version.
    pub fn open(path: &Path, log_id: u128) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let wrap = |source| StoreError::Sqlite { path: shown.clone(), source };
        let mut db = Connection::open(path).map_err(wrap)?;
        prepare(&db).map_err(wrap)?;
        migrate(&mut db, &shown)?;
        let cursor = cursor(&mut db, log_id).map_err(wrap)?;
        Ok(Self { db, path: shown, log_id, cursor, begins: 0 })
    }

    /// The next offset to read; none before the first commit.
    pub const fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// Folds events and moves the cursor, in one transaction. Returns how many devices changed.
    ///
    /// # Errors
    /// SQLite refused; nothing has changed then.
    pub fn apply<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        cursor: u64,
    ) -> Result<usize, StoreError> {
        let changed = self.try_apply(events, cursor).map_err(|source| self.error(source))?;
        self.cursor = Some(cursor);
        Ok(changed)
    }

    fn try_apply<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        cursor: u64,
    ) -> Result<usize, rusqlite::Error> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut batch = Batch::begin(&tx, self.begins)?;
        for event in events {
            if alarms::note(&tx, event)? {
                batch.note(event)?;
            } else {
                batch.take(event)?;
            }
        }
        let changed = batch.finish()?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO _muster_projections (name, log_id, cursor) VALUES (?1, ?2, ?3)",
        )?
        .execute((NAME, log_id_text(self.log_id), int(cursor)))?;
        tx.commit()?;
        Ok(changed)
    }

    /// Says at which offset a fold that has not begun begins: there is nothing older in the log.
    pub(super) const fn begin_at(&mut self, first: u64) {
        self.begins = first;
    }

    /// Forgets everything, so that the log can be folded anew.
    ///
    /// # Errors
    /// SQLite refused; nothing is forgotten then.
    pub fn forget(&mut self) -> Result<(), StoreError> {
        let mut forget = || {
            let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            empty(&tx)?;
            tx.commit()
        };
        forget().map_err(|source| StoreError::Sqlite { path: self.path.clone(), source })?;
        self.cursor = None;
        Ok(())
    }

    /// The offset at which the fold began; none before the first commit.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn first(&self) -> Result<Option<u64>, StoreError> {
        let read = self.db.query_row("SELECT first FROM _muster_history", [], |row| uint(row, "first"));
        read.optional().map_err(|source| self.error(source))
    }

    /// Every device that is online, by client id.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn online(&self) -> Result<Vec<Device>, StoreError> {
        let read = || {
            let mut statement = self.db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM devices WHERE online = 1 ORDER BY clientid"
            ))?;
            let devices = statement.query_map([], from_row)?;
            devices.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|source| self.error(source))
    }

    /// The alarms that are on, by name.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn alarms(&self) -> Result<Vec<ActiveAlarm>, StoreError> {
        alarms::active(&self.db).map_err(|source| self.error(source))
    }

    /// What is to be silent after `now_ms`.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn silences(&self, now_ms: i64) -> Result<Vec<Silence>, StoreError> {
        alarms::silences(&self.db, now_ms).map_err(|source| self.error(source))
    }

    /// How many devices are online, and how many are known at all.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn count(&self) -> Result<(u64, u64), StoreError> {
        let row = self.db.query_row(
            "SELECT COALESCE(SUM(online), 0) AS online, COUNT(*) AS known FROM devices",
            [],
            |row| Ok((uint(row, "online")?, uint(row, "known")?)),
        );
        row.map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }
}

/// A connection that only reads, beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

/// Empties every table of the fold.
fn empty(tx: &Transaction<'_>) -> Result<(), rusqlite::Error> {
    tx.execute_batch(
        "DELETE FROM devices; DELETE FROM _muster_alarms; DELETE FROM _muster_sessions;
         DELETE FROM _muster_minutes; DELETE FROM _muster_device_events; DELETE FROM _muster_history;
         DELETE FROM _muster_alarm_history; DELETE FROM _muster_alarm_silences;",
    )?;
    tx.execute("DELETE FROM _muster_projections WHERE name = ?1", [NAME]).map(drop)
}

fn prepare(db: &Connection) -> Result<(), rusqlite::Error> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    // Everything here can be folded again from the log, so a commit need not wait for the disk; it stays whole.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    db.pragma_update(None, "synchronous", "NORMAL")
}

fn migrate(db: &mut Connection, path: &str) -> Result<(), StoreError> {
    let wrap = |source| StoreError::Sqlite { path: path.to_owned(), source };
    let known = MIGRATIONS.iter().map(|(version, _)| *version).max().unwrap_or_default();
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(wrap)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS _muster_migrations (
            component TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    )
    .map_err(wrap)?;
    let found: u32 = tx
        .query_row("SELECT version FROM _muster_migrations WHERE component = ?1", [NAME], |row| row.get(0))
        .optional()
        .map_err(wrap)?
        .unwrap_or_default();
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        tx.execute_batch(sql).map_err(wrap)?;
        tx.execute("INSERT OR REPLACE INTO _muster_migrations VALUES (?1, ?2)", (NAME, version))
            .map_err(wrap)?;
    }
    tx.commit().map_err(wrap)
}

fn cursor(db: &mut Connection, log_id: u128) -> Result<Option<u64>, rusqlite::Error> {
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = tx
        .query_row("SELECT log_id, cursor FROM _muster_projections WHERE name = ?1", [NAME], |row| {
            Ok((row.get::<_, String>("log_id")?, uint(row, "cursor")?))
        })
        .optional()?;
    let ours = found.filter(|(id, _)| *id == log_id_text(log_id)).map(|(_, cursor)| cursor);
    if ours.is_none() {
        empty(&tx)?;
    }
    tx.commit()?;
    Ok(ours)
}

fn log_id_text(log_id: u128) -> String {
    format!("{log_id:032X}")
}

/// SQLite's integers are signed; no number of ours comes near their end.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn uint(row: &Row<'_>, column: impl RowIndex) -> Result<u64, rusqlite::Error> {
    row.get(column).map(|number: i64| u64::try_from(number).unwrap_or_default())
}

pub(super) fn device(tx: &Transaction<'_>, clientid: &str) -> Result<Option<Device>, rusqlite::Error> {
    tx.prepare_cached(&format!("SELECT {COLUMNS} FROM devices WHERE clientid = ?1"))?
        .query_row([clientid], from_row)
        .optional()
}

/// What [`from_row`] reads, by number: a name costs a search in each row.
pub(super) const COLUMNS: &str = "\
    clientid, online, since, last_seen, reason, connected_at, disconnected_at, session, seq, connects, \
    disconnects, username, peername, sockname, proto_name, proto_ver, keepalive, clean_start, \
    expiry_interval, mountpoint, attrs, number, longest_outage, flapping_until, went";

pub(super) fn from_row(row: &Row<'_>) -> Result<Device, rusqlite::Error> {
    let attrs: String = row.get(20)?;
    Ok(Device {
        clientid: row.get(0)?,
        online: row.get(1)?,
        since_ms: row.get(2)?,
        last_seen_ms: row.get(3)?,
        reason: row.get(4)?,
        connected_at_ms: row.get(5)?,
        disconnected_at_ms: row.get(6)?,
        session: uint(row, 7)?,
        seq: uint(row, 8)?,
        connects: uint(row, 9)?,
        disconnects: uint(row, 10)?,
        username: row.get(11)?,
        peername: row.get(12)?,
        sockname: row.get(13)?,
        proto_name: row.get(14)?,
        proto_ver: row.get(15)?,
        keepalive_seconds: row.get(16)?,
        clean_start: row.get(17)?,
        expiry_interval_seconds: uint(row, 18)?,
        mountpoint: row.get(19)?,
        attrs: serde_json::from_str(&attrs).unwrap_or_default(),
        number: uint(row, 21)?,
        longest_outage_ms: row.get(22)?,
        flapping_until_ms: row.get(23)?,
        went_ms: serde_json::from_str(&row.get::<_, String>(24)?).unwrap_or_default(),
    })
}

pub(super) fn put(tx: &Transaction<'_>, it: &Device) -> Result<(), rusqlite::Error> {
    let attrs = serde_json::to_string(&it.attrs).unwrap_or_else(|_| "{}".to_owned());
    let went = serde_json::to_string(&it.went_ms).unwrap_or_else(|_| "[]".to_owned());
    // The guard stands in the statement too, not only in the fold.
    let mut statement = tx.prepare_cached(
        "INSERT INTO devices (clientid, online, since, last_seen, reason, connected_at, disconnected_at, session,
             seq, connects, disconnects, username, peername, sockname, proto_name, proto_ver, keepalive,
             clean_start, expiry_interval, mountpoint, attrs, number, longest_outage, flapping_until, went)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
             ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)
         ON CONFLICT (clientid) DO UPDATE SET
             online = excluded.online, since = excluded.since, last_seen = excluded.last_seen,
             reason = excluded.reason, connected_at = excluded.connected_at,
             disconnected_at = excluded.disconnected_at, session = excluded.session, seq = excluded.seq,
             connects = excluded.connects, disconnects = excluded.disconnects, username = excluded.username,
             peername = excluded.peername, sockname = excluded.sockname, proto_name = excluded.proto_name,
             proto_ver = excluded.proto_ver, keepalive = excluded.keepalive, clean_start = excluded.clean_start,
             expiry_interval = excluded.expiry_interval, mountpoint = excluded.mountpoint, attrs = excluded.attrs,
             longest_outage = excluded.longest_outage, flapping_until = excluded.flapping_until,
             went = excluded.went
         WHERE excluded.seq > devices.seq",
    )?;
    // By number, too: a name is looked for among all of them, each time.
    statement.execute(params![
        it.clientid,
        it.online,
        it.since_ms,
        it.last_seen_ms,
        it.reason,
        it.connected_at_ms,
        it.disconnected_at_ms,
        int(it.session),
        int(it.seq),
        int(it.connects),
        int(it.disconnects),
        it.username,
        it.peername,
        it.sockname,
        it.proto_name,
        it.proto_ver,
        it.keepalive_seconds,
        it.clean_start,
        int(it.expiry_interval_seconds),
        it.mountpoint,
        attrs,
        int(it.number),
        it.longest_outage_ms,
        it.flapping_until_ms,
        went,
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fold::tests::{connected, disconnected};
    use super::super::list::{Wanted, list};
    use super::*;

    #[test]
    fn rows_and_cursor_survive_together() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("muster.db");
        let mut store = Store::open(&path, 7).expect("open");
        assert_eq!(store.cursor(), None);
        let events = [connected("a", 1, 1, 1), connected("b", 2, 2, 2), disconnected("a", 3, 1, 3, "normal")];
        assert_eq!(store.apply(&events, 4).expect("apply"), 3);
        assert_eq!(store.apply(&events, 4).expect("again"), 0);
        drop(store);

        let store = Store::open(&path, 7).expect("open again");
        assert_eq!(store.cursor(), Some(4));
        assert_eq!(store.count().expect("count"), (1, 2));
        let online = store.online().expect("online");
        assert_eq!(online.len(), 1);
        assert_eq!(
            (online[0].clientid.as_str(), online[0].session, online[0].keepalive_seconds),
            ("b", 2, 60)
        );

        let offline = Wanted { online: Some(false), limit: 10, ..Wanted::default() };
        let (page, total) = list(&path, &offline).expect("list");
        assert_eq!((page[0].clientid.as_str(), page[0].reason.as_deref(), total), ("a", Some("normal"), 1));
        let exactly = Wanted { clientid: Some("b".to_owned()), limit: 10, ..Wanted::default() };
        assert_eq!(list(&path, &exactly).expect("list").0[0].clientid, "b");
        let like = Wanted { like_clientid: Some("zz".to_owned()), limit: 10, ..Wanted::default() };
        assert_eq!(list(&path, &like).expect("list").1, 0);
    }

    #[test]
    fn every_column_is_read_where_it_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(&dir.path().join("muster.db"), 7).expect("open");
        let text = |name: &str| name.to_owned();
        let mut written = Device {
            clientid: text("clientid"),
            online: true,
            since_ms: 101,
            last_seen_ms: 102,
            reason: Some(text("reason")),
            connected_at_ms: Some(103),
            disconnected_at_ms: Some(104),
            session: 105,
            seq: 106,
            connects: 107,
            disconnects: 108,
            username: Some(text("username")),
            peername: text("peername"),
            sockname: text("sockname"),
            proto_name: text("proto_name"),
            proto_ver: 109,
            keepalive_seconds: 110,
            clean_start: false,
            expiry_interval_seconds: 111,
            mountpoint: Some(text("mountpoint")),
            attrs: [(text("key"), text("value"))].into(),
            number: 112,
            longest_outage_ms: 113,
            flapping_until_ms: 114,
            went_ms: vec![115, 116],
        };
        // Inserted, and then updated: its number alone stays.
        for (online, clean_start) in [(true, false), (false, true)] {
            (written.online, written.clean_start, written.seq) = (online, clean_start, written.seq + 1_000);
            let tx = store.db.transaction().expect("a transaction");
            put(&tx, &written).expect("a row");
            assert_eq!(device(&tx, "clientid").expect("a row"), Some(written.clone()));
            tx.commit().expect("a commit");
            let next = |number: &mut i64| *number += 500;
            [&mut written.since_ms, &mut written.last_seen_ms].into_iter().for_each(next);
            [&mut written.longest_outage_ms, &mut written.flapping_until_ms].into_iter().for_each(next);
            written.went_ms.iter_mut().for_each(next);
            written.connected_at_ms.iter_mut().chain(&mut written.disconnected_at_ms).for_each(next);
            let next = |number: &mut u64| *number += 500;
            [&mut written.session, &mut written.connects, &mut written.disconnects]
                .into_iter()
                .for_each(next);
            next(&mut written.expiry_interval_seconds);
            (written.proto_ver, written.keepalive_seconds) =
                (written.proto_ver + 500, written.keepalive_seconds + 500);
            let texts = [&mut written.peername, &mut written.sockname, &mut written.proto_name];
            let options = [&mut written.reason, &mut written.username, &mut written.mountpoint];
            let options = options.into_iter().filter_map(Option::as_mut);
            texts.into_iter().chain(options).for_each(|text| text.push_str(", once more"));
            written.attrs.insert(text("another"), text("one"));
        }
        let by_name = store.db.query_row("SELECT since, connects, went FROM devices", [], |row| {
            Ok((row.get::<_, i64>("since")?, row.get::<_, i64>("connects")?, row.get::<_, String>("went")?))
        });
        assert_eq!(by_name.expect("a row"), (601, 607, "[615,616]".to_owned()));
    }

    #[test]
    fn the_table_of_another_log_is_emptied() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("muster.db");
        let mut store = Store::open(&path, 7).expect("open");
        store.apply(&[connected("a", 1, 1, 1)], 2).expect("apply");
        drop(store);
        let store = Store::open(&path, 8).expect("open for another log");
        assert_eq!(store.cursor(), None);
        assert_eq!(store.count().expect("count"), (0, 0));
    }

    #[test]
    fn a_database_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("muster.db");
        drop(Store::open(&path, 7).expect("open"));
        let db = Connection::open(&path).expect("open directly");
        db.execute("UPDATE _muster_migrations SET version = 99", []).expect("pretend");
        drop(db);
        assert!(matches!(Store::open(&path, 7), Err(StoreError::Newer { found: 99, known: 6, .. })));
    }
}
