//! Who brings mosquitto's messages into a table: a script, Node-RED, Benthos. Each has its configuration in
//! `bench/peers`; `bench/run` installs what they need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use muster_test_servers::free_address;
use std::process::Stdio;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::contender::{Running, cached, find, start_mosquitto};
use crate::cores::server;
use crate::report::folder as bench_folder;

/// How long a bridge may take until it has subscribed: Node-RED needs some seconds.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(40);

/// Messages may wait and be on the way without a bound, and who subscribes is written down.
const MOSQUITTO: &str = "max_inflight_messages 0\nlog_type subscribe\nlog_dest file ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bridge {
    Script,
    NodeRed,
    Benthos,
}

impl Bridge {
    pub(super) const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Script => (
                "mosquitto and a script (paho)",
                "memory only: acknowledged when it came, lost when the script ends before its commit",
            ),
            Self::NodeRed => (
                "mosquitto and Node-RED",
                "memory only: acknowledged when it came, lost when Node-RED ends before its commit",
            ),
            Self::Benthos => (
                "mosquitto and Benthos",
                "memory only: acknowledged when it was taken, lost when Benthos ends before its commit",
            ),
        }
    }

    /// Starts mosquitto and the bridge, and waits until it has subscribed. `target` is PostgreSQL's connection string
    /// or SQLite's file.
    pub(super) async fn start(self, folder: &Path, target: &str) -> anyhow::Result<(Running, Child)> {
        let mosquitto = find("mosquitto").context("mosquitto is not installed")?;
        let log = folder.join("subscriptions.log");
        let running = start_mosquitto(&mosquitto, folder, &format!("{MOSQUITTO}{}", log.display())).await?;
        let port = running.address.port().to_string();
        let mut command = match self {
            Self::Script => script(&port, target)?,
            Self::NodeRed => node_red(folder)?,
            Self::Benthos => benthos()?,
        };
        command.env("BENCH_MQTT_PORT", port).env("BENCH_PG", target).current_dir(folder);
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let deadline = Instant::now() + SUBSCRIBED_MAX;
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("bench/+/up")) {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("it ended: {status}");
            }
            ensure!(Instant::now() < deadline, "it does not subscribe");
            sleep(Duration::from_millis(20)).await;
        }
        Ok((running, child))
    }
}

fn needs(path: &str) -> anyhow::Result<PathBuf> {
    cached(path).with_context(|| format!("{path} is missing; bench/run says why it could not be had"))
}

fn script(port: &str, target: &str) -> anyhow::Result<Command> {
    let mut command = server(&needs("python/bin/python")?);
    command.arg(bench_folder().join("peers/bridge.py")).args([port, target]);
    Ok(command)
}

fn benthos() -> anyhow::Result<Command> {
    let mut command = server(&needs("bin/benthos")?);
    command.arg("-c").arg(bench_folder().join("peers/benthos/pipeline.yaml"));
    Ok(command)
}

/// The flow, with the text of its function in its place, in a folder of this run.
fn node_red(folder: &Path) -> anyhow::Result<Command> {
    let modules = needs("node-red/node_modules")?;
    needs("node-red/node_modules/pg")?;
    let program = needs("node-red/node_modules/node-red/red.js")?;
    let peer = bench_folder().join("peers/node-red");
    let mut flows: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(peer.join("flows.json"))?)?;
    let rows = std::fs::read_to_string(peer.join("rows.js"))?;
    for node in flows.as_array_mut().into_iter().flatten() {
        if node["func"] == "@rows.js@" {
            node["func"] = rows.as_str().into();
        }
    }
    std::fs::write(folder.join("flows.json"), flows.to_string())?;
    let mut command = server(&find("node").context("node is not installed")?);
    command.arg(program).arg("--userDir").arg(folder).arg("--settings").arg(peer.join("settings.js"));
    command.env("BENCH_MODULES", modules).env("BENCH_UI_PORT", free_address().port().to_string());
    Ok(command)
}
