//! A paho client (`tests/clients/paho_client.py`) as a test drives it: orders go in, events come out.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::tools;
use crate::wait::soon;

/// A Python process with one MQTT client in it.
#[derive(Debug)]
pub struct Paho {
    child: Child,
    orders: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
}

impl Paho {
    /// Starts the process; `python` is what [`need!("paho")`](crate::need) found.
    pub fn start(python: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/paho_client.py");
        let mut command = tools::command(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tools::spawn(&mut command);
        let orders = child.stdin.take().expect("a pipe");
        let events = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, orders, events }
    }

    /// Starts the process and connects; `options` as the script's `connect` takes them. Gives the `connected` event.
    pub async fn connect(python: &Path, broker: SocketAddr, options: Value) -> (Self, Value) {
        let mut paho = Self::start(python);
        let mut order = json!({"do": "connect", "host": broker.ip().to_string(), "port": broker.port()});
        let extra = options.as_object().expect("options are an object").clone();
        order.as_object_mut().expect("an object").extend(extra);
        paho.order(order).await;
        let connected = paho.event("connected").await;
        (paho, connected)
    }

    /// Tells it to do something.
    pub async fn order(&mut self, order: Value) {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.expect("the script listens");
    }

    /// The next event of this name; others are passed over.
    pub async fn event(&mut self, name: &str) -> Value {
        let next = async {
            loop {
                let line = self.events.next_line().await.expect("its output");
                let line = line.unwrap_or_else(|| panic!("the script ended before `{name}`"));
                let event: Value = serde_json::from_str(&line).expect("the script speaks JSON");
                if event["event"] == name {
                    return event;
                }
            }
        };
        soon(&format!("paho says `{name}`"), next).await
    }

    /// Says goodbye to the broker and ends.
    pub async fn disconnect(mut self) {
        self.order(json!({"do": "disconnect"})).await;
        self.event("disconnected").await;
        drop(self.orders);
        soon("the script ends", self.child.wait()).await.expect("its end");
    }

    /// Ends without a word to the broker.
    pub async fn vanish(mut self) {
        self.child.kill().await.expect("the script can be killed");
    }
}
