//! What ClickHouse's error codes mean to delivery. It must never know a connection.

use std::time::Duration;

use reqwest::StatusCode;

use crate::error::{ErrorKind, SinkError};

/// How much of an answer's text is kept as the reason.
const REASON_CHARS_MAX: usize = 300;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    /// Who answered, without credentials.
    pub(super) server: &'a str,
    pub(super) status: StatusCode,
    /// Of `X-ClickHouse-Exception-Code`; none from servers before 20, and from others than ClickHouse.
    pub(super) code: Option<u32>,
    pub(super) retry_after: Option<Duration>,
    pub(super) text: &'a str,
}

/// The code that the text of an answer begins with: `Code: 60. DB::Exception: ...`.
pub(super) fn code_in(text: &str) -> Option<u32> {
    let digits = text.trim_start().strip_prefix("Code: ")?;
    let end = digits.find(|byte: char| !byte.is_ascii_digit())?;
    digits.get(..end)?.parse().ok()
}

impl Refusal<'_> {
    pub(super) fn into_error(self) -> SinkError {
        match self.code {
            Some(code) => self.by_code(code),
            None => self.by_status(),
        }
    }

    fn by_code(&self, code: u32) -> SinkError {
        let (mut kind, hint) = meaning(code);
        // One INSERT may reach so many partitions only; halves of it reach fewer.
        if code == 252 && self.text.contains("single INSERT block") {
            kind = ErrorKind::RejectedBatch;
        }
        if let ErrorKind::Throttled { retry_after } = &mut kind {
            *retry_after = self.retry_after;
        }
        // The text may repeat a row; only a dead letter, which holds the row anyway, keeps it. What is said of tables
        // and users holds none.
        let words = match kind {
            ErrorKind::RejectedBatch | ErrorKind::Misconfigured => reason(self.text),
            _ => name(self.text).to_owned(),
        };
        let error = SinkError::new(kind, format!("{} answered with error {code}: {words}", self.server));
        if hint.is_empty() { error } else { error.with_hint(hint) }
    }

    /// Somebody in between, such as a proxy; or a server that is too busy to say more.
    fn by_status(&self) -> SinkError {
        let retry_after = self.retry_after;
        let kind = match self.status.as_u16() {
            429 | 503 => ErrorKind::Throttled { retry_after },
            401 | 403 | 404 | 405 | 407 | 301..=399 => ErrorKind::Misconfigured,
            _ => ErrorKind::Unavailable,
        };
        let error = SinkError::new(kind, format!("{} answered {}", self.server, self.status));
        match kind {
            ErrorKind::Misconfigured => {
                error.with_hint("see that `url` is ClickHouse's HTTP interface (port 8123, or 8443 with TLS)")
            }
            _ => error,
        }
    }
}

/// The table of codes. One that is not in it is tried again: that loses nothing, while a row that is set aside for a
/// server's trouble is a row that is missing.
fn meaning(code: u32) -> (ErrorKind, &'static str) {
    use ErrorKind::{Misconfigured, RejectedBatch, Unavailable};
    let throttled = ErrorKind::Throttled { retry_after: None };
    match code {
        // Text, numbers, dates, JSON and enums that cannot be read, values out of range, constraints.
        6 | 25 | 26 | 27 | 38 | 41 | 53 | 69 | 70 | 72 | 117 | 130 | 131 | 321 | 349 | 376 | 407 | 441
        | 467 | 469 | 564 | 675 | 676 | 691 => (RejectedBatch, ""),
        // A column or a type is not what it was when the table was looked at; the next attempt looks again.
        7 | 8 | 10 | 16 | 20 | 44 | 47 => (
            Unavailable,
            "the table is being changed; if this stays, look at its columns \
             and at the materialized views that read it",
        ),
        60 | 218 => (Misconfigured, "create the table, or run `muster migrate` for ours"),
        81 => (Misconfigured, "create the database, or correct `database`"),
        192 | 193 | 194 | 516 => (Misconfigured, "correct the sink's `user` and `password`"),
        195 => (Misconfigured, "let the user connect from this address"),
        291 | 497 => (Misconfigured, "GRANT INSERT, SELECT on the table to the sink's user"),
        115 => (Misconfigured, "the server does not know a setting: correct `setting.NAME`"),
        164 | 452 => {
            (Misconfigured, "the user's profile forbids writing or changing settings; give it another")
        }
        // Syntax, formats, engines that take no INSERT.
        48 | 62 | 73 | 85 | 344 => (Misconfigured, "see that the target is a table that takes INSERTs"),
        202 | 252 | 241 | 201 | 692 => (
            throttled,
            match code {
                252 => "the table has too many parts: raise `batch_wait_ms`, or let merges catch up",
                241 => "the server is out of memory: lower `batch_rows`, or give it more",
                _ => "the server asks for less; raise `batch_wait_ms`",
            },
        ),
        242 => (Unavailable, "the table is read-only now: its replica has lost its Keeper"),
        243 => (Unavailable, "the server's disk is full; make room, and delivery goes on by itself"),
        _ => (Unavailable, ""),
    }
}

/// The first line of a text, without what only ClickHouse's developers need.
fn reason(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let line = line.split_once("DB::Exception: ").map_or(line, |(_, words)| words);
    let line = line.split_once(", e.what()").map_or(line, |(words, _)| words);
    line.trim_end_matches([' ', ':']).chars().take(REASON_CHARS_MAX).collect()
}

/// The name of an error, which its text ends with: `... (UNKNOWN_TABLE) (version ...)`.
fn name(text: &str) -> &str {
    let names = text.rsplit('(').filter_map(|part| part.split_once(')').map(|(name, _)| name));
    let word =
        |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    names.into_iter().find(word).unwrap_or("of no name")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn codes_mean_what_the_table_says() {
        let mut said = String::new();
        let mut case = |status: u16, header: Option<u32>, text: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let code = header.or_else(|| code_in(text));
            let error =
                Refusal { server: "http://c:8123", status, code, retry_after: None, text }.into_error();
            said += &format!("{:?}: {error}\n", error.kind());
        };
        case(
            404,
            Some(60),
            "Code: 60. DB::Exception: Table d.t does not exist. (UNKNOWN_TABLE) (version 26.9.2.1)\n",
        );
        case(
            404,
            None,
            "Code: 81, e.displayText() = DB::Exception: Database nono doesn't exist, e.what() = DB::Exception",
        );
        case(
            401,
            None,
            "Code: 193, e.displayText() = DB::Exception: Wrong password for user muster, e.what() = DB::E",
        );
        let parse = "Code: 27. DB::Exception: Cannot parse input: expected '\"' before: 'x\"}': (at row 1)\n: While \
                     executing X. (CANNOT_PARSE_INPUT_ASSERTION_FAILED)";
        case(400, Some(27), parse);
        case(
            500,
            Some(241),
            "Code: 241. DB::Exception: (for row 'secret') too much (MEMORY_LIMIT_EXCEEDED) (version 1)",
        );
        case(
            500,
            Some(252),
            "Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100)",
        );
        case(
            500,
            Some(252),
            "Code: 252. DB::Exception: Too many parts (600). Merges are slower (TOO_MANY_PARTS)",
        );
        case(500, Some(243), "Code: 243. DB::Exception: Cannot reserve 1.00 MiB (NOT_ENOUGH_SPACE)");
        case(500, Some(99_999), "Code: 99999. DB::Exception: what is 'secret'?");
        case(502, None, "<html>Bad gateway</html>");
        case(503, None, "");
        case(404, None, "not found");
        expect![[r#"
            Misconfigured: http://c:8123 answered with error 60: Table d.t does not exist. (UNKNOWN_TABLE) (version 26.9.2.1)
            Misconfigured: http://c:8123 answered with error 81: Database nono doesn't exist
            Misconfigured: http://c:8123 answered with error 193: Wrong password for user muster
            RejectedBatch: http://c:8123 answered with error 27: Cannot parse input: expected '"' before: 'x"}': (at row 1)
            Throttled { retry_after: None }: http://c:8123 answered with error 241: MEMORY_LIMIT_EXCEEDED
            RejectedBatch: http://c:8123 answered with error 252: Too many partitions for single INSERT block (more than 100)
            Throttled { retry_after: None }: http://c:8123 answered with error 252: TOO_MANY_PARTS
            Unavailable: http://c:8123 answered with error 243: NOT_ENOUGH_SPACE
            Unavailable: http://c:8123 answered with error 99999: of no name
            Unavailable: http://c:8123 answered 502 Bad Gateway
            Throttled { retry_after: None }: http://c:8123 answered 503 Service Unavailable
            Misconfigured: http://c:8123 answered 404 Not Found
        "#]]
        .assert_eq(&said);
    }
}
