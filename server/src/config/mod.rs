//! What an operator can set, and where each value came from: built-in default, then file, then environment, then
//! flags; the later wins. It must never know what a setting does.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use muster_core::log::{COMPRESS_LEVEL_MAX, COMPRESS_LEVEL_MIN, GATHER_MAX};

mod http;
mod layers;
mod mqtt;
mod settings;
mod show;
pub(crate) mod units;

pub use http::Http;
pub use layers::{Layers, Origin};
pub use mqtt::Mqtt;
pub(crate) use units::duration as parse_duration;
pub(crate) use units::duration;

use crate::error::{Error, ErrorKind};

/// Shortest time between signs of life.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything durable lives.
    pub data: PathBuf,
    /// The folder of rule files.
    pub rules: PathBuf,
    /// The name of this node.
    pub node: String,
    /// The longest orderly stop.
    pub stop_timeout: Duration,
    /// The broker's part.
    pub mqtt: Mqtt,
    /// REST's part.
    pub http: Http,
    /// The event log's part.
    pub journal: Journal,
    /// What holds for every sink.
    pub delivery: Delivery,
}

/// Whether clients that nobody knows are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowAnonymous {
    /// While devices can come from this machine alone and there is no user and no authenticator.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

impl AllowAnonymous {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::Always),
            "false" => Ok(Self::Never),
            _ => Err(format!("`{text}` is none of auto, true, false")),
        }
    }
}

/// How the event log writes.
#[derive(Debug, Clone)]
pub struct Journal {
    /// When an event counts as written.
    pub durability: Durability,
    /// How soon a sync may begin after another began while events wait for it.
    pub gather: Duration,
    /// Size at which a new segment is started.
    pub segment_bytes_max: u64,
    /// Whether and how full segments are compressed.
    pub compress: Option<Compress>,
    /// Bytes that may wait for the disk.
    pub queue_bytes_max: usize,
    /// Longest time without an event in the log while the node is alive.
    pub heartbeat: Duration,
    /// Age at which what nobody needs is removed; none keeps it.
    pub retention_age: Option<Duration>,
    /// Size above which the oldest that nobody needs is removed; none keeps it.
    pub retention_bytes: Option<u64>,
    /// Size that is never exceeded.
    pub cap_bytes: Option<u64>,
    /// What happens at that size.
    pub when_full: WhenFull,
}

/// How rows travel to sinks.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Longest wait before a sink that failed is tried again.
    pub retry_wait_max: Duration,
}

/// When an event counts as written, and with that when a publish is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After fsync.
    Always,
    /// After the write; fsync follows within this time, which is what a power cut can lose.
    Interval(Duration),
    /// After the write; the operating system decides when it reaches the disk.
    Os,
}

/// How full segments of the log are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress {
    /// How hard Zstandard tries.
    pub level: i32,
    /// How long a full segment stays as it is.
    pub after: Duration,
}

impl Compress {
    /// Whether it is wanted.
    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "none" => Ok(false),
            "zstd" => Ok(true),
            _ => Err(format!("`{text}` is none of none, zstd")),
        }
    }

    fn parse_level(text: &str) -> Result<i32, String> {
        let levels = COMPRESS_LEVEL_MIN..=COMPRESS_LEVEL_MAX;
        let level = text.parse().ok().filter(|level| levels.contains(level));
        level
            .ok_or_else(|| format!("`{text}` is no whole number from {} to {}", levels.start(), levels.end()))
    }

    fn from_layers(layers: &Layers) -> Result<Option<Self>, Error> {
        let read = |key| layers.text(key);
        let wrong = |key| move |why: String| layers.wrong(key, &why);
        let is_wanted = Self::parse(read("journal.compress")?).map_err(wrong("journal.compress"))?;
        let level = Self::parse_level(read("journal.compress_level")?);
        let level = level.map_err(wrong("journal.compress_level"))?;
        let after = layers.duration("journal.compress_after")?;
        Ok(is_wanted.then_some(Self { level, after }))
    }
}

/// What happens when the log has reached its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Publishes are not acknowledged until those who hold the log back have moved on.
    Refuse,
    /// The oldest goes, whoever still needs it.
    DropOldest,
}

impl WhenFull {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "drop_oldest" => Ok(Self::DropOldest),
            _ => Err(format!("`{text}` is none of refuse, drop_oldest")),
        }
    }
}

impl Durability {
    fn parse(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix("interval(").and_then(|rest| rest.strip_suffix(')'));
        match (text, inner) {
            ("always", _) => Ok(Self::Always),
            ("os", _) => Ok(Self::Os),
            (_, Some(inner)) => match units::duration(inner)? {
                Duration::ZERO => Err("an interval of 0 is `always`; write that".to_owned()),
                interval => Ok(Self::Interval(interval)),
            },
            _ => Err(format!("`{text}` is none of always, interval(100ms), os")),
        }
    }
}

impl Durability {
    /// What can be lost of what was acknowledged, in words.
    pub fn loss_window(self) -> String {
        match self {
            Self::Always => "nothing that was acknowledged is lost, by a crash or by a power cut".to_owned(),
            Self::Interval(interval) => format!(
                "a power cut can take what was acknowledged in the last {} ms; a crash of the process takes nothing",
                interval.as_millis()
            ),
            Self::Os => "a power cut can take what the system had not written yet, usually up to 30 s; a crash of the \
                         process takes nothing"
                .to_owned(),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) => write!(f, "interval({}ms)", interval.as_millis()),
            Self::Os => f.write_str("os"),
        }
    }
}

impl Config {
    /// Reads the effective values out of the layers.
    ///
    /// # Errors
    /// A value that does not fit together with what the server can do today.
    pub fn from_layers(layers: &Layers) -> Result<Self, Error> {
        let config = Self {
            data: layers.text("data")?.into(),
            rules: layers.text("rules")?.into(),
            node: layers.text("node")?.to_owned(),
            stop_timeout: layers.duration("stop_timeout")?,
            mqtt: Mqtt::from_layers(layers)?,
            http: Http::from_layers(layers)?,
            journal: Journal {
                durability: Durability::parse(layers.text("journal.durability")?)
                    .map_err(|why| layers.wrong("journal.durability", &why))?,
                gather: layers.duration("journal.gather")?,
                segment_bytes_max: layers.size("journal.segment_bytes_max")?,
                compress: Compress::from_layers(layers)?,
                queue_bytes_max: layers.bytes("journal.queue_bytes_max")?,
                heartbeat: layers.duration("journal.heartbeat")?,
                retention_age: layers.duration_or_never("journal.retention_age")?,
                retention_bytes: layers.size_or_never("journal.retention_bytes")?,
                cap_bytes: layers.size_or_never("journal.cap_bytes")?,
                when_full: WhenFull::parse(layers.text("journal.when_full")?)
                    .map_err(|why| layers.wrong("journal.when_full", &why))?,
            },
            delivery: Delivery { retry_wait_max: layers.duration("delivery.retry_wait_max")? },
        };
        config.check(layers)?;
        Ok(config)
    }

    fn check(&self, layers: &Layers) -> Result<(), Error> {
        let Journal { segment_bytes_max, retention_bytes, cap_bytes, when_full, .. } = self.journal;
        if self.journal.heartbeat < HEARTBEAT_MIN {
            return Err(layers.wrong("journal.heartbeat", "is shorter than 100ms"));
        }
        if self.journal.gather > GATHER_MAX {
            return Err(layers.wrong("journal.gather", "is longer than 100ms"));
        }
        match cap_bytes {
            Some(cap) if cap < segment_bytes_max.saturating_mul(2) => Err(layers.wrong(
                "journal.cap_bytes",
                "is smaller than two segments (journal.segment_bytes_max); only whole segments are removed",
            )),
            Some(cap) if retention_bytes.is_some_and(|bytes| bytes > cap) => Err(layers.wrong(
                "journal.retention_bytes",
                "is larger than journal.cap_bytes and would never be reached",
            )),
            None if when_full == WhenFull::DropOldest => {
                Err(layers
                    .wrong("journal.when_full", "says what happens at journal.cap_bytes, which is not set"))
            }
            _ => Ok(()),
        }
    }
}

fn config_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}
