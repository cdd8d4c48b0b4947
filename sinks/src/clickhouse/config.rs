//! Options of the ClickHouse sink: checked here, nothing opened. It must never know a request or a table's columns.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::error::SinkError;
use crate::registry::{OptionSpec, Options, SinkEnv};

/// The longest wait for an answer that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);

/// What `setting.` may not name: these are options of their own, or what makes an INSERT repeatable.
const OWN_SETTINGS: &[&str] = &[
    "async_insert",
    "buffer_size",
    "compress",
    "database",
    "decompress",
    "default_format",
    "enable_http_compression",
    "insert_deduplication_token",
    "password",
    "query",
    "query_id",
    "session_id",
    "user",
    "wait_end_of_query",
    "wait_for_async_insert",
];

pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "url",
        None,
        "the server's HTTP interface, e.g. http://clickhouse:8123 or https://...:8443",
    ),
    OptionSpec::new("database", None, "the database; the user's own where it is not given"),
    OptionSpec::new("user", Some("default"), "who writes"),
    OptionSpec::secret("password", "of `user`"),
    OptionSpec::new("compression", Some("lz4"), "`lz4` or `none`: how rows travel"),
    OptionSpec::new(
        "deduplicate",
        Some("token"),
        "`token`: name each batch, so that a table that keeps a \
         deduplication window knows it again; `none`: take equal \
         batches as they come",
    ),
    OptionSpec::new(
        "async_insert",
        Some("false"),
        "`true`: the server gathers inserts of several writers; each waits \
         until its rows are written",
    ),
    OptionSpec::new("timeout_ms", Some("30000"), "how long an answer may take"),
    OptionSpec::new("setting.", None, "a setting of each INSERT, e.g. `setting.insert_quorum = '2'`"),
    OptionSpec::new("ca_file", None, "certificates to trust beside the system's (PEM)"),
    OptionSpec::new("cert_file", None, "our certificate, for servers that ask for one (PEM)"),
    OptionSpec::new("key_file", None, "its key (PEM)"),
];

/// No `Debug`: it holds the password.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) url: Url,
    pub(super) database: Option<String>,
    pub(super) user: HeaderValue,
    pub(super) password: Option<HeaderValue>,
    pub(super) lz4: bool,
    pub(super) tokens: bool,
    pub(super) async_insert: bool,
    pub(super) timeout: Duration,
    pub(super) settings: Vec<(String, String)>,
    pub(super) ca_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) table: Arc<str>,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let table = options.target_or_rule();
        if table.is_empty() || table.contains('\0') || table.starts_with("_muster_") {
            let message =
                format!("`{table}` cannot be the name of a table: it is empty, or begins with `_muster_`");
            return Err(SinkError::misconfigured(message));
        }
        let timeout = Duration::from_millis(options.parse("timeout_ms")?);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(options.wrong("timeout_ms", "must be between 1 and 600000"));
        }
        let tokens = options.one_of("deduplicate", &[("token", true), ("none", false)])?;
        let async_insert = options.one_of("async_insert", &[("true", true), ("false", false)])?;
        let mut password =
            options.get("password").map(|password| header(options, "password", password)).transpose()?;
        if let Some(password) = &mut password {
            password.set_sensitive(true);
        }
        Ok(Self {
            url: url(options)?,
            database: options.get("database").map(str::to_owned).filter(|name| !name.is_empty()),
            user: header(options, "user", options.required("user")?)?,
            password,
            lz4: options.one_of("compression", &[("lz4", true), ("none", false)])?,
            tokens,
            async_insert,
            timeout,
            settings: settings(options)?,
            ca_file: options.get("ca_file").map(|path| env.data_dir.join(path)),
            identity: identity(options, env)?,
            table: table.into(),
        })
    }
}

fn url(options: &Options<'_>) -> Result<Url, SinkError> {
    let url = Url::parse(options.required("url")?)
        .map_err(|error| options.wrong("url", "is no address").caused_by(error))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(options.wrong("url", "must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(options.wrong("url", "must not hold credentials: use `user` and `password`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(options.wrong("url", "must end before `?`: use `database` and `setting.NAME`"));
    }
    Ok(url)
}

fn header(options: &Options<'_>, name: &str, value: &str) -> Result<HeaderValue, SinkError> {
    HeaderValue::from_str(value).map_err(|_| options.wrong(name, "holds what a header cannot"))
}

fn settings(options: &Options<'_>) -> Result<Vec<(String, String)>, SinkError> {
    let mut settings = Vec::new();
    for (name, value) in options.with_prefix("setting.") {
        let full = format!("setting.{name}");
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(options.wrong(&full, "is no name of a setting"));
        }
        if OWN_SETTINGS.contains(&name) {
            return Err(options.wrong(&full, "is the sink's own; it has an option, or cannot be changed"));
        }
        settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(settings)
}

fn identity(options: &Options<'_>, env: &SinkEnv) -> Result<Option<(PathBuf, PathBuf)>, SinkError> {
    match (options.get("cert_file"), options.get("key_file")) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((env.data_dir.join(cert), env.data_dir.join(key)))),
        (Some(_), None) => Err(options.wrong("cert_file", "needs `key_file`")),
        (None, Some(_)) => Err(options.wrong("key_file", "needs `cert_file`")),
    }
}
