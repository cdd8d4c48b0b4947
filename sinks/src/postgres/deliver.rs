//! A batch as one transaction: the pipeline's row is locked and looked at first, then come the rows, the checkpoint,
//! and the commit. What is asked for after the lock can never stand beside another attempt's.

use muster_core::value::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row as Answer, Statement};

use super::catalog::Table;
use super::client::{Connection, outside};
use super::config::Config;
use super::error::Trouble;
use super::hint::create_table;
use super::load::{self, Into, Load};
use super::rows::{Refused, entries};
use super::upsert::Conflict;
use crate::delivery::{int, uint};
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, Checkpoint, Cursor, PipelineId, Totals};

/// Where the checkpoints stand; also the first step of `muster migrate`.
pub(super) const BOOKKEEPING: &str = include_str!("../../../migrations/postgres/0001_bookkeeping.sql");
/// Two pipelines that make the bookkeeping at once would meet; any number that nobody else uses.
pub(super) const LOCK_NUMBER: i64 = 0x6d75_7374_6572;

const TAKE_OVER: &str = "\
INSERT INTO _muster_pipelines AS p (pipeline, epoch, updated_at) VALUES ($1, 1, now()) \
ON CONFLICT (pipeline) DO UPDATE SET epoch = p.epoch + 1, updated_at = now() \
RETURNING epoch, log_id, cursor_offset, cursor_row, matched, delivered, dead";

const LOCK: &str = "\
SELECT epoch, log_id, cursor_offset, cursor_row, matched, delivered, dead, \
  (SELECT c.xmin::text FROM pg_class c WHERE c.oid = $2) \
FROM _muster_pipelines WHERE pipeline = $1 FOR UPDATE";

const MARK: &str = "\
UPDATE _muster_pipelines SET log_id = $3, cursor_offset = $4, cursor_row = $5, matched = $6, delivered = $7, \
  dead = $8, updated_at = now() WHERE pipeline = $1 AND epoch = $2";

/// Whatever the database's defaults are; and a constraint that waits for the commit could not name its row.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET CONSTRAINTS ALL IMMEDIATE";

/// What came of a batch.
#[derive(Debug)]
pub(super) enum Written {
    /// Rows and checkpoint are there.
    All,
    /// Nothing is there; why each row was refused, if it was.
    Refused(Vec<Option<String>>),
    /// Nothing is there; somebody else owns the pipeline.
    Fenced,
    /// Nothing is there: the table is not what it was when it was looked at.
    Changed,
}

/// A connection, and what is known of the table.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// The table, what it does about rows that are there, and the name of its staging table.
    table: Option<(Table, Conflict, String)>,
    stages: u32,
    /// Whether the newest of them is there.
    stage_made: bool,
    /// Rows come that are there already: each goes by way of the staging table.
    repeating: bool,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, table: None, stages: 0, stage_made: false, repeating: false }
    }

    /// Takes the pipeline over: whoever had it cannot write any more, and what it had under way is done or gone by
    /// then. Answers with the new epoch and what was committed.
    pub(super) async fn take_over(
        &mut self,
        pipeline: &PipelineId,
    ) -> Result<(i64, Option<Checkpoint>), SinkError> {
        let doing = "taking the pipeline over";
        let there = "SELECT to_regclass('_muster_pipelines') IS NOT NULL";
        let there = self.connection.ask(doing, there, &[]).await?;
        if !there.first().is_some_and(|row| row.get(0)) {
            let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_NUMBER}); {BOOKKEEPING}; COMMIT");
            self.connection.batch("making the table _muster_pipelines", &sql).await.map_err(outside)?;
        }
        let taken = self.connection.ask(doing, TAKE_OVER, &[&pipeline.to_string()]).await?;
        let taken = taken.first().ok_or_else(|| SinkError::unavailable("PostgreSQL gave no epoch"))?;
        Ok((taken.get(0), checkpoint(taken)))
    }

    /// Writes the rows and the checkpoint, or nothing. After an error the session is not to be used any more.
    pub(super) async fn deliver(
        &mut self,
        config: &Config,
        batch: &Batch,
        epoch: i64,
    ) -> Result<Written, SinkError> {
        if batch.is_empty() {
            return self.transaction(batch, epoch, None).await.map_err(outside);
        }
        let known = self.table.is_some();
        match self.attempt(config, batch, epoch, false).await {
            Ok(Written::Changed) => {}
            // A column may have come since.
            Ok(Written::Refused(_)) if known => {}
            Ok(written) => return Ok(written),
            Err(Trouble::Row(_)) => {
                self.connection.batch("taking a batch back", "ROLLBACK").await.map_err(outside)?;
                self.forget_table();
                return self.find_refused(config, batch, epoch).await;
            }
            // A column may have gone since.
            Err(Trouble::Sink(error)) if known && error.kind() == ErrorKind::Misconfigured => {
                self.connection.batch("taking a batch back", "ROLLBACK").await.map_err(outside)?;
            }
            Err(Trouble::Sink(error)) => return Err(error),
        }
        self.forget_table();
        match self.attempt(config, batch, epoch, false).await {
            Ok(Written::Changed) => Err(SinkError::unavailable("the table is being changed")),
            Ok(written) => Ok(written),
            Err(Trouble::Row(_)) => {
                self.connection.batch("taking a batch back", "ROLLBACK").await.map_err(outside)?;
                self.find_refused(config, batch, epoch).await
            }
            Err(Trouble::Sink(error)) => Err(error),
        }
    }

    async fn find_refused(
        &mut self,
        config: &Config,
        batch: &Batch,
        epoch: i64,
    ) -> Result<Written, SinkError> {
        match self.attempt(config, batch, epoch, true).await {
            Ok(Written::Changed) => Err(SinkError::unavailable("the table is being changed")),
            Ok(written) => Ok(written),
            // Not even the staging table takes it; then the engine finds the row.
            Err(Trouble::Row(reason)) => Err(SinkError::new(ErrorKind::RejectedBatch, reason)),
            Err(Trouble::Sink(error)) => Err(error),
        }
    }

    /// One try with the table as it is known, which is looked at where it is not.
    async fn attempt(
        &mut self,
        config: &Config,
        batch: &Batch,
        epoch: i64,
        careful: bool,
    ) -> Result<Written, Trouble> {
        let (table, conflict, stage) = match self.table.take() {
            Some(known) => known,
            None => self.look(config, batch).await?,
        };
        let replaces = matches!(conflict, Conflict::Newest { .. });
        let staged = careful || self.repeating || replaces || table.no_copy || as_text(&table, batch);
        let mut refused = Refused::none(batch.len());
        let entries = entries(&table, &conflict, batch, !careful, &mut refused);
        let load = load::encode(&table, &conflict, entries, (staged, careful), &mut refused);
        let written = if refused.any() {
            Ok(Written::Refused(refused.into_reasons()))
        } else {
            let into = Into { table: &table, conflict: &conflict, stage: &stage };
            self.transaction(batch, epoch, Some((&load, into, careful))).await
        };
        self.table = Some((table, conflict, stage));
        written
    }

    /// Looks at the table.
    async fn look(&mut self, config: &Config, batch: &Batch) -> Result<(Table, Conflict, String), SinkError> {
        let Config { server, table: name, upsert } = config;
        let table = Table::read(&self.connection, server.schema.as_deref(), name).await?;
        let Some(table) = table else {
            let create = create_table(&in_schema(config), upsert.as_ref(), batch);
            return Err(missing(config).with_hint(format!(
                "run `muster migrate` if it is one of Muster's own tables, or create it, e.g. {create}"
            )));
        };
        let conflict = Conflict::of(&table, upsert.as_ref())?;
        self.stages += 1;
        self.stage_made = false;
        let stage = format!("pg_temp._muster_stage_{}", self.stages);
        Ok((table, conflict, stage))
    }

    fn forget_table(&mut self) {
        self.table = None;
        self.connection.forget();
    }

    async fn transaction(
        &mut self,
        batch: &Batch,
        epoch: i64,
        load: Option<(&Load, Into<'_>, bool)>,
    ) -> Result<Written, Trouble> {
        let doing = "locking the pipeline";
        let connection = &mut self.connection;
        let (lock, mark) = (connection.prepared(doing, LOCK).await?, connection.prepared(doing, MARK).await?);
        if let Some((_, into, _)) = load.as_ref().filter(|(load, ..)| load.staged() && !self.stage_made) {
            connection.batch("making a staging table", &into.create_stage()).await?;
            self.stage_made = true;
        }
        let pipeline = batch.pipeline.to_string();
        let oid = load.as_ref().map_or(0, |(_, into, _)| into.table.oid);
        let parameters: &[&(dyn ToSql + Sync)] = &[&pipeline, &oid];
        let (begun, locked) =
            tokio::join!(connection.batch(doing, BEGIN), connection.query(doing, &lock, parameters));
        begun?;
        let locked = locked?;
        let ours = locked.first().filter(|row| row.get::<_, i64>(0) == epoch);
        let Some(ours) = ours else { return take_back(connection, Written::Fenced).await };
        if !batch.is_empty() && checkpoint(ours) == Some(batch.after) {
            // It was committed, and only the answer was lost.
            return take_back(connection, Written::All).await;
        }
        if let Some((load, into, careful)) = load {
            if ours.get::<_, Option<&str>>(7) != Some(&into.table.stamp) {
                return take_back(connection, Written::Changed).await;
            }
            let taken = if careful {
                let mut refused = Refused::none(batch.len());
                let taken = load.hunt(connection, &into, &mut refused).await?;
                if refused.any() {
                    return take_back(connection, Written::Refused(refused.into_reasons())).await;
                }
                taken
            } else {
                load.send(connection, &into).await?
            };
            self.repeating = matches!(into.conflict, Conflict::Once(_)) && taken < load.rows();
        }
        self.commit(batch, epoch, &pipeline, &mark).await
    }

    async fn commit(
        &mut self,
        batch: &Batch,
        epoch: i64,
        pipeline: &String,
        mark: &Statement,
    ) -> Result<Written, Trouble> {
        let doing = "committing";
        let Checkpoint { log_id, cursor, totals } = batch.after;
        let log_id: &[u8] = &log_id.to_be_bytes();
        let (offset, row) = (int(cursor.offset), i64::from(cursor.row));
        let (matched, delivered, dead) = (int(totals.matched), int(totals.delivered), int(totals.dead));
        // The lock is ours, so the commit need not wait for the answer to the update: without it, nothing is committed.
        let parameters: &[&(dyn ToSql + Sync)] =
            &[pipeline, &epoch, &log_id, &offset, &row, &matched, &delivered, &dead];
        let (marked, committed) = tokio::join!(
            self.connection.execute(doing, mark, parameters),
            self.connection.batch(doing, "COMMIT")
        );
        marked?;
        committed?;
        Ok(Written::All)
    }
}

async fn take_back(connection: &Connection, answer: Written) -> Result<Written, Trouble> {
    connection.batch("taking a batch back", "ROLLBACK").await?;
    Ok(answer)
}

/// Whether a row has a value for a column that only PostgreSQL can read from text.
fn as_text(table: &Table, batch: &Batch) -> bool {
    if !table.columns.iter().any(|column| column.kind == super::encode::Kind::AsText) {
        return false;
    }
    let wanted = |row: &Row| {
        let mut columns = row.keys().filter_map(|name| table.find(name));
        columns.any(|at| table.columns[at].kind == super::encode::Kind::AsText)
    };
    batch.rows().any(|row| wanted(&row.row))
}

/// The table does not exist.
pub(super) fn missing(config: &Config) -> SinkError {
    SinkError::misconfigured(format!(
        "the table {} does not exist in {}",
        in_schema(config),
        config.server.shown
    ))
}

fn in_schema(config: &Config) -> String {
    let name = super::client::quote(&config.table);
    match &config.server.schema {
        Some(schema) => format!("{}.{name}", super::client::quote(schema)),
        None => name,
    }
}

/// What a row of the bookkeeping says, after its epoch.
fn checkpoint(row: &Answer) -> Option<Checkpoint> {
    let log_id: Option<&[u8]> = row.get(1);
    let number = |at: usize| uint(row.get::<_, Option<i64>>(at).unwrap_or(0));
    Some(Checkpoint {
        log_id: u128::from_be_bytes(log_id?.try_into().ok()?),
        cursor: Cursor { offset: number(2), row: u32::try_from(number(3)).unwrap_or(0) },
        totals: Totals { matched: number(4), delivered: number(5), dead: number(6) },
    })
}
