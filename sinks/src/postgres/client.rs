//! One connection. Dropping it closes its socket at once, so that nothing of an attempt that was given up can still be
//! asked for. It must never know rows or tables.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage, Statement};

use super::config::Server;
use super::error::{Trouble, sink_error, trouble};
use super::tls;
use crate::error::SinkError;

/// How much longer than `statement_timeout_ms` an answer is waited for, so that the server's own word comes first.
const GRACE: Duration = Duration::from_secs(5);
/// Prepared statements kept; rules that make ever new columns must not fill the server's memory.
const STATEMENTS_MAX: usize = 64;
/// How often the server looks whether we are still there while it works for us.
const STILL_THERE_MS: u32 = 5_000;

pub(super) struct Connection {
    client: Client,
    socket: JoinHandle<()>,
    patience: Duration,
    statements: HashMap<String, Statement>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ended in order, it would first do what it was asked for.
        self.socket.abort();
    }
}

impl Connection {
    /// Connects and sets up the session.
    pub(super) async fn open(server: &Server) -> Result<Self, SinkError> {
        let doing = "connecting";
        let connecting = server.config.connect(tls::connector(server)?);
        let connected = tokio::time::timeout(server.connect_timeout, connecting).await;
        let (client, socket) = connected
            .map_err(|_| SinkError::unavailable(format!("{} did not answer in time", server.shown)))?
            .map_err(|error| unreachable(server, sink_error(doing, error)))?;
        let socket = tokio::spawn(async move {
            if let Err(error) = socket.await {
                tracing::debug!(error = crate::error::in_words(&error), "a connection to PostgreSQL ended");
            }
        });
        let patience = server.statement_timeout + GRACE;
        let connection = Self { client, socket, patience, statements: HashMap::new() };
        connection.set_up(server).await?;
        Ok(connection)
    }

    async fn set_up(&self, server: &Server) -> Result<(), SinkError> {
        let timeout_ms = server.statement_timeout.as_millis();
        // A server that was told to confirm commits before they are on its disk is told otherwise: the cursor moves
        // on its word. A transaction that we left behind must not hold its locks for ever.
        let mut session = format!(
            "SET statement_timeout = {timeout_ms}; SET idle_in_transaction_session_timeout = {timeout_ms}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        );
        if let Some(schema) = &server.schema {
            session += &format!("; SET search_path TO {}, public", quote(schema));
        }
        self.batch("setting up the session", &session).await.map_err(outside)?;
        // Not on every system; and only a shortcut to noticing that we are gone.
        let sql = format!(
            "SELECT set_config(name, '{STILL_THERE_MS}', false) FROM pg_settings \
             WHERE name = 'client_connection_check_interval'"
        );
        match self.batch("setting up the session", &sql).await {
            Err(Trouble::Sink(error)) if self.client.is_closed() => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Statements without parameters, separated by `;`; how many rows they wrote.
    pub(super) async fn batch(&self, doing: &'static str, sql: &str) -> Result<u64, Trouble> {
        let answers = self.within(doing, self.client.simple_query(sql)).await?;
        let rows = answers.iter().map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(rows) => *rows,
            _ => 0,
        });
        Ok(rows.sum())
    }

    /// The statement prepared, once a session.
    pub(super) async fn prepared(&mut self, doing: &'static str, sql: &str) -> Result<Statement, Trouble> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.within(doing, self.client.prepare(sql)).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Forgets prepared statements: the tables that they name have changed.
    pub(super) fn forget(&mut self) {
        self.statements.clear();
    }

    pub(super) async fn query(
        &self,
        doing: &'static str,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        self.within(doing, self.client.query(statement, parameters)).await
    }

    pub(super) async fn execute(
        &self,
        doing: &'static str,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Trouble> {
        self.within(doing, self.client.execute(statement, parameters)).await
    }

    /// Asks once, without preparing.
    pub(super) async fn ask(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SinkError> {
        self.within(doing, self.client.query(sql, parameters)).await.map_err(outside)
    }

    /// `COPY ... FROM STDIN` of `pieces`; how many rows the server took.
    pub(super) async fn copy(
        &self,
        doing: &'static str,
        statement: &Statement,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<u64, Trouble> {
        let copying = async {
            let mut sink = std::pin::pin!(self.client.copy_in(statement).await?);
            for piece in pieces {
                sink.feed(piece).await?;
            }
            sink.finish().await
        };
        self.within(doing, copying).await
    }

    async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(answer) => answer.map_err(|error| trouble(doing, error)),
            Err(_) => {
                let message = format!("PostgreSQL did not answer in time while {doing}");
                Err(Trouble::Sink(SinkError::unavailable(message)))
            }
        }
    }
}

/// What went wrong where no row of ours is in question.
pub(super) fn outside(trouble: Trouble) -> SinkError {
    match trouble {
        Trouble::Sink(error) => error,
        Trouble::Row(reason) => SinkError::misconfigured(format!("PostgreSQL refused: {reason}")),
    }
}

fn unreachable(server: &Server, error: SinkError) -> SinkError {
    let hint = error.hint().to_owned();
    SinkError::new(error.kind(), format!("cannot connect to {}", server.shown))
        .caused_by(error)
        .with_hint(hint)
}

/// A name, quoted.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
