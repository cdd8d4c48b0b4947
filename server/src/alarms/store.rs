//! What the engine knows, kept in `DATA/alarms.db` with its place in the log, so that a start reads little. It must
//! never know what an alarm is about.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};

use super::known::{Active, Armed, ClientId};
use super::state::State;

const SHAPE: &str = include_str!("../../../migrations/sqlite/alarms.sql");

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    log_id: String,
}

/// A summary: when it was raised, what was said, and for how many it stands.
pub(super) type StoredSummary = (i64, String, u64);

/// What has changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) cursor: u64,
    pub(super) rows: Vec<(String, ClientId, Option<Armed>, Option<Active>)>,
    pub(super) summaries: Vec<(String, Option<StoredSummary>)>,
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
        db.execute_batch(SHAPE)?;
        Ok(Self { db, log_id: format!("{log_id:032X}") })
    }

    /// What was stored of this log; nothing of another one.
    pub(super) fn load(&self) -> Result<Stored, rusqlite::Error> {
        let sql = "SELECT cursor FROM place WHERE log_id = ?1";
        let cursor: Option<i64> = self.db.query_row(sql, [&self.log_id], |row| row.get(0)).optional()?;
        let Some(cursor) = cursor else {
            self.db.execute_batch(
                "DELETE FROM place; DELETE FROM armed; DELETE FROM active; DELETE FROM summaries; DELETE FROM definitions;",
            )?;
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
        let mut all = self
            .db
            .prepare("SELECT name, clientid, username, since, activated_at, message, until FROM active")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let active = Active {
                username: row.get(2)?,
                since_ms: row.get(3)?,
                activated_at_ms: row.get(4)?,
                message: row.get(5)?,
                until_ms: row.get(6)?,
                why: None,
                ending: false,
            };
            of(states, row.get(0)?).restore_active(row.get(1)?, active);
        }
        let mut all = self.db.prepare("SELECT name, activated_at, message, count FROM summaries")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let count: i64 = row.get(3)?;
            of(states, row.get(0)?).restore_summary(row.get(1)?, row.get(2)?, count.unsigned_abs());
        }
        Ok(stored)
    }

    /// Stores what has changed, with the place in the log, all or nothing.
    pub(super) fn commit(&mut self, delta: &Delta) -> Result<(), rusqlite::Error> {
        let tx = self.db.transaction()?;
        for (name, client, armed, active) in &delta.rows {
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
                    .prepare_cached("INSERT OR REPLACE INTO active VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                    .execute((
                        name,
                        client,
                        &it.username,
                        it.since_ms,
                        it.activated_at_ms,
                        &it.message,
                        it.until_ms,
                    ))?,
            };
        }
        for (name, summary) in &delta.summaries {
            match summary {
                None => tx.execute("DELETE FROM summaries WHERE name = ?1", [name])?,
                Some((at_ms, message, count)) => {
                    let count = i64::try_from(*count).unwrap_or(i64::MAX);
                    let sql = "INSERT OR REPLACE INTO summaries VALUES (?1, ?2, ?3, ?4)";
                    tx.execute(sql, (name, at_ms, message, count))?
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

fn of(states: &mut BTreeMap<String, State>, name: String) -> &mut State {
    states.entry(name.clone()).or_insert_with(|| State::new(&name, None))
}
