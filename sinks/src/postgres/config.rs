//! Options of the PostgreSQL sink. Nothing is opened here but the files of certificates, which are read later, when
//! a connection is made. It must never show a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::SslMode;

use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};
use crate::upsert::Upsert;

/// The longest wait for the server that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Bytes of a name that PostgreSQL keeps.
const NAME_BYTES_MAX: usize = 63;

/// How far the server's certificate is trusted, as libpq has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const TLS: &[(&str, Tls)] = &[
    ("disable", Tls::Disable),
    ("prefer", Tls::Prefer),
    ("require", Tls::Require),
    ("verify-ca", Tls::VerifyCa),
    ("verify-full", Tls::VerifyFull),
];

/// Where the server is and how it is reached.
#[derive(Clone)]
pub(super) struct Server {
    /// Holds the password, and is never shown.
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: Tls,
    /// A file, or `system`.
    pub(super) root: Option<PathBuf>,
    /// Our own certificate and its key.
    pub(super) own: Option<(PathBuf, PathBuf)>,
    pub(super) schema: Option<String>,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    /// Host, port and database, for messages.
    pub(super) shown: String,
}

/// Without the password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("shown", &self.shown).field("tls", &self.tls).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) server: Server,
    pub(super) table: String,
    pub(super) upsert: Option<Upsert>,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let table = options.target_or_rule();
        if table.is_empty() || table.contains('\0') || table.len() > NAME_BYTES_MAX {
            let message = format!("a table's name has 1 to {NAME_BYTES_MAX} bytes and holds no NUL");
            return Err(SinkError::misconfigured(message));
        }
        if table.to_ascii_lowercase().starts_with("_muster_") {
            return Err(SinkError::misconfigured(format!(
                "the table name `{table}` is reserved; choose another"
            )));
        }
        let upsert = Upsert::parse(options, table)?;
        Ok(Self { server: Server::parse(options, env)?, table: table.to_owned(), upsert })
    }
}

impl Server {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let mut more = Query::default();
        let mut config = match options.get("url") {
            Some(url) => from_url(options, url, &mut more)?,
            None => from_parts(options)?,
        };
        let tls = match (options.get("sslmode"), &more.sslmode) {
            (Some(_), _) => options.one_of("sslmode", TLS)?,
            (None, Some(given)) => {
                let known = TLS.iter().find(|(name, _)| name == given);
                known.map(|(_, tls)| *tls).ok_or_else(|| options.wrong("url", "has an unknown `sslmode`"))?
            }
            (None, None) => Tls::Prefer,
        };
        let file = |name: &str, given: &Option<String>| {
            let value = options.get(name).map(str::to_owned).or_else(|| given.clone())?;
            Some(if value == "system" { value.into() } else { env.data_dir.join(value) })
        };
        let root = file("sslrootcert", &more.sslrootcert);
        let own = match (file("sslcert", &more.sslcert), file("sslkey", &more.sslkey)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(options.wrong("sslcert", "is of no use without `sslkey`")),
            (None, Some(_)) => return Err(options.wrong("sslkey", "is of no use without `sslcert`")),
        };
        if matches!(tls, Tls::VerifyCa | Tls::VerifyFull) && root.is_none() {
            let what = "verifies against `sslrootcert`, which is missing: name a file, or `system` for the \
                        certificates of this machine";
            return Err(options.wrong("sslmode", what));
        }
        let schema = options.get("schema").map(str::to_owned);
        if schema.as_ref().is_some_and(|name| name.is_empty() || name.contains('\0')) {
            return Err(options.wrong("schema", "is no name"));
        }
        let connect_timeout = timeout(options, "connect_timeout_ms")?;
        let statement_timeout = timeout(options, "statement_timeout_ms")?;
        let keepalive = timeout(options, "keepalive_ms")?;
        config
            .ssl_mode(match tls {
                Tls::Disable => SslMode::Disable,
                Tls::Prefer => SslMode::Prefer,
                _ => SslMode::Require,
            })
            .connect_timeout(connect_timeout)
            .tcp_user_timeout(statement_timeout)
            .keepalives_idle(keepalive)
            .keepalives_interval(keepalive);
        if config.get_application_name().is_none() {
            config.application_name("muster");
        }
        let shown = shown(&config);
        Ok(Self { config, tls, root, own, schema, connect_timeout, statement_timeout, shown })
    }
}

/// What libpq has in the query of an address and the driver has not.
#[derive(Default)]
struct Query {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
}

const PARTS: [&str; 5] = ["host", "port", "database", "user", "password"];

fn from_url(options: &Options<'_>, url: &str, more: &mut Query) -> Result<tokio_postgres::Config, SinkError> {
    if let Some(part) = PARTS.iter().find(|part| options.given(part)) {
        return Err(options.wrong(part, "stands in `url` already; give one of the two"));
    }
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(options.wrong("url", "must begin with postgres://"));
    }
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value =
            Some(decoded(value).ok_or_else(|| options.wrong("url", "has a broken `%` in its query"))?);
        match name {
            "sslmode" => more.sslmode = value,
            "sslrootcert" => more.sslrootcert = value,
            "sslcert" => more.sslcert = value,
            "sslkey" => more.sslkey = value,
            _ => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { address.to_owned() } else { format!("{address}?{}", kept.join("&")) };
    let mut config: tokio_postgres::Config = rest.parse().map_err(|error: tokio_postgres::Error| {
        // The cause names an option, never its value.
        options.wrong("url", "is no address of a PostgreSQL server").caused_by(error)
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(options.wrong("url", "names no host"));
    }
    if config.get_user().is_none() {
        config.user("postgres");
    }
    Ok(config)
}

fn from_parts(options: &Options<'_>) -> Result<tokio_postgres::Config, SinkError> {
    let Some(host) = options.get("host") else {
        return Err(SinkError::misconfigured("a postgres sink needs the option `url` or the option `host`"));
    };
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(options.parse("port")?).user(options.get("user").unwrap_or("postgres"));
    if let Some(database) = options.get("database") {
        config.dbname(database);
    }
    if let Some(password) = options.get("password") {
        config.password(password);
    }
    Ok(config)
}

fn timeout(options: &Options<'_>, name: &str) -> Result<Duration, SinkError> {
    let wait = Duration::from_millis(options.parse(name)?);
    if wait.is_zero() || wait > TIMEOUT_MAX {
        return Err(options.wrong(name, "must be between 1 and 3600000"));
    }
    Ok(wait)
}

/// Host, port and database.
fn shown(config: &tokio_postgres::Config) -> String {
    use tokio_postgres::config::Host;
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => Path::display(path).to_string(),
        })
        .chain(config.get_hosts().is_empty().then(|| format!("{:?}", config.get_hostaddrs())))
        .collect();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}:{port}/{database}", hosts.join(","))
}

/// A text with `%41` for `A`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn percent_signs_are_read() {
        assert_eq!(decoded("/a%20b/%2F").as_deref(), Some("/a b//"));
        assert_eq!(decoded("%4"), None);
        assert_eq!(decoded("%ff"), None);
    }
}
