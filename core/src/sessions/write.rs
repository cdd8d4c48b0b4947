//! Changes into the tables. It must never know why something changes.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Error, Transaction, params};

use super::{Change, Stage};
use crate::registry::{Mark, keep_private};

/// How long a lock of somebody who looks into the file is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);

pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    keep_private(path);
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is what clients are answered upon.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(BUSY_WAIT)?;
    Ok(connection)
}

/// Brings the file to the newest version; the version that it had, which may be beyond that.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<usize, Error> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    for (version, statements) in (1i64..).zip(migrations).skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(found)
}

pub(super) fn apply<'a>(
    connection: &mut Connection,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    for change in changes {
        one(&transaction, change)?;
    }
    transaction.commit()
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) const fn stage_number(stage: Stage) -> u8 {
    match stage {
        Stage::Waits => 0,
        Stage::Sent => 1,
        Stage::Released => 2,
        Stage::Done => 3,
    }
}

fn one(to: &Transaction<'_>, change: &Change) -> Result<(), Error> {
    match change {
        Change::Session { session, clientid, facts, gone_at_ms, seen_to } => {
            let sql =
                "INSERT INTO session (id, clientid, facts, gone_at_ms, seen_to) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET facts = excluded.facts, gone_at_ms = excluded.gone_at_ms";
            to.prepare_cached(sql)?.execute(params![
                signed(*session),
                clientid,
                facts,
                gone_at_ms,
                signed(*seen_to)
            ])?;
        }
        Change::Ended { session } => end(to, *session)?,
        Change::Subscribed(session, it) => {
            let sql = "INSERT INTO subscription (session, filter, number, since, options) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (session, filter) DO UPDATE
                 SET options = excluded.options, since = min(since, excluded.since)";
            let values = params![signed(*session), it.filter, it.number, signed(it.since), it.options];
            to.prepare_cached(sql)?.execute(values)?;
        }
        Change::Unsubscribed { session, filter } => {
            let sql = "DELETE FROM subscription WHERE session = ?1 AND filter = ?2";
            to.prepare_cached(sql)?.execute(params![signed(*session), filter])?;
        }
        Change::Will(_) | Change::WillDue { .. } | Change::NoWill { .. } => will(to, change)?,
        Change::SeenTo { session, offset } => {
            let sql = "UPDATE session SET seen_to = ?2 WHERE id = ?1";
            to.prepare_cached(sql)?.execute(params![signed(*session), signed(*offset)])?;
        }
        Change::Mark(Mark { log_id, read_from }) => {
            let sql = "INSERT INTO mark (one, log_id, read_from) VALUES (1, ?1, ?2)
                 ON CONFLICT (one) DO UPDATE SET log_id = excluded.log_id, read_from = excluded.read_from";
            to.prepare_cached(sql)?.execute(params![log_id.to_be_bytes(), signed(*read_from)])?;
        }
        _ => message(to, change)?,
    }
    Ok(())
}

fn message(to: &Transaction<'_>, change: &Change) -> Result<(), Error> {
    match change {
        Change::Owed(session, it) => {
            let sql = "INSERT OR REPLACE INTO delivery
                 (session, message, number, stage, pkid, topic, body, qos, retain, subscription_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
            to.prepare_cached(sql)?.execute(params![
                signed(*session),
                signed(it.key.message),
                it.key.number,
                stage_number(it.stage),
                it.pkid,
                it.topic,
                it.body.as_ref(),
                it.qos,
                it.retain,
                it.subscription_id
            ])?;
        }
        Change::Moved { session, key, stage, pkid } => {
            // What the client has is never sent again.
            let sql = "UPDATE delivery SET stage = ?4, pkid = ?5, body = iif(?4 >= 2, x'', body)
                 WHERE session = ?1 AND message = ?2 AND number = ?3";
            let key = (signed(*session), signed(key.message), key.number);
            to.prepare_cached(sql)?.execute(params![key.0, key.1, key.2, stage_number(*stage), pkid])?;
        }
        Change::Settled { session, key } => {
            let sql = "DELETE FROM delivery WHERE session = ?1 AND message = ?2 AND number = ?3";
            let values = params![signed(*session), signed(key.message), key.number];
            to.prepare_cached(sql)?.execute(values)?;
        }
        Change::Inbound(session, it) => {
            let sql =
                "INSERT OR REPLACE INTO inbound (session, pkid, message, released) VALUES (?1, ?2, ?3, ?4)";
            let values = params![signed(*session), it.pkid, signed(it.message), it.released];
            to.prepare_cached(sql)?.execute(values)?;
        }
        Change::InboundGone { session, pkid } => {
            let sql = "DELETE FROM inbound WHERE session = ?1 AND pkid = ?2";
            to.prepare_cached(sql)?.execute(params![signed(*session), pkid])?;
        }
        _ => {}
    }
    Ok(())
}

fn will(to: &Transaction<'_>, change: &Change) -> Result<(), Error> {
    match change {
        Change::Will(it) => {
            let sql = "INSERT OR REPLACE INTO will (clientid, session, facts, topic, body, due_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let (session, body) = (signed(it.session), it.body.as_ref());
            let values = params![it.clientid, session, it.facts, it.topic, body, it.due_at_ms];
            to.prepare_cached(sql)?.execute(values)?;
        }
        Change::WillDue { clientid, session, due_at_ms } => {
            let sql = "UPDATE will SET due_at_ms = ?3 WHERE clientid = ?1 AND session = ?2";
            to.prepare_cached(sql)?.execute(params![clientid, signed(*session), due_at_ms])?;
        }
        Change::NoWill { clientid, session } => {
            let sql = "DELETE FROM will WHERE clientid = ?1 AND session = ?2";
            to.prepare_cached(sql)?.execute(params![clientid, signed(*session)])?;
        }
        _ => {}
    }
    Ok(())
}

fn end(to: &Transaction<'_>, session: u64) -> Result<(), Error> {
    for sql in [
        "DELETE FROM session WHERE id = ?1",
        "DELETE FROM subscription WHERE session = ?1",
        "DELETE FROM delivery WHERE session = ?1",
        "DELETE FROM inbound WHERE session = ?1",
    ] {
        to.prepare_cached(sql)?.execute([signed(session)])?;
    }
    Ok(())
}
