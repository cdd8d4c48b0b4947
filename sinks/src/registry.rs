//! The kinds of sinks that exist: one row in one table each, with its options. Adding a kind is a row here, a folder,
//! and a page in `docs/`. It must never know how a sink does its work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::database::Databases;
use crate::delivery::Limits;
use crate::error::SinkError;
use crate::migrate::Migrate;
use crate::part::LANES_MAX;
use crate::sink::Sink;
use crate::{clickhouse, influxdb, kafka, mongodb, postgres, sqlite, webhook};

/// A kind of sink.
#[derive(Debug)]
pub struct Kind {
    /// The word after `TYPE`.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// The options between the brackets of `WITH`, apart from the [`COMMON`] ones.
    pub options: &'static [OptionSpec],
    /// A statement that declares one.
    pub example: &'static str,
    /// Its page.
    pub page: &'static str,
    /// When a batch is full, unless the options say otherwise.
    pub limits: Limits,
    /// Makes a sink of options that were checked against `options`; opens nothing.
    pub(crate) build: Build,
    /// Whether rows go into a table, topic or collection, named after the rule unless `INTO` names it.
    pub has_targets: bool,
    /// Makes what prepares the target for rows (`muster migrate`); none where there is nothing to prepare.
    pub(crate) migrate: Option<Migrator>,
}

impl Kind {
    /// Whether `muster migrate` has something to do for it.
    pub fn migrates(&self) -> bool {
        self.migrate.is_some()
    }
}

type Migrator = fn(&Options<'_>, &SinkEnv) -> Result<Box<dyn Migrate>, SinkError>;
type Build = fn(&Options<'_>, &SinkEnv) -> Result<Box<dyn Sink>, SinkError>;

/// An option of a sink.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Its name; one that ends in `.` begins the names of many options.
    pub name: &'static str,
    /// The value when it is not given; none where there is no default.
    pub default: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
    /// Whether its value is shown to nobody.
    pub secret: bool,
}

impl OptionSpec {
    /// An option that may be shown.
    pub const fn new(name: &'static str, default: Option<&'static str>, help: &'static str) -> Self {
        Self { name, default, help, secret: false }
    }

    /// An option that holds a secret.
    pub const fn secret(name: &'static str, help: &'static str) -> Self {
        Self { name, default: None, help, secret: true }
    }

    fn covers(&self, name: &str) -> bool {
        if self.name.ends_with('.') { name.starts_with(self.name) } else { name == self.name }
    }
}

/// The option that says how many batches are under way at a time.
const LANES: &str = "lanes";

/// The options that every kind has. Their defaults are the kind's limits.
pub const COMMON: &[OptionSpec] = &[
    OptionSpec::new("batch_rows", None, "most rows in a batch"),
    OptionSpec::new("batch_bytes", None, "about how many bytes of rows in a batch"),
    OptionSpec::new("batch_wait_ms", None, "how long the first row of a batch waits for others"),
    OptionSpec::new(
        "max_dead_letters_per_minute",
        None,
        "more, and more than are delivered, halt delivery until somebody resumes it (1000)",
    ),
    OptionSpec::new(
        RETRY_WAIT_MAX,
        None,
        "the longest wait before a target that failed is tried again (delivery.retry_wait_max)",
    ),
    OptionSpec::new(
        LANES,
        None,
        "how many batches are under way at a time, 1 to 16; a client's rows keep their order (1)",
    ),
];

const RETRY_WAIT_MAX: &str = "retry_wait_max_ms";
/// The longest ceiling of waits that may be asked for.
const RETRY_WAIT_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// One row a kind.
const KINDS: &[Kind] = &[
    clickhouse::KIND,
    influxdb::KIND,
    kafka::KIND,
    mongodb::KIND,
    postgres::KIND,
    sqlite::KIND,
    webhook::KIND,
];

/// Every kind.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

/// What sinks need of the process.
#[derive(Clone)]
pub struct SinkEnv {
    /// The data directory; relative paths start here.
    pub data_dir: PathBuf,
    /// The SQLite files of the process; whoever else writes to one shares its thread.
    pub databases: Databases,
    /// The clock.
    pub clock: SharedClock,
}

impl std::fmt::Debug for SinkEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkEnv").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// A sink for one rule, as declared.
#[derive(Clone, Copy)]
pub struct SinkSpec<'a> {
    /// The word after `TYPE`.
    pub kind: &'a str,
    /// The sink's name.
    pub name: &'a str,
    /// What stands behind the point in `INTO sink.target`.
    pub target: Option<&'a str>,
    /// The rule that writes to it.
    pub rule: &'a str,
    /// The options of `WITH`, their secrets filled in.
    pub options: &'a BTreeMap<String, String>,
}

/// Options may hold secrets: their names are shown, their values are not.
impl std::fmt::Debug for SinkSpec<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options: Vec<_> = self.options.keys().collect();
        f.debug_struct("SinkSpec")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("target", &self.target)
            .field("rule", &self.rule)
            .field("options", &options)
            .finish()
    }
}

/// A sink that is ready to be opened by a pipeline.
pub struct Built {
    /// The sink.
    pub sink: Box<dyn Sink>,
    /// When its batches are full.
    pub limits: Limits,
    /// The target with its default filled in, for the pipeline's identity.
    pub target: String,
    /// The longest wait before a target that failed is tried again; none where the sink does not say.
    pub retry_wait_max: Option<Duration>,
    /// In how many lanes rows are delivered.
    pub lanes: u32,
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built")
            .field("limits", &self.limits)
            .field("target", &self.target)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// Makes the sink that `spec` declares. It opens and sends nothing, so it also serves to check a declaration.
///
/// # Errors
/// Says which kind, option or value is wrong, and what was probably meant.
pub fn build(spec: &SinkSpec<'_>, env: &SinkEnv) -> Result<Built, SinkError> {
    let options = checked(spec)?;
    let kind = options.kind;
    let limits = limits(spec.options, kind.limits)
        .map_err(|name| options.wrong(name, "must be a whole number, and no smaller than makes sense"))?;
    let retry_wait_max = retry_wait_max(spec.options)
        .map_err(|name| options.wrong(name, "must be a whole number between 100 and 86400000"))?;
    let lanes = lanes(spec.options)
        .ok_or_else(|| options.wrong(LANES, &format!("must be a whole number from 1 to {LANES_MAX}")))?;
    let sink = (kind.build)(&options, env)?;
    let target = if kind.has_targets { options.target_or_rule() } else { "" };
    Ok(Built { sink, limits, target: target.to_owned(), retry_wait_max, lanes })
}

/// How many lanes `options` ask for; none where that cannot be.
fn lanes(options: &BTreeMap<String, String>) -> Option<u32> {
    let Some(value) = options.get(LANES) else { return Some(1) };
    value.parse().ok().filter(|lanes| (1..=LANES_MAX).contains(lanes))
}

/// Makes what prepares the target of the sink that `spec` declares; none where there is nothing to prepare. The rule
/// and the table of `spec` do not matter.
///
/// # Errors
/// As [`build`].
pub fn migrator(spec: &SinkSpec<'_>, env: &SinkEnv) -> Result<Option<Box<dyn Migrate>>, SinkError> {
    let options = checked(spec)?;
    options.kind.migrate.map(|migrate| migrate(&options, env)).transpose()
}

/// The options of `spec`, all of them known to its kind.
fn checked<'a>(spec: &SinkSpec<'a>) -> Result<Options<'a>, SinkError> {
    let kind = KINDS.iter().find(|kind| kind.name == spec.kind).ok_or_else(|| {
        let known = KINDS.iter().map(|kind| kind.name);
        SinkError::misconfigured(format!(
            "there is no sink of type `{}`{}",
            spec.kind,
            nearest(spec.kind, known)
        ))
    })?;
    let known = || kind.options.iter().chain(COMMON);
    for name in spec.options.keys() {
        if !known().any(|option| option.covers(name)) {
            let names = known().map(|option| option.name);
            let message = format!("a {} sink has no option `{name}`{}", kind.name, nearest(name, names));
            return Err(SinkError::misconfigured(message));
        }
    }
    Ok(Options { spec: *spec, kind })
}

/// What the [`COMMON`] ones among `options` make of the limits `otherwise`.
///
/// # Errors
/// The name of an option whose value cannot be.
pub fn limits(options: &BTreeMap<String, String>, otherwise: Limits) -> Result<Limits, &'static str> {
    fn parsed<T: FromStr + PartialOrd>(
        options: &BTreeMap<String, String>,
        name: &'static str,
        otherwise: T,
        min: T,
    ) -> Result<T, &'static str> {
        let Some(value) = options.get(name) else { return Ok(otherwise) };
        value.parse().ok().filter(|parsed| *parsed >= min).ok_or(name)
    }
    let wait_ms = u64::try_from(otherwise.batch_wait.as_millis()).unwrap_or(u64::MAX);
    Ok(Limits {
        batch_rows_max: parsed(options, "batch_rows", otherwise.batch_rows_max, 1)?,
        batch_bytes_max: parsed(options, "batch_bytes", otherwise.batch_bytes_max, 1)?,
        batch_wait: Duration::from_millis(parsed(options, "batch_wait_ms", wait_ms, 0)?),
        dead_letters_per_minute_max: parsed(
            options,
            "max_dead_letters_per_minute",
            otherwise.dead_letters_per_minute_max,
            0,
        )?,
    })
}

/// The ceiling of waits that the [`COMMON`] ones among `options` ask for.
///
/// # Errors
/// The name of the option, if its value cannot be.
pub fn retry_wait_max(options: &BTreeMap<String, String>) -> Result<Option<Duration>, &'static str> {
    let Some(value) = options.get(RETRY_WAIT_MAX) else { return Ok(None) };
    let ms = value.parse().ok().filter(|ms| (100..=RETRY_WAIT_MAX_MS).contains(ms));
    ms.map(|ms| Some(Duration::from_millis(ms))).ok_or(RETRY_WAIT_MAX)
}

/// `; did you mean ...` and what there is.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(given, name);
    let near = known.clone().min_by_key(distance).filter(|name| distance(name) <= 1 + name.len() / 3);
    match near {
        Some(name) => format!("; did you mean `{name}`?"),
        None => {
            format!("; known are {}", known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A declaration whose option names are known to be right.
pub(crate) struct Options<'a> {
    spec: SinkSpec<'a>,
    kind: &'static Kind,
}

impl<'a> Options<'a> {
    /// The value of `name`, or its default.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let default = || self.kind.options.iter().find(|option| option.name == name)?.default;
        self.spec.options.get(name).map(String::as_str).or_else(default)
    }

    /// Whether `name` stands in the declaration.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.spec.options.contains_key(name)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&'a str, SinkError> {
        self.get(name).ok_or_else(|| {
            SinkError::misconfigured(format!(
                "the {} sink `{}` needs the option `{name}`",
                self.kind.name, self.spec.name
            ))
        })
    }

    /// The options whose names begin with `prefix`, without it.
    pub(crate) fn with_prefix(&self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let named =
            move |(name, value): (&'a String, &'a String)| Some((name.strip_prefix(prefix)?, value.as_str()));
        self.spec.options.iter().filter_map(named)
    }

    /// The table, topic or collection; the rule's name where none is given.
    pub(crate) fn target_or_rule(&self) -> &'a str {
        self.spec.target.unwrap_or(self.spec.rule)
    }

    pub(crate) fn target(&self) -> Option<&'a str> {
        self.spec.target
    }

    pub(crate) fn parse<T: FromStr>(&self, name: &str) -> Result<T, SinkError> {
        let value = self.required(name)?;
        value.parse().map_err(|_| self.wrong(name, "is not of the right form"))
    }

    pub(crate) fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, SinkError> {
        let value = self.required(name)?;
        let found = choices.iter().find(|(choice, _)| *choice == value);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(choice, _)| format!("`{choice}`")).collect();
            self.wrong(name, &format!("must be one of {}", names.join(", ")))
        })
    }

    /// A message about the value of `name`, which it does not repeat: the value may be a secret.
    pub(crate) fn wrong(&self, name: &str, what: &str) -> SinkError {
        SinkError::misconfigured(format!(
            "option `{name}` of the {} sink `{}` {what}",
            self.kind.name, self.spec.name
        ))
    }
}
