//! Dead letters: rows that a target refused for what they are, and events on which a rule failed, kept with all that
//! is needed to understand and to replay them.

use bytes::Bytes;
use muster_core::event::{Event, EventError, EventKind};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::{DeliveryStore, StoreError, int, uint};
use crate::database::Verdict;
use crate::sink::{Cursor, PipelineId};

/// Letters in one answer of [`DeliveryStore::letters`], whatever is asked for.
pub const LETTERS_MAX: u32 = 10_000;

/// A letter that is still to be written.
#[derive(Debug, Clone)]
pub struct NewLetter {
    /// The log that the event stands in.
    pub log_id: u128,
    /// Which row of which event; row 0 where the rule failed.
    pub cursor: Cursor,
    /// The event's id, as people see it.
    pub event_id: String,
    /// When the event happened, milliseconds since 1970.
    pub event_ms: i64,
    /// The rule's text, as a version.
    pub rule_version: String,
    /// How often delivery was tried.
    pub attempts: u32,
    /// Why it is dead.
    pub reason: String,
    /// The row as JSON; none where the rule failed before it made one.
    pub row_json: Option<String>,
    /// The event's kind, topic and body, as in the log.
    pub event: (u16, String, Bytes),
}

/// A letter as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// Where it was going.
    pub pipeline: PipelineId,
    /// The rule's text, as a version.
    pub rule_version: String,
    /// The log that the event stands in.
    pub log_id: u128,
    /// Which row of which event.
    pub cursor: Cursor,
    /// The event's id, as people see it.
    pub event_id: String,
    /// When the event happened, milliseconds since 1970.
    pub event_ms: i64,
    /// How often delivery was tried.
    pub attempts: u32,
    /// Why it is dead.
    pub reason: String,
    /// The row as JSON; none where the rule failed before it made one.
    pub row_json: Option<String>,
    /// The event's kind, as a number.
    pub event_kind: u16,
    /// The event's topic.
    pub event_topic: String,
    /// The event's body, as in the log.
    pub event_body: Bytes,
    /// When it was set aside, milliseconds since 1970.
    pub created_ms: i64,
}

impl DeadLetter {
    /// The event, decoded.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub fn event(&self) -> Result<Event, EventError> {
        let topic = self.event_topic.as_bytes();
        let body = self.event_body.clone();
        Event::decode(self.log_id, self.cursor.offset, self.event_ms, self.event_kind, topic, body)
    }

    /// The name of the event's kind, e.g. `message.publish`.
    pub fn event_name(&self) -> &'static str {
        EventKind::from_code(self.event_kind).map_or("unknown", EventKind::name)
    }
}

/// Which letters are meant; an empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this rule.
    pub rule: Option<String>,
    /// Of this sink.
    pub sink: Option<String>,
    /// Of this table, topic or collection in the sink.
    pub target: Option<String>,
    /// Of this very pipeline: one lane, or a replay.
    pub pipeline: Option<PipelineId>,
    /// With this number.
    pub id: Option<i64>,
    /// With numbers above this one: the next page.
    pub after_id: Option<i64>,
    /// With numbers up to this one.
    pub to_id: Option<i64>,
    /// Whose events happened at or after this, milliseconds since 1970.
    pub from_ms: Option<i64>,
    /// Whose events happened before this, milliseconds since 1970.
    pub to_ms: Option<i64>,
}

impl LetterFilter {
    fn sql(&self) -> (String, Vec<Box<dyn ToSql>>) {
        let mut sql = String::from(" WHERE TRUE");
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut and = |condition: &str, value: Option<Box<dyn ToSql>>| {
            if let Some(value) = value {
                values.push(value);
                sql.push_str(&format!(" AND {condition} ?{}", values.len()));
            }
        };
        let text = |text: &Option<String>| text.clone().map(|text| Box::new(text) as Box<dyn ToSql>);
        let number = |number: Option<i64>| number.map(|number| Box::new(number) as Box<dyn ToSql>);
        and("rule =", text(&self.rule));
        and("sink =", text(&self.sink));
        and("target =", text(&self.target));
        and("pipeline =", text(&self.pipeline.as_ref().map(PipelineId::to_string)));
        and("id =", number(self.id));
        and("id >", number(self.after_id));
        and("id <=", number(self.to_id));
        and("event_ms >=", number(self.from_ms));
        and("event_ms <", number(self.to_ms));
        (sql, values)
    }
}

impl DeliveryStore {
    /// The letters that `filter` means, oldest first, at most `limit` (and [`LETTERS_MAX`]).
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn letters(&self, filter: LetterFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(move |connection| {
            let (conditions, values) = filter.sql();
            let limit = limit.min(LETTERS_MAX);
            let sql = format!("SELECT {COLUMNS} FROM dead_letters{conditions} ORDER BY id LIMIT {limit}");
            let mut statement = connection.prepare_cached(&sql)?;
            let values = rusqlite::params_from_iter(values.iter().map(|value| &**value));
            statement.query_map(values, letter)?.collect()
        })
        .await
    }

    /// The letter with the number `id`.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = ?1");
            connection.prepare_cached(&sql)?.query_row([id], letter).optional()
        })
        .await
    }

    /// How many letters `filter` means.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn count_letters(&self, filter: LetterFilter) -> Result<u64, StoreError> {
        self.read(move |connection| {
            let (conditions, values) = filter.sql();
            let values = rusqlite::params_from_iter(values.iter().map(|value| &**value));
            let sql = format!("SELECT count(*) FROM dead_letters{conditions}");
            connection.prepare_cached(&sql)?.query_row(values, |row| Ok(uint(row.get(0)?)))
        })
        .await
    }

    /// Discards the letters that `filter` means; how many there were. The books still count them as dead.
    ///
    /// # Errors
    /// When nothing was discarded.
    pub async fn discard_letters(&self, filter: LetterFilter) -> Result<u64, StoreError> {
        self.read(move |connection| {
            let (conditions, values) = filter.sql();
            let values = rusqlite::params_from_iter(values.iter().map(|value| &**value));
            let sql = format!("DELETE FROM dead_letters{conditions}");
            Ok(connection.prepare_cached(&sql)?.execute(values)? as u64)
        })
        .await
    }

    /// Writes letters before the target commits the checkpoint that counts them.
    ///
    /// # Errors
    /// When none was written.
    pub(crate) async fn put_letters(
        &self,
        pipeline: &std::sync::Arc<PipelineId>,
        letters: Vec<NewLetter>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let id = pipeline.clone();
        let write =
            move |connection: &Connection| put(connection, &id, &letters, now_ms).map(Verdict::Commit);
        Ok(self.database.run(write).await?)
    }

    /// Takes back the letters at or after `cursor`: the checkpoint that would count them was never committed, and
    /// their rows will come again.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) async fn forget_letters(
        &self,
        pipeline: &PipelineId,
        log_id: u128,
        cursor: Cursor,
    ) -> Result<u64, StoreError> {
        let key = pipeline.to_string();
        self.read(move |connection| {
            let sql = "DELETE FROM dead_letters WHERE pipeline = ?1 AND log_id = ?2 \
                       AND (event_offset > ?3 OR (event_offset = ?3 AND event_row >= ?4))";
            let values = params![key, log_id.to_be_bytes(), int(cursor.offset), cursor.row];
            Ok(connection.prepare_cached(sql)?.execute(values)? as u64)
        })
        .await
    }
}

const COLUMNS: &str = "id, rule, sink, target, rule_version, log_id, event_offset, event_row, event_id, event_ms, \
                       attempts, reason, row_json, event_kind, event_topic, event_body, created_ms, \
                       pipeline";

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        pipeline: PipelineId::of_key(row.get(1)?, row.get(2)?, row.get(3)?, &row.get::<_, String>(17)?),
        rule_version: row.get(4)?,
        log_id: u128::from_be_bytes(row.get(5)?),
        cursor: Cursor { offset: uint(row.get(6)?), row: row.get(7)? },
        event_id: row.get(8)?,
        event_ms: row.get(9)?,
        attempts: row.get(10)?,
        reason: row.get(11)?,
        row_json: row.get(12)?,
        event_kind: row.get(13)?,
        event_topic: row.get(14)?,
        event_body: row.get::<_, Vec<u8>>(15)?.into(),
        created_ms: row.get(16)?,
    })
}

/// A letter that is there already (the target's commit failed, and the batch came again) is brought up to date.
pub(super) fn put(
    connection: &Connection,
    id: &PipelineId,
    letters: &[NewLetter],
    now_ms: i64,
) -> rusqlite::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO dead_letters (pipeline, rule, sink, target, rule_version, log_id, event_offset, event_row, \
               event_id, event_ms, attempts, reason, row_json, event_kind, event_topic, event_body, created_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) \
               ON CONFLICT (pipeline, log_id, event_offset, event_row) DO UPDATE SET \
               attempts = excluded.attempts, reason = excluded.reason, rule_version = excluded.rule_version, \
               row_json = excluded.row_json";
    let mut statement = connection.prepare_cached(sql)?;
    let key = id.to_string();
    for letter in letters {
        let (kind, topic, body) = &letter.event;
        statement.execute(params![
            key,
            id.rule,
            id.sink,
            id.target,
            letter.rule_version,
            letter.log_id.to_be_bytes(),
            int(letter.cursor.offset),
            letter.cursor.row,
            letter.event_id,
            letter.event_ms,
            letter.attempts,
            letter.reason,
            letter.row_json,
            kind,
            topic,
            &body[..],
            now_ms
        ])?;
    }
    Ok(())
}
