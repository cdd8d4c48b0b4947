//! `muster demo`: the whole platform in a fresh directory, with simulated devices over real MQTT, a live view, and at
//! the end a check that nothing was lost and nothing was made up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod check;
mod devices;
mod view;

use crate::config::{Config, Layers};
use crate::error::{Error, ErrorKind};
use crate::platform::{DATABASE, Platform};
use devices::{Book, Device, Tally};
use view::{Facts, View};

/// The rule files of `examples/rules/`, built in, so that the demo works from anywhere.
const RULES: &[(&str, &str)] = &[
    ("alerts.sql", include_str!("../../../examples/rules/alerts.sql")),
    ("history.sql", include_str!("../../../examples/rules/history.sql")),
    ("offline.sql", include_str!("../../../examples/rules/offline.sql")),
    ("telemetry.sql", include_str!("../../../examples/rules/telemetry.sql")),
];

/// How often the live view is drawn.
const FRAME: Duration = Duration::from_millis(250);
/// How long sinks may take to reach the end of the log once the devices have left.
const DRAIN_WAIT: Duration = Duration::from_secs(20);
/// How often it is looked whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// What is asked of a demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many devices are simulated.
    pub devices: u16,
    /// The data directory; a fresh one where none is given.
    pub data: Option<PathBuf>,
    /// Where the random behaviour starts.
    pub seed: u64,
    /// Lines on stdout are progress bars.
    pub terminal: bool,
}

/// A demo that runs.
pub struct Demo {
    platform: Platform,
    data: PathBuf,
    tally: Arc<Tally>,
    stop_devices: CancellationToken,
    devices: JoinSet<Book>,
    view: View,
    seen: Facts,
}

impl Demo {
    /// Starts platform and devices.
    ///
    /// # Errors
    /// The directory is in use, or the platform cannot start.
    pub async fn start(options: Options, clock: SharedClock) -> Result<Self, Error> {
        let data = fresh_directory(options.data.as_deref())?;
        let platform = Platform::start(config(&data)?, clock).await?;
        let view = View::new(options.terminal);
        view.say(&format!("data  {}", data.display()));
        view.say(&format!("mqtt  mqtt://{}", platform.mqtt_address()));
        view.say(&format!(
            "http  http://{0}   (try: curl http://{0}/api/v1/pipelines)",
            platform.http_address()
        ));
        let tally = Arc::new(Tally::default());
        let stop_devices = CancellationToken::new();
        let mut devices = JoinSet::new();
        for number in 1..=options.devices {
            let device = Device::new(platform.mqtt_address(), number, options.seed);
            let (tally, stop) = (tally.clone(), stop_devices.clone());
            devices.spawn(async move { device.run(&tally, stop).await });
        }
        let seen = Facts::read(&platform, &tally, options.devices);
        Ok(Self { platform, data, tally, stop_devices, devices, view, seen })
    }

    /// Shows how it goes, until the platform dies. Dropping the future loses nothing.
    pub async fn watch(&mut self) -> Error {
        let mut frames = tokio::time::interval(FRAME);
        loop {
            tokio::select! {
                error = self.platform.fatal() => return error,
                _ = frames.tick() => {
                    let count = u16::try_from(self.devices.len()).unwrap_or(u16::MAX);
                    self.seen = Facts::read(&self.platform, &self.tally, count);
                    self.view.show(&self.seen);
                }
            }
        }
    }

    /// Lets the devices leave and the sinks reach the end of the log, stops the platform, and holds the tables against
    /// what the devices remember.
    ///
    /// # Errors
    /// Something was lost or made up, or did not arrive in time.
    pub async fn finish(self) -> Result<(), Error> {
        let Self { platform, data, stop_devices, mut devices, view, .. } = self;
        stop_devices.cancel();
        let mut books = BTreeMap::new();
        while let Some(book) = devices.join_next().await {
            let book = book.map_err(|error| Error::because(ErrorKind::Fatal, "a device failed", error))?;
            books.insert(book.clientid.clone(), book);
        }
        view.finish();
        let drained = tokio::time::timeout(DRAIN_WAIT, drain(&platform)).await.is_ok();
        let statuses = platform.pipelines().status();
        platform.stop("the demo is over").await?;
        if !drained {
            return Err(Error::new(
                ErrorKind::Negative,
                "the sinks did not reach the end of the log in time",
            ));
        }
        let log = check::count_log(&data).await?;
        let database = data.join(DATABASE);
        let verdict = check::conservation(&database, &statuses, &log, &books)?;
        for line in check::history(&database)? {
            view.say(&line);
        }
        view.say("");
        view.say(&verdict);
        view.say("");
        for line in what_next(&data) {
            view.say(&line);
        }
        Ok(())
    }
}

/// Returns when every pipeline has settled everything that is in the log.
async fn drain(platform: &Platform) {
    loop {
        // The devices' goodbyes are events, too.
        let connected = platform.broker().stats().connections;
        let durable = platform.journal().durable_offset() == platform.journal().next_offset();
        let behind = platform.pipelines().status().iter().any(|it| it.lag_events > 0 || it.pending > 0);
        if connected == 0 && durable && !behind {
            return;
        }
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

fn fresh_directory(given: Option<&Path>) -> Result<PathBuf, Error> {
    let cannot = |path: &Path| {
        let message = format!("cannot make the directory {}", path.display());
        move |error: std::io::Error| Error::because(ErrorKind::Start, message, error)
    };
    let path = match given {
        Some(path) => {
            std::fs::create_dir_all(path).map_err(cannot(path))?;
            if std::fs::read_dir(path).map_err(cannot(path))?.next().is_some() {
                let message =
                    format!("{} is not empty; the demo wants a directory of its own", path.display());
                return Err(Error::new(ErrorKind::Config, message));
            }
            path.to_owned()
        }
        None => {
            let base = std::env::temp_dir();
            let free = (1..10_000).map(|number| base.join(format!("muster-demo-{number}")));
            let made = free.map(|path| (std::fs::create_dir(&path), path)).find(|(made, _)| {
                !made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
            });
            let (made, path) = made.unwrap_or_else(|| (Ok(()), base.join("muster-demo")));
            made.map_err(cannot(&path))?;
            path
        }
    };
    let rules = path.join("rules");
    std::fs::create_dir(&rules).map_err(cannot(&rules))?;
    for (name, text) in RULES {
        std::fs::write(rules.join(name), text).map_err(cannot(&rules))?;
    }
    std::fs::canonicalize(&path).map_err(cannot(&path))
}

fn config(data: &Path) -> Result<Config, Error> {
    let mut layers = Layers::default();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    for (key, value) in [
        ("data", text(data)),
        ("rules", text(&data.join("rules"))),
        ("mqtt.listen", "127.0.0.1:0".to_owned()),
        ("http.listen", "127.0.0.1:0".to_owned()),
    ] {
        layers.add_flag("demo", key, value)?;
    }
    Config::from_layers(&layers)
}

fn what_next(data: &Path) -> Vec<String> {
    let data = data.display();
    vec![
        "Everything is still there. Ask the database, or go on with the same data and rules:".to_owned(),
        format!(
            "  sqlite3 {data}/{DATABASE} 'SELECT clientid, online, reason, connects FROM devices LIMIT 5'"
        ),
        format!("  muster run --data {data} --rules {data}/rules"),
        "and, while that runs:".to_owned(),
        "  mosquitto_sub -p 1883 -t 'sensors/#' -t 'alerts/#' -v".to_owned(),
        "  mosquitto_pub -p 1883 -q 1 -i me -t sensors/me/up -m '{\"temp\": 41.5}'".to_owned(),
        "  curl http://127.0.0.1:18083/api/v1/pipelines".to_owned(),
    ]
}
