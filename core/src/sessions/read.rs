//! The tables as they are at a start. It must never know what is done with them.

use bytes::Bytes;
use rusqlite::{Connection, Error, OptionalExtension as _, Row};

use super::{DeliveryKey, Stage};
use crate::registry::Mark;

/// Everything that is stored.
#[derive(Debug, Default)]
pub struct Stored {
    /// Sessions, in the order of their numbers.
    pub sessions: Vec<StoredSession>,
    /// Wills, in the order of clients.
    pub wills: Vec<StoredWill>,
    /// From where on the log must be read again; none in a new store.
    pub mark: Option<Mark>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Its number.
    pub session: u64,
    /// Its client.
    pub clientid: String,
    /// A JSON object.
    pub facts: String,
    /// Since when its client is away, milliseconds since 1970; none where it was connected.
    pub gone_at_ms: Option<i64>,
    /// What it is owed of events before this offset is among `deliveries`.
    pub seen_to: u64,
    /// What it subscribes to.
    pub subscriptions: Vec<StoredSubscription>,
    /// What it is owed, oldest first.
    pub deliveries: Vec<StoredDelivery>,
    /// QoS 2 publishes from its client.
    pub inbound: Vec<StoredInbound>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// The filter.
    pub filter: String,
    /// Its number in the session.
    pub number: u32,
    /// No event before this offset is owed for it.
    pub since: u64,
    /// A JSON object.
    pub options: String,
}

/// A message that is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Which.
    pub key: DeliveryKey,
    /// How far it is.
    pub stage: Stage,
    /// 0 where it has none.
    pub pkid: u16,
    /// Its topic.
    pub topic: String,
    /// The message with its envelope; empty where the client has it.
    pub body: Bytes,
    /// Of the delivery.
    pub qos: u8,
    /// Of the delivery.
    pub retain: bool,
    /// Comes with it.
    pub subscription_id: Option<u32>,
}

/// A QoS 2 publish from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredInbound {
    /// Its packet identifier.
    pub pkid: u16,
    /// The offset of its event.
    pub message: u64,
    /// Whether the client has released the identifier.
    pub released: bool,
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWill {
    /// Whose.
    pub clientid: String,
    /// The number of the connection in events.
    pub session: u64,
    /// A JSON object.
    pub facts: String,
    /// To which topic.
    pub topic: String,
    /// Protocol Buffers.
    pub body: Bytes,
    /// When it is due, milliseconds since 1970; none while connected.
    pub due_at_ms: Option<i64>,
}

pub(super) fn all(from: &Connection) -> Result<Stored, Error> {
    let mut sessions =
        rows(from, "SELECT id, clientid, facts, gone_at_ms, seen_to FROM session ORDER BY id", |row| {
            Ok(StoredSession {
                session: unsigned(row, 0)?,
                clientid: row.get(1)?,
                facts: row.get(2)?,
                gone_at_ms: row.get(3)?,
                seen_to: unsigned(row, 4)?,
                subscriptions: Vec::new(),
                deliveries: Vec::new(),
                inbound: Vec::new(),
            })
        })?;
    for session in &mut sessions {
        let id = i64::try_from(session.session).unwrap_or(i64::MAX);
        session.subscriptions = of(
            from,
            "SELECT filter, number, since, options FROM subscription WHERE session = ?1 ORDER BY number",
            id,
            subscription,
        )?;
        session.deliveries = of(
            from,
            "SELECT message, number, stage, pkid, topic, body, qos, retain, subscription_id FROM delivery
             WHERE session = ?1 ORDER BY message, number",
            id,
            delivery,
        )?;
        session.inbound =
            of(from, "SELECT pkid, message, released FROM inbound WHERE session = ?1", id, |row| {
                Ok(StoredInbound { pkid: row.get(0)?, message: unsigned(row, 1)?, released: row.get(2)? })
            })?;
    }
    let wills = rows(
        from,
        "SELECT clientid, session, facts, topic, body, due_at_ms FROM will ORDER BY clientid",
        |row| {
            Ok(StoredWill {
                clientid: row.get(0)?,
                session: unsigned(row, 1)?,
                facts: row.get(2)?,
                topic: row.get(3)?,
                body: row.get::<_, Vec<u8>>(4)?.into(),
                due_at_ms: row.get(5)?,
            })
        },
    )?;
    let mark = from
        .query_row("SELECT log_id, read_from FROM mark", [], |row| {
            Ok(Mark { log_id: u128::from_be_bytes(row.get(0)?), read_from: unsigned(row, 1)? })
        })
        .optional()?;
    Ok(Stored { sessions, wills, mark })
}

fn subscription(row: &Row<'_>) -> Result<StoredSubscription, Error> {
    Ok(StoredSubscription {
        filter: row.get(0)?,
        number: row.get(1)?,
        since: unsigned(row, 2)?,
        options: row.get(3)?,
    })
}

fn delivery(row: &Row<'_>) -> Result<StoredDelivery, Error> {
    let stage = match row.get::<_, u8>(2)? {
        0 => Stage::Waits,
        1 => Stage::Sent,
        2 => Stage::Released,
        _ => Stage::Done,
    };
    Ok(StoredDelivery {
        key: DeliveryKey { message: unsigned(row, 0)?, number: row.get(1)? },
        stage,
        pkid: row.get(3)?,
        topic: row.get(4)?,
        body: row.get::<_, Vec<u8>>(5)?.into(),
        qos: row.get(6)?,
        retain: row.get(7)?,
        subscription_id: row.get(8)?,
    })
}

fn rows<T>(
    from: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    from.prepare_cached(sql)?.query_map([], read)?.collect()
}

fn of<T>(
    from: &Connection,
    sql: &str,
    session: i64,
    read: impl FnMut(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    from.prepare_cached(sql)?.query_map([session], read)?.collect()
}

fn unsigned(row: &Row<'_>, at: usize) -> Result<u64, Error> {
    Ok(row.get::<_, i64>(at)?.unsigned_abs())
}
