//! SQLite: rows and the checkpoint commit in one transaction of the target itself, so that no crash can part them.
//! All pipelines into one file share its writer thread.

mod config;
mod deliver;
mod encode;
mod retain;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::database::{Database, DatabaseError};
use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::{ErrorKind, SinkError};
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, RowOutcome, Sink};
use crate::upsert::{GUARD, KEY};

use config::{Config, Target};
use deliver::Written;
use retain::Memo;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "sqlite",
    summary: "a table in an SQLite file; `sqlite` (DATA/muster.db) exists without being declared",
    options: &[
        OptionSpec::new("path", Some("muster.db"), "the file; a relative path starts at the data directory"),
        OptionSpec::new(
            "synchronous",
            Some("full"),
            "`full`: a commit survives a power cut; `normal`: one may take back the last commits, rows and cursor \
             together, and they are delivered again",
        ),
        KEY,
        GUARD,
        OptionSpec::new("retain_days", None, "days after which rows are deleted, by their event's time"),
        OptionSpec::new(
            "retain_days.",
            None,
            "`retain_days.TABLE`: the same for one table; 0 keeps its rows for ever",
        ),
    ],
    example: "CREATE SINK archive TYPE sqlite WITH (path = 'archive.db');",
    page: "sinks/docs/sqlite.md",
    limits: Limits {
        batch_rows_max: 5_000,
        batch_bytes_max: 4 << 20,
        batch_wait: Duration::from_millis(20),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: None,
    build: |options, env| {
        let config = Config::parse(options, env)?;
        Ok(Box::new(Sqlite { config, env: env.clone(), open: None }))
    },
};

#[derive(Debug)]
struct Sqlite {
    config: Config,
    env: crate::registry::SinkEnv,
    open: Option<Open>,
}

/// The file, and the number under which this process owns the pipeline in it.
#[derive(Debug)]
struct Open {
    database: Database,
    epoch: i64,
    memo: Memo,
}

impl Sqlite {
    fn database(&self) -> Result<Database, SinkError> {
        let path = &self.config.path;
        self.env.databases.get(path, self.config.sync).map_err(|error| {
            SinkError::unavailable(format!("cannot start a thread for {}", path.display())).caused_by(error)
        })
    }
}

impl Sink for Sqlite {
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            let database = self.database()?;
            let id = pipeline.clone();
            let opened = database.run(move |connection| deliver::take_over(connection, &id)).await;
            let (epoch, checkpoint) = opened.map_err(sink_error)?;
            self.open = Some(Open { database, epoch, memo: Memo::default() });
            Ok(checkpoint.map_or(Memory::Fresh, Memory::At))
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let Some(Open { database, epoch, memo }) = &mut self.open else {
                return Err(SinkError::unavailable("the sink is not open"));
            };
            let (target, now_ms) = (self.config.target.clone(), self.env.clock.wall_ms());
            let (job, epoch, known) = (batch.clone(), *epoch, *memo);
            let write = move |connection: &_| deliver::write(connection, &target, &job, epoch, now_ms, known);
            match database.run(write).await.map_err(sink_error)? {
                Written::All { migrations, memo: now_known } => {
                    *memo = now_known;
                    Ok(Outcome::Durable(Durable::promise(batch).with_notes(migrations)))
                }
                Written::Refused(reasons) => {
                    Ok(Outcome::PerRow { rows: reasons.into_iter().map(outcome).collect(), error: None })
                }
                Written::Doubled => Err(doubled(&self.config.target)),
                Written::Fenced => {
                    let message = format!(
                        "another process writes {} into {}",
                        batch.pipeline,
                        self.config.path.display()
                    );
                    Err(SinkError::new(ErrorKind::Fenced, message))
                }
            }
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let target = self.config.target.clone();
            let checked = self.database()?.run(move |connection| deliver::check(connection, &target)).await;
            checked.map_err(sink_error)
        })
    }
}

/// What a table lacks that is to hold one row a key, and holds more.
fn doubled(target: &Target) -> SinkError {
    let key = target.upsert.as_ref().map(|upsert| upsert.key.join(", ")).unwrap_or_default();
    let table = &target.table;
    let message =
        format!("the table `{table}` is to hold one row for each `{key}`, but has several for some");
    SinkError::misconfigured(message)
        .with_hint("delete the older rows of each, or let the rule write into a table of another name")
}

fn outcome(refused: Option<String>) -> RowOutcome {
    match refused {
        Some(reason) => RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, reason)),
        None => RowOutcome::Untried,
    }
}

/// What an error of SQLite means to delivery.
fn sink_error(error: DatabaseError) -> SinkError {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, PermissionDenied, ReadOnly, Unknown,
    };
    let code = error.sqlite().and_then(rusqlite::Error::sqlite_error_code);
    let (kind, hint) = match code {
        Some(DiskFull) => {
            (ErrorKind::Unavailable, Some("the disk is full; make room, and delivery goes on by itself"))
        }
        Some(CannotOpen) => {
            (ErrorKind::Misconfigured, Some("see that the directory exists and may be written"))
        }
        Some(ReadOnly | PermissionDenied) => {
            (ErrorKind::Misconfigured, Some("let the user that runs Muster write the file and its directory"))
        }
        Some(NotADatabase | DatabaseCorrupt) => (
            ErrorKind::Fatal,
            Some("the file is damaged or no SQLite database; put it right or choose another, then resume"),
        ),
        // An SQL error: the table is a view, or is not what it was.
        Some(Unknown) => (
            ErrorKind::Misconfigured,
            Some("see that the target is a table with columns for the rule's names"),
        ),
        _ => (ErrorKind::Unavailable, None),
    };
    let sink_error = SinkError::new(kind, "SQLite failed").caused_by(error);
    match hint {
        Some(hint) => sink_error.with_hint(hint),
        None => sink_error,
    }
}
