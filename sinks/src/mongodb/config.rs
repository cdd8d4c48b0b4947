//! Options of the MongoDB sink, checked as far as they can be without a connection. It must never know a row.

use std::path::PathBuf;
use std::time::Duration;

use mongodb::options::{Acknowledgment, AuthMechanism, ConnectionString, HostInfo, WriteConcern};

use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};
use crate::upsert::Upsert;

/// The longest wait for an answer that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);
/// Bytes of `database.collection`, MongoDB's own limit.
const NAMESPACE_BYTES_MAX: usize = 255;
/// Days that rows of the shared collections may be kept: what an index that expires them can hold, in seconds.
const KEEP_DAYS_MAX: u32 = 24_855;

/// A declaration that makes sense. It holds secrets and so has no `Debug`.
pub(super) struct Config {
    pub(super) url: String,
    pub(super) login: Option<Login>,
    pub(super) database: String,
    pub(super) collection: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) timeout: Duration,
    pub(super) write_concern: WriteConcern,
    pub(super) times: Vec<String>,
    pub(super) upsert: Option<Upsert>,
    pub(super) time_series: Option<TimeSeries>,
}

/// Who we are, where it does not stand in the address.
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) source: Option<String>,
    pub(super) mechanism: Option<AuthMechanism>,
}

/// A time-series collection.
#[derive(Debug, Clone)]
pub(super) struct TimeSeries {
    pub(super) time: String,
    pub(super) meta: Option<String>,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let url = options.required("url")?;
        let parsed = address(options, url)?;
        let database = match options.get("database") {
            Some(name) => name.to_owned(),
            None => parsed.default_database.ok_or_else(|| {
                options.wrong("database", "is missing, and the address names no database either")
            })?,
        };
        if database.is_empty() || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return Err(options.wrong("database", r#"must be a name without / \ . " $ and spaces"#));
        }
        let collection = options.target_or_rule().to_owned();
        check_collection(&database, &collection)?;
        let timeout = Duration::from_millis(options.parse("timeout_ms")?);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(options.wrong("timeout_ms", "must be between 1 and 600000"));
        }
        let upsert = Upsert::parse(options, &collection)?;
        let time_series = time_series(options)?;
        if time_series.is_some() && upsert.is_some() {
            let what = "cannot go together with a key: documents of a time series are not replaced";
            return Err(options.wrong("time_series", what));
        }
        let path = |name| options.get(name).map(|path| env.data_dir.join(path));
        Ok(Self {
            url: url.to_owned(),
            login: login(options)?,
            database,
            collection,
            ca_file: path("ca_file"),
            cert_file: path("cert_file"),
            timeout,
            write_concern: write_concern(options, timeout)?,
            times: times(options),
            upsert,
            time_series,
        })
    }
}

/// After how many seconds the shared collections forget, if they do.
pub(super) fn keep_seconds(options: &Options<'_>) -> Result<Option<u64>, SinkError> {
    if options.get("keep_days").is_none() {
        return Ok(None);
    }
    let days: u32 = options.parse("keep_days")?;
    if !(1..=KEEP_DAYS_MAX).contains(&days) {
        return Err(options.wrong("keep_days", &format!("must be between 1 and {KEEP_DAYS_MAX}")));
    }
    Ok(Some(u64::from(days) * 24 * 60 * 60))
}

/// What the driver makes of the address. Its own words are not repeated: they may quote a password.
fn address(options: &Options<'_>, url: &str) -> Result<ConnectionString, SinkError> {
    if url.starts_with("mongodb+srv:") {
        let what = "must begin with mongodb://; list the servers instead of a mongodb+srv name";
        return Err(options.wrong("url", what));
    }
    if !url.starts_with("mongodb://") {
        return Err(options.wrong("url", "must begin with mongodb://"));
    }
    let parsed = ConnectionString::parse(url).map_err(|_| {
        options.wrong("url", "is no address of MongoDB").with_hint(
            "write `mongodb://HOST:PORT,HOST:PORT/DATABASE?OPTION=VALUE`, with `%` codes for : / ? # @ in a password, \
             or use the options `username` and `password`",
        )
    })?;
    match &parsed.host_info {
        HostInfo::HostIdentifiers(hosts) if !hosts.is_empty() => Ok(parsed),
        _ => Err(options.wrong("url", "names no server")),
    }
}

fn check_collection(database: &str, name: &str) -> Result<(), SinkError> {
    let wrong = |why: &str| Err(SinkError::misconfigured(format!("the collection name `{name}` {why}")));
    if name.is_empty() || name.contains(['$', '\0']) || name.starts_with('.') || name.ends_with('.') {
        return wrong("must not be empty, hold a `$` or a NUL, nor begin or end with a point");
    }
    if name.starts_with("system.") || name.starts_with("_muster_") {
        return wrong("is reserved; choose another");
    }
    if database.len() + 1 + name.len() > NAMESPACE_BYTES_MAX {
        return wrong("is too long");
    }
    Ok(())
}

fn login(options: &Options<'_>) -> Result<Option<Login>, SinkError> {
    let given = |name| options.get(name).map(str::to_owned);
    let mechanism = match options.get("auth_mechanism") {
        None => None,
        Some("SCRAM-SHA-256") => Some(AuthMechanism::ScramSha256),
        Some("SCRAM-SHA-1") => Some(AuthMechanism::ScramSha1),
        Some("MONGODB-X509") => Some(AuthMechanism::MongoDbX509),
        Some("PLAIN") => Some(AuthMechanism::Plain),
        Some(_) => {
            let what = "must be one of `SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509`, `PLAIN`";
            return Err(options.wrong("auth_mechanism", what));
        }
    };
    let x509 = matches!(mechanism, Some(AuthMechanism::MongoDbX509));
    let (username, password, source) = (given("username"), given("password"), given("auth_source"));
    match (&username, &password) {
        (Some(_), None) if !x509 => return Err(options.wrong("password", "is missing beside `username`")),
        (None, Some(_)) => return Err(options.wrong("username", "is missing beside `password`")),
        (None, None) if !x509 && (source.is_some() || mechanism.is_some()) => {
            let what = "is missing beside `auth_source` or `auth_mechanism`; in the address they are \
                        `authSource` and `authMechanism`";
            return Err(options.wrong("username", what));
        }
        _ => {}
    }
    let login = username.is_some() || x509;
    Ok(login.then_some(Login { username, password, source, mechanism }))
}

fn write_concern(options: &Options<'_>, timeout: Duration) -> Result<WriteConcern, SinkError> {
    let w = match options.required("write_concern")? {
        "majority" => Acknowledgment::Majority,
        number => match number.parse() {
            Ok(nodes @ 1..) => Acknowledgment::Nodes(nodes),
            _ => return Err(options.wrong("write_concern", "must be `majority` or a number from 1")),
        },
    };
    let journal = options.one_of("journal", &[("true", true), ("false", false)])?;
    // Without a limit of its own, a server that lacks a majority would answer never, and we would not know why.
    Ok(WriteConcern::builder().w(w).journal(journal).w_timeout(timeout).build())
}

fn time_series(options: &Options<'_>) -> Result<Option<TimeSeries>, SinkError> {
    let wanted = options.one_of("time_series", &[("true", true), ("false", false)])?;
    let (time, meta) = (options.get("time_field"), options.get("meta_field"));
    if !wanted {
        let stray =
            [("time_field", time), ("meta_field", meta)].into_iter().find(|(_, value)| value.is_some());
        return match stray {
            Some((name, _)) => Err(options.wrong(name, "is of no use without `time_series = 'true'`")),
            None => Ok(None),
        };
    }
    let field = |name, field: &str| {
        let fits =
            !field.is_empty() && field != "_id" && !field.contains(['.', '\0']) && !field.starts_with('$');
        if fits { Ok(field.to_owned()) } else { Err(options.wrong(name, "is no name of a column")) }
    };
    let time = field("time_field", time.unwrap_or("timestamp"))?;
    let meta = meta.map(|meta| field("meta_field", meta)).transpose()?;
    if meta.as_ref() == Some(&time) {
        return Err(options.wrong("meta_field", "must be another column than `time_field`"));
    }
    Ok(Some(TimeSeries { time, meta }))
}

fn times(options: &Options<'_>) -> Vec<String> {
    let list = options.get("times").unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}
