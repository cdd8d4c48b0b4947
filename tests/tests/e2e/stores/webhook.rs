//! A webhook: the receiver of the examples, and the tables that it keeps.

use std::path::PathBuf;
use std::process::Stdio;

use muster_tests::wait::soon;
use muster_tests::{Home, need, tools};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::store::{Asked, Rows, Store};
use super::{alarms, backfill, scene, sqlite};

/// The receiver, which takes records of a topic as well.
pub(super) const RECEIVER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rules/webhook/receiver.py");

pub(super) struct Webhook {
    folder: TempDir,
    url: String,
    _receiver: Child,
}

impl Webhook {
    async fn start(python: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = tools::command(python);
        command.arg(RECEIVER).arg(folder.path().join("devices.db")).arg("127.0.0.1:0");
        command.env("DEVICES_TOKEN", "secret").stdout(Stdio::piped());
        let mut receiver = tools::spawn(&mut command);
        let mut lines = BufReader::new(receiver.stdout.take().expect("a pipe")).lines();
        let line = soon("the receiver listens", lines.next_line()).await.expect("a line").expect("a line");
        let url = line.strip_prefix("listening on ").expect("where it listens").to_owned();
        Self { folder, url, _receiver: receiver }
    }
}

impl Store for Webhook {
    const NAME: &'static str = "webhook";
    const MIGRATES: bool = false;

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("DEVICES_URL", self.url.clone()), ("DEVICES_TOKEN", "secret".to_owned())]
    }

    async fn answer(&self, _: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        Some(sqlite::answer::<Self>(&self.folder.path().join("devices.db"), name, asked))
    }

    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        Some(sqlite::shipped::<Self>(&self.folder.path().join("devices.db"), name))
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        sqlite::rows(&self.folder.path().join("devices.db"), table, columns)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    let python = need!("python3");
    scene::play(Webhook::start(python).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    let python = need!("python3");
    backfill::play(Webhook::start(python).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    let python = need!("python3");
    alarms::play(Webhook::start(python).await).await;
}
