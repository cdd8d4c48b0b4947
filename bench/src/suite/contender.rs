//! Who is measured: how each is started on a free port of the loopback interface, and what its acknowledgement
//! promises.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use muster_test_servers::free_address;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::process::Watched;

/// How long a server may take until it listens.
const START_MAX: Duration = Duration::from_secs(30);

/// A contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Muster,
    MusterWithRule,
    Mosquitto,
    MosquittoPersistent,
    Rumqttd,
    Nats,
    Null,
}

impl Contender {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Muster => "Muster",
            Self::MusterWithRule => "Muster, and a rule into SQLite",
            Self::Mosquitto => "mosquitto",
            Self::MosquittoPersistent => "mosquitto, persistence",
            Self::Rumqttd => "rumqttd",
            Self::Nats => "NATS JetStream",
            Self::Null => "limit: a broker that does nothing",
        }
    }

    /// What PUBACK means.
    pub(crate) const fn durability(self) -> &'static str {
        match self {
            Self::Muster | Self::MusterWithRule => "fsynced before PUBACK",
            Self::Mosquitto | Self::Rumqttd => "memory only",
            Self::MosquittoPersistent => "written at times, no fsync before PUBACK",
            Self::Nats => "stored in a file for who has subscribed, no fsync before PUBACK",
            Self::Null => "nothing",
        }
    }

    /// Where its program is; an error says what is missing.
    pub(crate) fn program(self) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        match self {
            Self::Rumqttd | Self::Null => Ok(own),
            Self::Muster | Self::MusterWithRule => {
                let file = own.with_file_name("muster");
                if file.is_file() { Ok(file) } else { bail!("{} is not built", file.display()) }
            }
            Self::Mosquitto | Self::MosquittoPersistent => {
                find("mosquitto").context("mosquitto is not installed")
            }
            Self::Nats => find("nats-server").context("nats-server is not installed"),
        }
    }

    /// Starts it in an empty folder.
    pub(crate) async fn start(self, folder: &Path) -> anyhow::Result<Running> {
        let program = self.program()?;
        match self {
            Self::Muster => start_muster(&program, folder, None, &[]).await,
            Self::MusterWithRule => start_muster(&program, folder, Some(SQLITE_RULE), &[]).await,
            Self::Mosquitto => start_mosquitto(&program, folder, false).await,
            Self::MosquittoPersistent => start_mosquitto(&program, folder, true).await,
            Self::Nats => start_nats(&program, folder).await,
            Self::Rumqttd => start_listening(&program, "rumqttd").await,
            Self::Null => start_listening(&program, "null-broker").await,
        }
    }
}

/// Each message becomes a row.
pub(crate) const SQLITE_RULE: &str = "CREATE RULE bench INTO sqlite.bench AS SELECT clientid, topic, payload.p AS p, \
                                      payload.n AS n, payload.t AS t FROM \"bench/+/up\";\n";

/// A server that runs; it ends with this.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn watched(&self) -> Watched {
        Watched(self.child.id().into_iter().collect())
    }

    pub(crate) async fn stop(mut self) {
        // Its figures are taken; how it ends is all the same.
        let _ended = self.child.kill().await;
    }
}

/// A program in the PATH, or where Debian keeps servers.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

pub(crate) async fn start_mosquitto(
    program: &Path,
    folder: &Path,
    persistence: bool,
) -> anyhow::Result<Running> {
    let address = free_address();
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence {persistence}\npersistence_location {}/\n\
         log_type error\nuser root\nmax_queued_messages 0\n",
        address.port(),
        folder.display()
    );
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, text)?;
    started(Command::new(program).arg("-c").arg(config), folder, address).await
}

pub(crate) async fn start_muster(
    program: &Path,
    folder: &Path,
    rules: Option<&str>,
    environment: &[(&str, &str)],
) -> anyhow::Result<Running> {
    std::fs::create_dir_all(folder.join("rules"))?;
    if let Some(rules) = rules {
        std::fs::write(folder.join("rules/bench.sql"), rules)?;
    }
    let address = free_address();
    let mqtt = address.to_string();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTER_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied()).args(["run", "--mqtt", &mqtt, "--http", "127.0.0.1:0"]);
    started(&mut command, folder, address).await
}

async fn start_nats(program: &Path, folder: &Path) -> anyhow::Result<Running> {
    let address = free_address();
    let text = format!(
        "server_name: bench\nport: {}\njetstream {{ store_dir: \"{}\" }}\nmqtt {{ host: 127.0.0.1, port: {} }}\n",
        free_address().port(),
        folder.display(),
        address.port()
    );
    let config = folder.join("nats.conf");
    std::fs::write(&config, text)?;
    started(Command::new(program).arg("-c").arg(config), folder, address).await
}

async fn start_listening(program: &Path, command: &str) -> anyhow::Result<Running> {
    let address = free_address();
    let folder = std::env::temp_dir();
    started(Command::new(program).args([command, &address.to_string()]), &folder, address).await
}

/// Waits until it listens.
async fn started(command: &mut Command, folder: &Path, address: SocketAddr) -> anyhow::Result<Running> {
    command.current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let deadline = Instant::now() + START_MAX;
    while TcpStream::connect(address).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{command:?} ended: {status}");
        }
        if Instant::now() > deadline {
            bail!("{command:?} does not listen on {address}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(Running { child, address })
}
