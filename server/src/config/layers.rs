//! Values by key, each with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::mqtt::NONE;
use super::settings::{self, SETTINGS, Setting};
use super::{config_error, units};
use crate::error::{Error, ErrorKind};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// The value of every setting and its origin; later layers replace earlier ones.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Default for Layers {
    fn default() -> Self {
        let values = SETTINGS.iter().map(|it| (it.key, (it.default.to_owned(), Origin::Default)));
        Self { values: values.collect() }
    }
}

impl Layers {
    /// Lays the values of a TOML text over what is there.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a value that cannot be read; with file and line.
    pub fn add_toml(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let line_of = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            config_error(format!("{}:{line}: {}", path.display(), error.message().trim_end()))
        })?;
        let mut flat = Vec::new();
        flatten("", table.get_ref(), &mut flat);
        for (key, at, value) in flat {
            let origin = Origin::File { path: path.to_owned(), line: line_of(at) };
            let value = value.ok_or_else(|| {
                config_error(format!("{origin}: `{key}` takes a text or a number, not a list or a date"))
            })?;
            self.set(&key, value, origin)?;
        }
        Ok(())
    }

    /// Lays the environment over what is there. `variables` may hold anything: what does not begin with `MUSTER_` is
    /// not ours.
    ///
    /// # Errors
    /// An unknown `MUSTER_` variable or a value that cannot be read.
    pub fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (name, value) in variables {
            let Some(key) = settings::key_of_variable(&name) else { continue };
            if !settings::VARIABLES_ASIDE.contains(&name.as_str()) {
                self.set(&key, value, Origin::Environment(name))?;
            }
        }
        Ok(())
    }

    /// Lays one flag over what is there; `flag` is how it is called, e.g. `--data`.
    ///
    /// # Errors
    /// An unknown key or a value that cannot be read.
    pub fn add_flag(&mut self, flag: &str, key: &str, value: String) -> Result<(), Error> {
        self.set(key, value, Origin::Flag(flag.to_owned()))
    }

    fn set(&mut self, key: &str, value: String, origin: Origin) -> Result<(), Error> {
        let Some(setting) = settings::find(key) else { return Err(unknown(key, &origin)) };
        setting.kind.check(&value).map_err(|why| wrong(setting, &origin, &value, &why))?;
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// Each setting with its value and origin.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Setting, &str, &Origin)> {
        SETTINGS.iter().filter_map(|setting| {
            self.values.get(setting.key).map(|(value, origin)| (setting, value.as_str(), origin))
        })
    }

    /// An error about the value that `key` has.
    pub(super) fn wrong(&self, key: &str, why: &str) -> Error {
        let given = self.values.get(key).zip(settings::find(key));
        given.map_or_else(
            || Error::new(ErrorKind::Config, format!("`{key}`: {why}")),
            |((value, origin), setting)| wrong(setting, origin, value, why),
        )
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, Error> {
        let value = self.values.get(key).map(|(value, _)| value.as_str());
        value.ok_or_else(|| config_error(format!("`{key}` is no setting; this is a bug in Muster")))
    }

    pub(super) fn duration(&self, key: &str) -> Result<Duration, Error> {
        units::duration(self.text(key)?).map_err(|why| self.wrong(key, &why))
    }

    pub(super) fn size(&self, key: &str) -> Result<u64, Error> {
        units::size(self.text(key)?).map_err(|why| self.wrong(key, &why))
    }

    pub(super) fn duration_or_never(&self, key: &str) -> Result<Option<Duration>, Error> {
        units::or_never(self.text(key)?, units::duration).map_err(|why| self.wrong(key, &why))
    }

    pub(super) fn size_or_never(&self, key: &str) -> Result<Option<u64>, Error> {
        units::or_never(self.text(key)?, units::size).map_err(|why| self.wrong(key, &why))
    }

    pub(super) fn bytes(&self, key: &str) -> Result<usize, Error> {
        usize::try_from(self.size(key)?).map_err(|_| self.wrong(key, "is more than this machine can address"))
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, Error> {
        self.text(key)?.parse().map_err(|_| self.wrong(key, "is no whole number above 0"))
    }

    pub(super) fn address_or_none(&self, key: &str) -> Result<Option<SocketAddr>, Error> {
        if self.text(key)? == NONE { Ok(None) } else { self.address(key).map(Some) }
    }

    pub(super) fn address(&self, key: &str) -> Result<SocketAddr, Error> {
        self.text(key)?.parse().map_err(|_| self.wrong(key, "is no address"))
    }
}

fn unknown(key: &str, origin: &Origin) -> Error {
    let near = settings::nearest(key);
    config_error(match (origin, near) {
        (Origin::Environment(name), Some(near)) => {
            format!("unknown environment variable {name}; did you mean {}?", settings::variable(near))
        }
        (Origin::Environment(name), None) => {
            format!(
                "unknown environment variable {name}; names that begin with MUSTER_ are Muster's settings"
            )
        }
        (_, Some(near)) => format!("{origin}: unknown key `{key}`; did you mean `{near}`?"),
        (_, None) => format!("{origin}: unknown key `{key}`; `muster config show` lists all keys"),
    })
}

fn wrong(setting: &Setting, origin: &Origin, value: &str, why: &str) -> Error {
    let key = setting.key;
    config_error(if setting.secret {
        // `why` may quote the value.
        format!("{origin}: `{key}` cannot be read")
    } else if why.contains(value) {
        format!("{origin}: `{key}`: {why}")
    } else {
        format!("{origin}: `{key}` = `{value}`: {why}")
    })
}

/// Key, byte position of the key, and the value as text; none for what no setting can be.
type Flat = (String, usize, Option<String>);

fn flatten(prefix: &str, table: &DeTable<'_>, flat: &mut Vec<Flat>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        let text = match value.get_ref() {
            DeValue::Table(inner) if settings::find(&key).is_none() => {
                flatten(&key, inner, flat);
                continue;
            }
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            DeValue::Array(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
        };
        flat.push((key, name.span().start, text));
    }
    flat.sort_by_key(|(_, at, _)| *at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Durability};
    use crate::error::ErrorKind;

    fn toml(text: &str) -> Result<Config, Error> {
        let mut layers = Layers::default();
        layers.add_toml(Path::new("muster.toml"), text)?;
        Config::from_layers(&layers)
    }

    fn refused(text: &str) -> String {
        let error = toml(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_default() {
        let mut layers = Layers::default();
        layers
            .add_toml(
                Path::new("m.toml"),
                "data = 'f'\nrules = 'f'\nnode = 'f'\n[mqtt]\nconnections_max = 7\n",
            )
            .expect("file");
        let env = [("MUSTER_RULES", "e"), ("MUSTER_NODE", "e"), ("MUSTER_LOG", "debug"), ("HOME", "/")];
        layers.add_environment(env.map(|(k, v)| (k.to_owned(), v.to_owned()))).expect("environment");
        layers.add_flag("--node", "node", "flag".to_owned()).expect("flag");
        let config = Config::from_layers(&layers).expect("config");
        assert_eq!(config.data, Path::new("f"));
        assert_eq!(config.rules, Path::new("e"));
        assert_eq!(config.node, "flag");
        assert_eq!(config.mqtt.connections_max, 7);
        assert_eq!(config.http.listen.port(), 18083);
    }

    #[test]
    fn people_write_units() {
        let config = toml(
            "stop_timeout = '3s'\n[journal]\ndurability = 'interval(50ms)'\nsegment_bytes_max = '8MiB'\n\
             [delivery]\nretry_wait_max = 20\n",
        )
        .expect("config");
        assert_eq!(config.stop_timeout, Duration::from_secs(3));
        assert_eq!(config.journal.durability, Durability::Interval(Duration::from_millis(50)));
        assert_eq!(config.journal.segment_bytes_max, 8 << 20);
        assert_eq!(config.delivery.retry_wait_max, Duration::from_millis(20));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, want) in [
            (
                "\n[mqtt]\nlisen = '127.0.0.1:1'",
                "muster.toml:3: unknown key `mqtt.lisen`; did you mean `mqtt.listen`?",
            ),
            ("zzzzzzzz = 1", "muster.toml:1: unknown key `zzzzzzzz`; `muster config show` lists all keys"),
            (
                "[mqtt]\nlisten = 1883",
                "muster.toml:2: `mqtt.listen`: `1883` is no address; write for example 127.0.0.1:1883 or [::1]:1883, or none",
            ),
            ("data = []", "muster.toml:1: `data` takes a text or a number, not a list or a date"),
            (
                "[mqtt.listen]\nport = 3",
                "muster.toml:1: `mqtt.listen` takes a text or a number, not a list or a date",
            ),
            (
                "[mqtt]\nconnections_max = 0",
                "muster.toml:2: `mqtt.connections_max`: `0` is no whole number above 0",
            ),
        ] {
            assert_eq!(refused(text), want, "{text}");
        }
        for (text, want) in [
            (
                "cap_bytes = '100MiB'",
                "muster.toml:2: `journal.cap_bytes` = `100MiB`: is smaller than two segments (journal.segment_bytes_max); only whole segments are removed",
            ),
            (
                "when_full = 'drop_oldest'",
                "muster.toml:2: `journal.when_full` = `drop_oldest`: says what happens at journal.cap_bytes, which is not set",
            ),
            (
                "cap_bytes = '1GiB'\nretention_bytes = '2GiB'",
                "muster.toml:3: `journal.retention_bytes` = `2GiB`: is larger than journal.cap_bytes and would never be reached",
            ),
            (
                "retention_age = '0s'",
                "muster.toml:2: `journal.retention_age` = `0s`: 0 would keep nothing; write never for no limit",
            ),
            (
                "when_full = 'panic'",
                "muster.toml:2: `journal.when_full`: `panic` is none of refuse, drop_oldest",
            ),
            ("gather = '1s'", "muster.toml:2: `journal.gather` = `1s`: is longer than 100ms"),
            ("compress = 'gzip'", "muster.toml:2: `journal.compress`: `gzip` is none of none, zstd"),
            (
                "compress_level = 20",
                "muster.toml:2: `journal.compress_level`: `20` is no whole number from 1 to 19",
            ),
        ] {
            assert_eq!(refused(&format!("[journal]\n{text}")), want, "{text}");
        }
        assert!(refused("a = \nb = 2").starts_with("muster.toml:1: "), "{}", refused("a = \nb = 2"));
    }

    #[test]
    fn an_unknown_variable_of_ours_is_an_error_that_names_the_nearest() {
        let mut layers = Layers::default();
        let error = layers
            .add_environment([("MUSTER_MQTT__LISTN".to_owned(), "x".to_owned())])
            .expect_err("unknown variable");
        assert_eq!(
            error.to_string(),
            "unknown environment variable MUSTER_MQTT__LISTN; did you mean MUSTER_MQTT__LISTEN?"
        );
    }

    #[test]
    fn a_secret_is_not_in_its_own_error() {
        let setting = Setting { key: "k", default: "", kind: settings::Kind::Count, secret: true, help: "" };
        let error = wrong(&setting, &Origin::Default, "hunter2", "`hunter2` is no number");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
