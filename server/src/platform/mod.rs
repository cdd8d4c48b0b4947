//! The platform: every part started in the one order that keeps the promises, and stopped in the reverse of it.
//!
//! Start: log, presence caught up, the end of every session that a crash left open, `node.started`, registry,
//! pipelines, broker, REST. Stop: REST, broker (whose clients get their goodbye, and whose last events are written),
//! `node.stopped`, pipelines to the end of the log, presence, the log.
//! Retention begins after everything that reads the log holds its place, and ends before the first lets go.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_broker::{Broker, BrokerConfig, BrokerError, Environment, ListenerConfig, ListenerKind, Wanted};
use muster_core::clock::SharedClock;
use muster_core::event::EventKind;
use muster_core::journal::Journal;
use muster_core::log::{Compress, LogConfig, LogErrorKind, OpenReport, RealDisk, Retention};
use muster_core::registry::Registry;
use muster_core::sessions::SessionStore;
use muster_core::tls::Tls;
use muster_sinks::SinkEnv;
use muster_sinks::database::Databases;
use muster_sinks::delivery::DeliveryStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

mod alarms;
mod bans;
mod heartbeat;
mod keep;
mod sessions;
mod stalls;

use crate::access::Access;
use crate::alarms::Engine;
use crate::config::{Config, Durability, Mqtt};
use crate::error::{Error, ErrorKind};
use crate::pipelines::{Parts, Pipelines};
use crate::presence::{Follower, Silence, Store};
use crate::projection::Progress;
use crate::republish::Republisher;
use crate::rest::{App, RestServer};
use crate::statistics::{self, Statistics};
use alarms::Alarms;
pub(crate) use bans::put_out;
use keep::Keeper;

/// The database that users query.
pub const DATABASE: &str = "muster.db";

/// The database of MQTT sessions.
const SESSIONS: &str = "sessions.db";

/// How long a start waits for the end of a process that has the event log.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// How often it looks.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How much of `cap` is used.
pub fn percent(bytes: u64, cap: u64) -> u64 {
    let percent = u128::from(bytes) * 100 / u128::from(cap.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// A running platform.
pub struct Platform {
    config: Config,
    clock: SharedClock,
    journal: Journal,
    broker: Broker,
    pipelines: Arc<Pipelines>,
    rest: RestServer,
    /// Ends the tasks that follow the log and the folder of rules.
    following: CancellationToken,
    folder: JoinHandle<()>,
    presence: JoinHandle<()>,
    statistics: JoinHandle<()>,
    keeper: JoinHandle<()>,
    engine: JoinHandle<()>,
}

impl Platform {
    /// Starts everything. When it returns, devices can connect.
    ///
    /// # Errors
    /// Something cannot be had; nothing is left running then.
    pub async fn start(config: Config, clock: SharedClock) -> Result<Self, Error> {
        let data = &config.data;
        std::fs::create_dir_all(data)
            .map_err(start(format!("cannot make the data directory {}", data.display())))?;
        let journal = open_journal(&config, clock.clone()).await?;
        let follower = settle_the_past(&config, &journal, &clock).await?;
        let alarms =
            follower.store().alarms().map_err(start("cannot read which alarms are on".to_owned()))?;

        let databases = Databases::default();
        let store = DeliveryStore::open(&data.join("delivery.db"))
            .map_err(start("cannot open the delivery store".to_owned()))?;
        let registry = Registry::open(&data.join("registry.db"))
            .map_err(start("cannot open the registry of retained messages and rules".to_owned()))?;
        let (statistics, counts) = Statistics::open(data, &journal, &registry, &clock)?;
        let wanted = Wanted::none();
        let env = SinkEnv { data_dir: data.clone(), databases, clock: clock.clone() };
        let seed = seed(journal.log_id());
        let (broker_is_here, republisher) = Republisher::new();
        let parts = Parts {
            journal: journal.clone(),
            store,
            registry: registry.clone(),
            env,
            republisher,
            wanted: wanted.clone(),
            clock: clock.clone(),
            retry_wait_max: config.delivery.retry_wait_max,
            seed,
        };
        let pipelines = Arc::new(Pipelines::new(&config.rules, parts));
        let rules = config.rules.display();
        pipelines.start().await.map_err(start(format!("cannot read the rules in {rules}")))?;

        let silences = follower.store().silences(clock.wall_ms());
        let silences = silences.map_err(start("cannot read which alarms are silent".to_owned()))?;
        let engine = alarm_engine(&config, &journal, &pipelines, &clock, silences).await?;
        let told = (&statistics, follower.progress());
        let doors = open_doors(&config, &journal, &pipelines, registry.clone(), wanted, clock.clone(), told);
        let (broker, rest, access) = match doors.await {
            Ok(doors) => doors,
            Err(error) => {
                // What waits for the broker ends.
                drop(broker_is_here);
                let stopped = sessions::lifecycle(
                    EventKind::NodeStopped,
                    &config.node,
                    "failed to start",
                    clock.wall_ms(),
                );
                let _written = journal.append(stopped).await;
                pipelines.stop(config.stop_timeout).await;
                drop((pipelines, follower, statistics, counts));
                let _closed = journal.close().await;
                return Err(error);
            }
        };
        broker_is_here.send_replace(Some(broker.clone()));
        let following = CancellationToken::new();
        let (bans, stop) = (access.bans, following.clone());
        tokio::spawn(bans::follow(broker.clone(), bans, clock.clone(), stop));
        let followed = (follower.progress(), counts.progress());
        let keeper = Keeper::new(&journal, data, &pipelines, registry, broker.clone(), followed);
        let limits = keep::retention(&config.journal);
        if let Err(error) = journal.log().set_retention(limits) {
            error!(%error, "nothing is removed from the event log");
        }
        let alarms = Alarms::new(&journal, clock.clone(), &config.node, &alarms);
        let keeper = tokio::spawn(keeper.run(alarms, following.clone()));
        let (beats, stop) = (config.journal.heartbeat, following.clone());
        tokio::spawn(heartbeat::beat(journal.clone(), clock.clone(), config.node.clone(), beats, stop));
        let engine = tokio::spawn(engine.run(following.clone()));
        let presence = tokio::spawn(follower.run(following.clone()));
        let statistics = statistics::keep(statistics, counts, following.clone());
        let (asked, stop) = (pipelines.clone(), following.clone());
        // Devices do not wait for the answers.
        tokio::spawn(async move { stop.run_until_cancelled(asked.check_sinks()).await });
        let (watched, stop) = (pipelines.clone(), following.clone());
        let folder = tokio::spawn(async move { watched.follow_folder(stop).await });
        Ok(Self {
            config,
            clock,
            journal,
            broker,
            pipelines,
            rest,
            following,
            folder,
            presence,
            statistics,
            keeper,
            engine,
        })
    }

    /// Where devices connect.
    pub fn mqtt_address(&self) -> SocketAddr {
        self.broker.local_addr()
    }

    /// Where REST is served.
    pub fn http_address(&self) -> SocketAddr {
        self.rest.address()
    }

    /// Where REST is served, as the beginning of a URL.
    pub fn http_url(&self) -> String {
        format!("{}://{}", self.rest.scheme(), self.rest.address())
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The event log.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The pipelines.
    pub fn pipelines(&self) -> &Pipelines {
        &self.pipelines
    }

    /// Resolves when a part has died without which nothing is true any more.
    pub async fn fatal(&self) -> Error {
        let log = async {
            let mut changes = self.journal.durable_watch();
            loop {
                changes.borrow_and_update();
                match self.journal.log().check() {
                    Err(error) if matches!(error.kind(), LogErrorKind::ReadOnly | LogErrorKind::Closed) => {
                        return error;
                    }
                    _ => {}
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        Error::because(ErrorKind::Fatal, "the event log failed", log.await)
    }

    /// Stops everything in order, within the configured time.
    ///
    /// # Errors
    /// The log could not be closed in order; the next start repairs that.
    pub async fn stop(self, reason: &str) -> Result<(), Error> {
        let Self { config, clock, journal, broker, pipelines, rest, following, .. } = self;
        let (folder, presence, statistics, keeper, engine) =
            (self.folder, self.presence, self.statistics, self.keeper, self.engine);
        let deadline = tokio::time::Instant::now() + config.stop_timeout;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        rest.stop().await;
        if tokio::time::timeout(left(), broker.shutdown()).await.is_err() {
            warn!("not every client took its goodbye in time");
        }
        let stopped = sessions::lifecycle(EventKind::NodeStopped, &config.node, reason, clock.wall_ms());
        match journal.append(stopped).await {
            Ok(appended) => drop(tokio::time::timeout(left(), journal.durable(appended.offset)).await),
            Err(error) => warn!(%error, "the end of this run could not be written"),
        }
        // Whoever ends now lets go of the log, and may not have read all of it.
        if let Err(error) = journal.log().set_retention(Retention::default()) {
            warn!(%error, "retention goes on");
        }
        // What follows the log looks once more before it ends, so that it sees all of the above.
        following.cancel();
        let followers = async { tokio::join!(folder, presence, statistics, keeper, engine) };
        if tokio::time::timeout(left(), followers).await.is_err() {
            warn!("presence or statistics are behind; they catch up at the next start");
        }
        // The log is closed with what is left after that.
        pipelines.stop(left().saturating_sub(Duration::from_millis(200))).await;
        drop((broker, pipelines));
        journal.close().await.map_err(|error| {
            Error::because(ErrorKind::Fatal, "the event log could not be closed in order", error)
        })
    }
}

fn start<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let what = what.into();
    move |error| Error::because(ErrorKind::Start, what, error)
}

/// Opens the log. A process that was killed may still be on its way out when the next one starts, so that its lock is
/// waited for.
pub(crate) async fn open_journal(config: &Config, clock: SharedClock) -> Result<Journal, Error> {
    let mut log = LogConfig::new(config.data.join("log"));
    log.gather = config.journal.gather;
    log.segment_bytes_max = config.journal.segment_bytes_max;
    log.queue_bytes_max = config.journal.queue_bytes_max;
    log.compress = config.journal.compress.map(|it| Compress {
        level: it.level,
        after: it.after,
        ..Compress::default()
    });
    log.durability = match config.journal.durability {
        Durability::Always => muster_core::log::Durability::Always,
        Durability::Interval(interval) => muster_core::log::Durability::Interval(interval),
        Durability::Os => muster_core::log::Durability::Os,
    };
    let dir = log.dir.clone();
    let until = tokio::time::Instant::now() + LOCK_WAIT;
    let mut waits = false;
    let (journal, report) = loop {
        match Journal::open(log.clone(), RealDisk::shared(), clock.clone()) {
            Err(error) if error.kind() == LogErrorKind::Locked && tokio::time::Instant::now() < until => {
                if !std::mem::replace(&mut waits, true) {
                    info!(wait = ?LOCK_WAIT, "another process has the event log; waiting for its end");
                }
                tokio::time::sleep(LOCK_LOOK_EVERY).await;
            }
            opened => {
                let what = format!("cannot open the event log in {}", dir.display());
                break opened.map_err(start(what))?;
            }
        }
    };
    tell(&dir, &report, config.journal.durability);
    Ok(journal)
}

/// What was found in the log directory.
fn tell(dir: &Path, report: &OpenReport, durability: Durability) {
    let OpenReport { records, segments, bytes, scanned_bytes, .. } = *report;
    let dir = dir.display();
    if report.created {
        info!(%dir, "event log created");
    } else if report.clean {
        info!(%dir, records, segments, bytes, "event log opened; the last stop was in order");
    } else {
        warn!(
            %dir, records, segments, bytes, scanned_bytes,
            "event log recovered; the last run did not end in order"
        );
    }
    if let Some(torn) = &report.torn_tail {
        warn!(
            segment = %torn.segment.display(), offset = torn.offset, byte = torn.byte, bytes = torn.bytes,
            "the unfinished end of the log was cut: {}", torn.what
        );
    }
    match durability {
        Durability::Always => {}
        Durability::Interval(interval) => {
            warn!(
                ?interval,
                "a power cut can take what was acknowledged within the interval of journal.durability"
            );
        }
        Durability::Os => {
            warn!(
                "with journal.durability = os a power cut can take the last seconds that were acknowledged"
            );
        }
    }
}

/// Brings presence up to the log's end, ends what a crash left open, and says that the node has started.
async fn settle_the_past(config: &Config, journal: &Journal, clock: &SharedClock) -> Result<Follower, Error> {
    let path = config.data.join(DATABASE);
    let unusable = || format!("cannot bring {} up to the log", path.display());
    let store = Store::open(&path, journal.log_id()).map_err(start(unusable()))?;
    let mut follower = Follower::new(store, journal, clock.clone());
    follower.catch_up().map_err(start(unusable()))?;
    let open = follower.store().online().map_err(start(unusable()))?;
    let unwritten = || "cannot write the first events of this run".to_owned();
    let alive_ms = sessions::last_alive_ms(journal).map_err(start(unwritten()))?;
    let alive_ms = alive_ms.unwrap_or_else(|| clock.wall_ms());
    let closed = sessions::close(journal, &config.node, &**clock, open, alive_ms).await;
    let closed = closed.map_err(start(unwritten()))?;
    if closed > 0 {
        warn!(sessions = closed, "sessions that were open when the last run ended are now disconnected");
    }
    let started = sessions::lifecycle(EventKind::NodeStarted, &config.node, "", clock.wall_ms());
    let appended = journal.append(started).await.map_err(start(unwritten()))?;
    journal.durable(appended.offset).await.map_err(start(unwritten()))?;
    follower.catch_up().map_err(start(unusable()))?;
    Ok(follower)
}

/// Opens what raises alarms about devices, on a thread that may wait for the disk.
async fn alarm_engine(
    config: &Config,
    journal: &Journal,
    pipelines: &Pipelines,
    clock: &SharedClock,
    silences: Vec<Silence>,
) -> Result<Engine, Error> {
    for silence in silences {
        pipelines.board().silence(silence);
    }
    let wired = (pipelines.alarms(), pipelines.board().clone());
    let (journal, data, clock, node) =
        (journal.clone(), config.data.clone(), clock.clone(), config.node.clone());
    let failed = || "cannot take up the alarms about devices".to_owned();
    let open = move || Engine::open(&journal, &data, &clock, &node, wired);
    tokio::task::spawn_blocking(open).await.map_err(start(failed()))?.map_err(start(failed()))
}

/// Starts what listens: last, when everything behind it is ready.
async fn open_doors(
    config: &Config,
    journal: &Journal,
    pipelines: &Arc<Pipelines>,
    registry: Registry,
    wanted: Wanted,
    clock: SharedClock,
    told: (&Statistics, Progress),
) -> Result<(Broker, RestServer, Access), Error> {
    let access = Access::load(config, &registry, journal, &clock)?;
    let broker = start_broker(config, journal, registry, wanted, clock.clone(), &access).await?;
    let app = App::new(config, &clock, journal, &broker, &access, pipelines, told);
    match RestServer::start(&config.http, app).await {
        Ok(rest) => Ok((broker, rest, access)),
        Err(error) => {
            broker.shutdown().await;
            Err(error)
        }
    }
}

/// Where devices connect, with the certificates that this needs.
fn listeners(mqtt: &Mqtt) -> Result<Vec<ListenerConfig>, Error> {
    // Whatever a client offers as the protocol inside is let pass: there is but one.
    let tls = mqtt.tls.clone().map(|files| Tls::load(files, &[])).transpose();
    let tls = tls.map_err(start("cannot use the certificate for MQTT"))?;
    let kinds = [
        (ListenerKind::Tcp, mqtt.listen),
        (ListenerKind::Ssl, mqtt.tls_listen),
        (ListenerKind::Ws, mqtt.ws_listen),
        (ListenerKind::Wss, mqtt.wss_listen),
    ];
    let listener = |(kind, address): (ListenerKind, Option<SocketAddr>)| {
        Some(ListenerConfig {
            kind,
            address: address?,
            tls: tls.clone(),
            ws_path: mqtt.ws_path.clone(),
            proxy_protocol: mqtt.proxy_protocol,
        })
    };
    Ok(kinds.into_iter().filter_map(listener).collect())
}

async fn start_broker(
    config: &Config,
    journal: &Journal,
    registry: Registry,
    wanted: Wanted,
    clock: SharedClock,
    access: &Access,
) -> Result<Broker, Error> {
    let mut broker = BrokerConfig {
        listeners: listeners(&config.mqtt)?,
        username_from_certificate: config.mqtt.username_from_certificate,
        node: config.node.clone(),
        ..BrokerConfig::default()
    };
    broker.limits.connect_timeout_ms =
        u64::try_from(config.mqtt.connect_timeout.as_millis()).unwrap_or(u64::MAX);
    broker.limits.handshakes_max = config.mqtt.handshakes_max;
    broker.limits.handshakes_per_address_max = config.mqtt.handshakes_per_address_max;
    broker.limits.connections_max = config.mqtt.connections_max;
    broker.limits.sessions_max = config.mqtt.sessions_max;
    broker.limits.packet_bytes_max = config.mqtt.packet_bytes_max;
    broker.limits.inflight_max = config.mqtt.inflight_max;
    broker.limits.queue_messages_max = config.mqtt.queue_messages_max;
    broker.limits.queue_bytes_max = config.mqtt.queue_bytes_max;
    let path = config.data.join(SESSIONS);
    let sessions = SessionStore::open(&path)
        .map_err(|error| Error::because(ErrorKind::Start, "cannot open the store of sessions", error))?;
    let environment = Environment {
        journal: journal.clone(),
        registry,
        sessions,
        wanted,
        clock,
        doorkeeper: access.bans.clone(),
        authenticator: access.authn.clone(),
        authorizer: access.authz.clone(),
    };
    Broker::start(broker, environment)
        .await
        .map_err(|error: BrokerError| Error::because(ErrorKind::Start, "cannot start the broker", error))
}

/// Chance that differs from log to log and is the same at each start.
fn seed(log_id: u128) -> u64 {
    let bytes = log_id.to_le_bytes();
    bytes.iter().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte))
}
