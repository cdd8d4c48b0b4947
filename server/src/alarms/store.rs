//! What the engine knows, kept in `DATA/alarms.db` with its place in the log, so that a start reads little. It must
//! never know what an alarm is about.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::known::{Active, Armed, ClientId, Summary, reason};
use super::state::State;

const SHAPE: &str = include_str!("../../../migrations/sqlite/alarms.sql");

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    log_id: String,
}

const TABLES: [&str; 6] = ["place", "definitions", "armed", "active", "flaps", "summaries"];
/// The shape of the database. One of another shape is made anew: all that is in it follows from the log.
const VERSION: i64 = 4;

/// All that is known of one client.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) client: ClientId,
    pub(super) armed: Option<Armed>,
    pub(super) active: Option<Active>,
    /// When it did what FLAPPING counts.
    pub(super) flaps: Option<Vec<i64>>,
}

/// What has changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) cursor: u64,
    pub(super) rows: Vec<Row>,
    pub(super) summaries: Vec<(String, Option<Summary>)>,
    /// The definitions, where they have changed.
    pub(super) identities: Option<Vec<(String, String)>>,
}

/// What was stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) cursor: Option<u64>,
    pub(super) states: BTreeMap<String, State>,
    pub(super) identities: BTreeMap<String, String>,
}

impl Store {
    pub(super) fn open(path: &Path, log_id: u128) -> Result<Self, rusqlite::Error> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // The log is let go of by what is committed here.
        db.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != VERSION {
            db.execute_batch(&format!("BEGIN; {} PRAGMA user_version = {VERSION}; COMMIT;", dropped()))?;
        }
        db.execute_batch(SHAPE)?;
        Ok(Self { db, log_id: format!("{log_id:032X}") })
    }

    /// What was stored of this log; nothing of another one.
    pub(super) fn load(&self) -> Result<Stored, rusqlite::Error> {
        let sql = "SELECT cursor FROM place WHERE log_id = ?1";
        let cursor: Option<i64> = self.db.query_row(sql, [&self.log_id], |row| row.get(0)).optional()?;
        let Some(cursor) = cursor else {
            self.db.execute_batch(&format!("{} {SHAPE}", dropped()))?;
            return Ok(Stored::default());
        };
        let mut stored = Stored { cursor: u64::try_from(cursor).ok(), ..Stored::default() };
        let mut all = self.db.prepare("SELECT name, identity FROM definitions")?;
        for row in all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (name, identity): (String, String) = row?;
            stored.identities.insert(name, identity);
        }
        let states = &mut stored.states;
        let mut all = self.db.prepare("SELECT name, clientid, username, since, due, held FROM armed")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let (name, client): (String, Arc<str>) = (row.get(0)?, row.get(1)?);
            let armed = (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
            of(states, name).restore_armed(client, armed);
        }
        let mut all = self.db.prepare(
            "SELECT name, clientid, username, since, activated_at, raised_at, kind, severity, message, until, why \
             FROM active",
        )?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let why: Option<String> = row.get(10)?;
            let active = Active {
                username: row.get(2)?,
                since_ms: row.get(3)?,
                activated_at_ms: row.get(4)?,
                raised_at_ms: row.get(5)?,
                kind: row.get(6)?,
                severity: row.get(7)?,
                message: row.get(8)?,
                until_ms: row.get(9)?,
                why: why.as_deref().and_then(reason::named),
                ending: false,
            };
            of(states, row.get(0)?).restore_active(row.get(1)?, active);
        }
        let mut all = self.db.prepare("SELECT name, clientid, times FROM flaps")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let times: String = row.get(2)?;
            // What is no list of times counts as none.
            of(states, row.get(0)?)
                .restore_flaps(row.get(1)?, serde_json::from_str(&times).unwrap_or_default());
        }
        let sql =
            "SELECT name, activated_at, severity, message, count, told_count, told_at, why FROM summaries";
        let mut all = self.db.prepare(sql)?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let (count, told_count): (i64, i64) = (row.get(4)?, row.get(5)?);
            let why: Option<String> = row.get(7)?;
            let summary = Summary {
                activated_at_ms: row.get(1)?,
                severity: row.get(2)?,
                message: row.get(3)?,
                count: count.unsigned_abs(),
                told_count: told_count.unsigned_abs(),
                told_at_ms: row.get(6)?,
                why: why.as_deref().and_then(reason::named),
                ending: false,
            };
            of(states, row.get(0)?).restore_summary(summary);
        }
        Ok(stored)
    }

    /// Stores what has changed, with the place in the log, all or nothing.
    pub(super) fn commit(&mut self, delta: &Delta) -> Result<(), rusqlite::Error> {
        let tx = self.db.transaction()?;
        for row in &delta.rows {
            store(&tx, row)?;
        }
        for (name, summary) in &delta.summaries {
            match summary {
                None => tx.execute("DELETE FROM summaries WHERE name = ?1", [name])?,
                Some(it) => {
                    let number = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
                    let (count, told) = ((number(it.count), number(it.told_count)), it.told_at_ms);
                    let sql = "INSERT OR REPLACE INTO summaries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                    let (at, severity, message) = (it.activated_at_ms, &it.severity, &it.message);
                    tx.execute(sql, (name, at, severity, message, count.0, count.1, told, it.why))?
                }
            };
        }
        if let Some(identities) = &delta.identities {
            tx.execute("DELETE FROM definitions", [])?;
            for (name, identity) in identities {
                tx.execute("INSERT INTO definitions VALUES (?1, ?2)", (name, identity))?;
            }
        }
        let cursor = i64::try_from(delta.cursor).unwrap_or(i64::MAX);
        tx.execute("INSERT OR REPLACE INTO place VALUES (?1, ?2)", (&self.log_id, cursor))?;
        tx.commit()
    }
}

fn store(tx: &Transaction<'_>, row: &Row) -> Result<(), rusqlite::Error> {
    let Row { name, client, armed, active, flaps } = row;
    match armed {
        None => tx
            .prepare_cached("DELETE FROM armed WHERE name = ?1 AND clientid = ?2")?
            .execute((name, client))?,
        Some(it) => tx
            .prepare_cached("INSERT OR REPLACE INTO armed VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute((name, client, &it.username, it.since_ms, it.due_ms, it.held))?,
    };
    match active {
        None => tx
            .prepare_cached("DELETE FROM active WHERE name = ?1 AND clientid = ?2")?
            .execute((name, client))?,
        Some(it) => tx
            .prepare_cached(
                "INSERT OR REPLACE INTO active VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                name,
                client,
                &it.username,
                it.since_ms,
                it.activated_at_ms,
                it.raised_at_ms,
                &it.kind,
                &it.severity,
                &it.message,
                it.until_ms,
                it.why,
            ))?,
    };
    match flaps {
        None => tx
            .prepare_cached("DELETE FROM flaps WHERE name = ?1 AND clientid = ?2")?
            .execute((name, client))?,
        Some(times) => tx.prepare_cached("INSERT OR REPLACE INTO flaps VALUES (?1, ?2, ?3)")?.execute((
            name,
            client,
            serde_json::json!(times).to_string(),
        ))?,
    };
    Ok(())
}

fn dropped() -> String {
    TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table};")).collect()
}

fn of(states: &mut BTreeMap<String, State>, name: String) -> &mut State {
    states.entry(name.clone()).or_insert_with(|| State::new(&name, None))
}
