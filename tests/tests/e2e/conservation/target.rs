//! What the oracle must know of a target: how rules name it, how it breaks, what it has. It must never know what the
//! oracle does with the answers.

use std::time::Duration;

use muster_test_servers::{Proxy, Server};
use serde_json::Value;

/// The table, topic or collection that the oracle's rule writes into.
pub(super) const TABLE: &str = "oracle";
/// What stands in the place of a number in a message that is to be refused.
pub(super) const POISON: &str = "poison";

/// A row that is in the target. It has the columns `client`, `n` and `v`; `v` is a number, and a text in rows that are
/// to be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    /// The client's name.
    pub(super) client: String,
    /// The number of its message.
    pub(super) n: u64,
    /// What tells a repetition from news; empty where the target itself keeps each row once.
    pub(super) id: String,
}

impl Arrived {
    /// A row of a target that keeps each row once.
    ///
    /// # Panics
    /// When the number is none of ours.
    pub(super) fn new(client: impl Into<String>, n: i64) -> Self {
        Self { client: client.into(), n: u64::try_from(n).expect("a message's number"), id: String::new() }
    }

    /// A row as JSON.
    ///
    /// # Panics
    /// When it lacks a column: the rule makes them all.
    pub(super) fn of_json(row: &Value, id: String) -> Self {
        let client = row["client"].as_str().unwrap_or_else(|| panic!("no client in {row}")).to_owned();
        Self { client, n: row["n"].as_u64().unwrap_or_else(|| panic!("no number in {row}")), id }
    }
}

/// A target, with its server and the way to it.
pub(super) trait Target {
    /// What the sink `target` is declared as: the words after `CREATE SINK target TYPE`.
    fn declaration(&self) -> String;

    /// How the rule makes the column that poison breaks. A target that refuses nothing lets the rule fail.
    fn value(&self) -> &'static str {
        "payload.v"
    }

    /// What stands behind `INTO`.
    fn destination(&self) -> String {
        format!("target.{TABLE}")
    }

    /// Whether [`Target::rows`] gives the rows of a client in the order in which they came.
    fn keeps_order(&self) -> bool;

    /// The way to it, where it is reached over one that can be cut.
    fn way(&self) -> Option<&Proxy>;

    /// Makes it go away; `at_once` as a power cut would.
    async fn down(&mut self, at_once: bool);

    /// Brings it back.
    async fn up(&mut self);

    /// Everything that is in it.
    async fn rows(&mut self) -> Vec<Arrived>;
}

/// What can happen to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Cut,
    Delay(Duration),
    Hold,
    Close,
    Stop,
    Kill,
}

impl Fault {
    /// Lets it happen. Where there is no way that could be cut, the target itself goes.
    pub(super) async fn begin(self, target: &mut impl Target) {
        match (self, target.way()) {
            (Self::None, _) => {}
            (Self::Cut, Some(way)) => way.cut(),
            (Self::Delay(delay), Some(way)) => way.delay(delay),
            (Self::Hold, Some(way)) => way.hold(),
            (Self::Close, Some(way)) => way.close(),
            (Self::Kill, _) => target.down(true).await,
            _ => target.down(false).await,
        }
    }

    /// Lets it end.
    pub(super) async fn end(self, target: &mut impl Target) {
        match (self, target.way()) {
            (Self::None, _) | (Self::Cut, Some(_)) => {}
            (Self::Delay(_), Some(way)) => way.delay(Duration::ZERO),
            // What was held arrives now, also what nobody waits for any more.
            (Self::Hold | Self::Close, Some(way)) => way.open(),
            _ => target.up().await,
        }
    }
}

/// A server of the target's own, behind a way that can be cut.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) server: Server,
    pub(super) way: Proxy,
}

impl Served {
    /// None where the server cannot be had here.
    pub(super) async fn start(name: &'static str) -> Option<Self> {
        let server = tokio::task::block_in_place(|| Server::own(name))?;
        let way = Proxy::before(server.address()).await;
        Some(Self { server, way })
    }

    pub(super) fn down(&mut self, at_once: bool) {
        tokio::task::block_in_place(|| if at_once { self.server.kill() } else { self.server.stop() });
    }

    pub(super) fn up(&mut self) {
        tokio::task::block_in_place(|| self.server.start());
    }
}
