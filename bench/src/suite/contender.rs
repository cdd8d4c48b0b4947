//! Who is measured: how each is started on a free port of the loopback interface, and what its PUBACK promises.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use muster_test_servers::free_address;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::client::{Connection, Target};
use crate::codec::Version;
use crate::cores::server;
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
    NatsSync,
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
            Self::NatsSync => "NATS JetStream, sync always",
            Self::Null => "limit: a broker that does nothing",
        }
    }

    /// What PUBACK means, where there is one.
    pub(crate) const fn durability(self, qos: u8) -> &'static str {
        if qos == 0 {
            return "nothing is acknowledged";
        }
        match self {
            Self::Muster | Self::MusterWithRule | Self::NatsSync => "fsynced before PUBACK",
            Self::Mosquitto | Self::Rumqttd => "memory only",
            Self::MosquittoPersistent => {
                "owed to a session that is away; all of it written each second, not before PUBACK"
            }
            Self::Nats => "written to a file, fsynced at times, not before PUBACK",
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
            Self::Nats => newest_nats().context("nats-server is not installed"),
            Self::NatsSync => {
                cached("bin/nats-server").context("no nats-server of 2.10; bench/run builds it with Go")
            }
        }
    }

    /// Starts it in an empty folder.
    pub(crate) async fn start(self, folder: &Path) -> anyhow::Result<Running> {
        let program = self.program()?;
        match self {
            Self::Muster => start_muster(&program, folder, None, &[]).await,
            Self::MusterWithRule => start_muster(&program, folder, Some(SQLITE_RULE), &[]).await,
            Self::Mosquitto => start_mosquitto(&program, folder, "persistence false").await,
            Self::MosquittoPersistent => {
                let running = start_mosquitto(&program, folder, PERSISTENCE).await?;
                keep_a_session(running.address).await?;
                Ok(running)
            }
            Self::Nats => start_nats(&program, folder, "").await,
            Self::NatsSync => start_nats(&program, folder, "sync_interval: always").await,
            Self::Rumqttd => start_listening(&program, "rumqttd").await,
            Self::Null => start_listening(&program, "null-broker").await,
        }
    }
}

/// Without a session that is kept and away nothing would be written, and by default nothing for half an hour.
const PERSISTENCE: &str = "persistence true\nautosave_interval 1";

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

/// What of NATS there is: 2.10 where `bench/run` could build it, which speaks QoS 2 too, otherwise Debian's.
pub(crate) fn newest_nats() -> Option<PathBuf> {
    cached("bin/nats-server").or_else(|| find("nats-server"))
}

/// What `bench/run` has installed for the benchmark alone.
pub(crate) fn cached(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let path = cache.join("muster-bench").join(path);
    path.exists().then_some(path)
}

/// `more` is further lines of its configuration.
pub(crate) async fn start_mosquitto(program: &Path, folder: &Path, more: &str) -> anyhow::Result<Running> {
    let address = free_address();
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence_location {}/\nuser root\n\
         max_queued_messages 0\nlog_type error\n{more}\n",
        address.port(),
        folder.display()
    );
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, text)?;
    started(server(program).arg("-c").arg(config), folder, address).await
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
    let mut command = server(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTER_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied()).args(["run", "--mqtt", &mqtt, "--http", "127.0.0.1:0"]);
    started(&mut command, folder, address).await
}

/// JetStream keeps what somebody has subscribed to: a session that is kept and away, so that each message is stored.
async fn start_nats(program: &Path, folder: &Path, sync: &str) -> anyhow::Result<Running> {
    let address = free_address();
    let text = format!(
        "server_name: bench\nport: {}\njetstream {{ store_dir: \"{}\", {sync} }}\nmqtt {{ host: 127.0.0.1, port: {} }}\n",
        free_address().port(),
        folder.display(),
        address.port()
    );
    let config = folder.join("nats.conf");
    std::fs::write(&config, text)?;
    let running = started(server(program).arg("-c").arg(config), folder, address).await?;
    keep_a_session(address).await?;
    Ok(running)
}

/// A session that is kept and away: each message is owed to it.
async fn keep_a_session(address: SocketAddr) -> anyhow::Result<()> {
    let target = Target::new(address, Version::V4);
    let mut kept = Connection::open(&target, "bench-kept", false, START_MAX).await?;
    kept.subscribe("bench/+/up", 1).await?;
    kept.close();
    Ok(())
}

pub(super) async fn start_listening(program: &Path, command: &str) -> anyhow::Result<Running> {
    let address = free_address();
    let folder = std::env::temp_dir();
    started(server(program).args([command, &address.to_string()]), &folder, address).await
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
