//! What the tests must know of a target: what its example asks of the environment, and how its tables and queries are
//! read. It must never know what should be in them.

use std::ops::Range;
use std::path::PathBuf;

use jiff::Timestamp;
use muster_tests::{Home, Muster, PATIENCE, tools, until};

use crate::common::pipelines;

/// The rows of an answer, each cell as text; times in milliseconds since 1970, no value as the empty text.
pub(super) type Rows = Vec<Vec<String>>;

/// The questions that each target has a query for.
pub(super) const QUERIES: [&str; 3] = ["offline", "uptime", "flapping"];

/// What a question is about, in place of `meter-1` and the last seven days.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) client: String,
    pub(super) since_ms: i64,
    pub(super) until_ms: i64,
}

/// A target, with its server.
pub(super) trait Store {
    /// Its folder in `examples/rules` and in `examples/queries`.
    const NAME: &'static str;

    /// What the example's file takes from the environment.
    fn environment(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Whether `muster migrate` has something to do there.
    const MIGRATES: bool = true;

    /// The answer to one of [`QUERIES`]: clients, milliseconds and counts, as [`super::expected`] has them. None where
    /// a program is missing that this takes.
    async fn answer(&self, home: &Home, query: &str, asked: &Asked) -> Option<Rows>;

    /// The same of the query as it is shipped, to the letter: about `meter-1` and [`Self::SHIPPED_MS`].
    async fn shipped(&self, home: &Home, query: &str) -> Option<Rows>;

    /// What lies between the moments that the queries ask about as they are shipped: the last seven days, which hold
    /// all that a test does, unless they name dates.
    const SHIPPED_MS: Range<i64> = 0..i64::MAX;

    /// Columns of all rows of a table.
    async fn rows(&self, home: &Home, table: &str, columns: &[&str]) -> Rows;
}

fn examples() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"))
}

/// The example's rules.
pub(super) fn rules<S: Store>() -> String {
    let file = examples().join("rules").join(S::NAME).join("devices.sql");
    std::fs::read_to_string(file).expect("the example")
}

/// The file of a query.
pub(super) fn query_file<S: Store>(name: &str, extension: &str) -> PathBuf {
    examples().join("queries").join(S::NAME).join(format!("{name}.{extension}"))
}

/// A query of the examples, with some of its words replaced, all of which must stand there.
pub(super) fn query<S: Store>(name: &str, extension: &str, words: &[(&str, &str)]) -> String {
    let file = query_file::<S>(name, extension);
    let mut text = std::fs::read_to_string(&file).expect("the query");
    for (word, instead) in words {
        assert!(name == "offline" || text.contains(word), "{} has no {word}", file.display());
        text = text.replace(word, instead);
    }
    text
}

/// A query of the examples as it is shipped.
pub(super) fn shipped<S: Store>(name: &str, extension: &str) -> String {
    query::<S>(name, extension, &[])
}

/// Answers of a database that shows times as text and durations in seconds, as [`Store::answer`] has them.
pub(super) fn as_answers(query: &str, rows: Rows, ms: impl Fn(&str) -> i64) -> Rows {
    let told = |mut row: Vec<String>| {
        match query {
            "offline" => row[1] = ms(&row[1]).to_string(),
            "uptime" => row[1] = format!("{:.0}", row[1].parse::<f64>().expect("seconds") * 1_000.0),
            _ => {}
        }
        row.truncate(if query == "offline" { 3 } else { 2 });
        row
    };
    rows.into_iter().map(told).collect()
}

/// A time as RFC 3339 has it.
pub(super) fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).expect("a time").to_string()
}

/// Takes the steps of the example's sink.
pub(super) async fn migrate<S: Store>(home: &Home, store: &S) {
    if S::MIGRATES {
        let mut command = home.command(&["migrate", "--sink", "devices"]);
        tools::run(command.envs(store.environment())).await;
    }
}

/// `muster run`, with what the example takes from the environment.
pub(super) async fn start<S: Store>(home: &Home, store: &S) -> Muster {
    let arguments =
        ["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--set", "delivery.retry_wait_max=300ms"];
    let mut command = home.command(&arguments);
    command.envs(store.environment());
    Muster::start(command).await
}

/// Waits until everything in the log is in the tables.
pub(super) async fn until_told(muster: &Muster) {
    until("everything is delivered", PATIENCE, async || {
        let all = pipelines(muster).await;
        all.iter().all(|it| it["pending"] == 0 && it["lag_events"] == 0 && it["dead"] == 0).then_some(())
    })
    .await;
}
