//! What PostgreSQL's answers mean to delivery: by SQLSTATE, since messages are translated and change. It must never
//! repeat a value of a row, except as the reason of a dead letter.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use crate::error::{ErrorKind, SinkError};

/// How much of the server's words is kept as a dead letter's reason.
const REASON_CHARS_MAX: usize = 300;

/// What went wrong with a batch.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refuses a row, and here is why.
    Row(String),
    /// Anything else; the connection is not to be used any more.
    Sink(SinkError),
}

impl From<SinkError> for Trouble {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

/// The server's words without the values that it may quote.
#[derive(Debug, thiserror::Error)]
#[error("{message} (SQLSTATE {code})")]
struct Answer {
    message: String,
    code: String,
}

/// What `error` means for a row or a batch that was being written.
pub(super) fn trouble(doing: &'static str, error: Error) -> Trouble {
    match error.as_db_error() {
        Some(answer) if is_about_a_row(answer.code().code()) => Trouble::Row(reason(answer)),
        _ => Trouble::Sink(sink_error(doing, error)),
    }
}

/// What `error` means where no row is in question.
pub(super) fn sink_error(doing: &'static str, error: Error) -> SinkError {
    let Some(answer) = error.as_db_error() else { return no_answer(doing, error) };
    let code = answer.code().code();
    let (kind, hint) = meaning(code, answer.message());
    let cause = Answer { message: answer.message().to_owned(), code: code.to_owned() };
    let error = SinkError::new(kind, format!("PostgreSQL refused while {doing}")).caused_by(cause);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// An error of the connection.
fn no_answer(doing: &'static str, error: Error) -> SinkError {
    let words = error.to_string();
    let mut cause = error.source();
    let mut io = None;
    while let Some(error) = cause {
        io = io.or_else(|| error.downcast_ref::<std::io::Error>());
        cause = error.source();
    }
    let message = format!("no answer from PostgreSQL while {doing}");
    // A line that was cut in the middle of a handshake is an error of the socket, a certificate is one of the data.
    let handshake = words.contains("TLS")
        && io.is_none_or(|io| {
            matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput)
        });
    if handshake {
        return SinkError::misconfigured(message)
            .caused_by(error)
            .with_hint("see that `sslmode`, `sslrootcert` and the host's name fit the server's certificate");
    }
    if words.contains("configuration") || words.contains("authentication") {
        return SinkError::misconfigured(message)
            .caused_by(error)
            .with_hint("see that the user and the password in the sink's options are right");
    }
    SinkError::unavailable(message).caused_by(error)
}

/// Whether the code judges the rows that were sent: bad data, a broken constraint, a trigger that says no.
fn is_about_a_row(code: &str) -> bool {
    // An undefined function in a trigger, say, would be a 42; it refuses every row and is the operator's to mend.
    ["09", "21", "22", "23", "27", "38", "44", "45", "54", "P0"].iter().any(|class| code.starts_with(class))
}

fn meaning(code: &str, message: &str) -> (ErrorKind, Option<&'static str>) {
    use ErrorKind::{Misconfigured, RejectedBatch, Unavailable};
    match code {
        "28P01" => (Misconfigured, Some("the password is wrong: correct `password` or `url`")),
        "28000" if message.contains("no pg_hba.conf entry") => (
            Misconfigured,
            Some("the server does not let this user in from here: see its pg_hba.conf, and `sslmode`"),
        ),
        "28000" => {
            (Misconfigured, Some("the server does not let this user in: see `user` and its pg_hba.conf"))
        }
        "3D000" => (Misconfigured, Some("the database does not exist: create it or correct the name")),
        "3F000" => (Misconfigured, Some("the schema does not exist: create it or correct `schema`")),
        "42501" => (Misconfigured, Some("a right is missing: GRANT it to the sink's user")),
        "42P01" => (Misconfigured, Some("a table is missing: create it, or run `muster migrate`")),
        "42P10" => (
            Misconfigured,
            Some("the table needs a unique index on exactly the columns that `key.TABLE` names"),
        ),
        "25006" => (Unavailable, Some("the server takes no writes; is it a standby?")),
        "57014" => {
            (Unavailable, Some("the server was too slow or waited for a lock; see `statement_timeout_ms`"))
        }
        "53100" => {
            (Unavailable, Some("the server's disk is full; make room, and delivery goes on by itself"))
        }
        "53300" => (Unavailable, Some("the server has too many connections; raise max_connections")),
        "55P03" => (Unavailable, None),
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => (Unavailable, None),
            _ if is_about_a_row(code) => (RejectedBatch, None),
            _ => (Misconfigured, Some("see that the table and the rights in the database fit the rule")),
        },
    }
}

/// Why a row was refused. The server's detail is kept only where it names a key, not where it repeats the row.
fn reason(answer: &DbError) -> String {
    let mut words = format!("{} (SQLSTATE {}", answer.message(), answer.code().code());
    if let Some(column) = answer.column() {
        words += &format!(", column `{column}`");
    }
    words.push(')');
    if let Some(detail) = answer.detail().filter(|detail| detail.starts_with("Key ")) {
        words = format!("{words}: {detail}");
    }
    match words.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => words[..end].to_owned() + "...",
        None => words,
    }
}
