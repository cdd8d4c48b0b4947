//! Options of the InfluxDB sink, checked; nothing is opened or read. It must never know how an event is encoded.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::shape::{Floats, Nested, Shape, Tag, Template};
use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};

/// The longest wait for an answer that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);
/// The shortest time that InfluxDB lets data live.
const RETENTION_SECONDS_MIN: u64 = 60 * 60;

/// Where points go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Api {
    /// `/api/v2/write`.
    V2 {
        /// The organisation; InfluxDB 1.8 wants none.
        org: Option<String>,
        /// The bucket; in InfluxDB 1.8 `database` or `database/retention-policy`.
        bucket: String,
    },
    /// `/write`.
    V1 {
        /// The database.
        database: String,
        /// The retention policy; the database's default where there is none.
        policy: Option<String>,
        /// How many nodes of a cluster must have a point.
        consistency: Option<String>,
    },
}

/// The way to the server.
pub(super) struct Connection {
    pub(super) url: Url,
    pub(super) api: Api,
    pub(super) headers: HeaderMap,
    pub(super) gzip: bool,
    pub(super) timeout: Duration,
    pub(super) ca_file: Option<PathBuf>,
}

impl Connection {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let url = Url::parse(options.required("url")?)
            .map_err(|error| options.wrong("url", "is no address").caused_by(error))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(options.wrong("url", "must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let what = "must hold neither credentials nor parameters; they have options of their own";
            return Err(options.wrong("url", what));
        }
        let timeout = Duration::from_millis(options.parse("timeout_ms")?);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(options.wrong("timeout_ms", "must be between 1 and 600000"));
        }
        let v1 = options.one_of("api", &[("v2", false), ("v1", true)])?;
        let (foreign, of): (&[&str], _) = if v1 {
            (&["org", "bucket", "token"], "v2")
        } else {
            (&["database", "retention_policy", "username", "password", "consistency"], "v1")
        };
        if let Some(name) = foreign.iter().find(|name| options.get(name).is_some()) {
            return Err(options.wrong(name, &format!("is of no use unless `api` is `{of}`")));
        }
        Ok(Self {
            api: if v1 { v1_target(options)? } else { v2_target(options)? },
            headers: headers(options, v1)?,
            gzip: options.one_of("gzip", &[("true", true), ("false", false)])?,
            timeout,
            ca_file: options.get("ca_file").map(|path| env.data_dir.join(path)),
            url,
        })
    }

    /// Scheme, host and port, for messages.
    pub(super) fn shown(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The bucket or database, for messages.
    pub(super) fn target(&self) -> String {
        match &self.api {
            Api::V2 { bucket, .. } => format!("the bucket `{bucket}`"),
            Api::V1 { database, .. } => format!("the database `{database}`"),
        }
    }
}

fn v2_target(options: &Options<'_>) -> Result<Api, SinkError> {
    let org = options.get("org").map(str::to_owned);
    Ok(Api::V2 { org, bucket: name(options, "bucket")? })
}

fn v1_target(options: &Options<'_>) -> Result<Api, SinkError> {
    let choices = ["any", "one", "quorum", "all"].map(|choice| (choice, choice));
    let consistency = options.get("consistency").map(|_| options.one_of("consistency", &choices));
    let policy = options.get("retention_policy").map(|_| name(options, "retention_policy"));
    Ok(Api::V1 {
        database: name(options, "database")?,
        policy: policy.transpose()?,
        consistency: consistency.transpose()?.map(str::to_owned),
    })
}

/// A name that goes into a statement as well as into an address.
fn name(options: &Options<'_>, option: &str) -> Result<String, SinkError> {
    let name = options.required(option)?;
    if name.is_empty() || name.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err(options.wrong(option, "is no name"));
    }
    Ok(name.to_owned())
}

fn headers(options: &Options<'_>, v1: bool) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    let secret = |option: &str, value: &str| {
        let mut value =
            HeaderValue::from_str(value).map_err(|_| options.wrong(option, "holds what a header cannot"))?;
        value.set_sensitive(true);
        Ok::<_, SinkError>(value)
    };
    if let Some(token) = options.get("token") {
        headers.insert(AUTHORIZATION, secret("token", &format!("Token {token}"))?);
    }
    match (options.get("username"), options.get("password")) {
        (Some(user), Some(password)) => {
            let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            headers.insert(AUTHORIZATION, secret("password", &value)?);
        }
        (None, None) => {}
        (Some(_), None) => return Err(options.wrong("username", "is of no use without `password`")),
        (None, Some(_)) => return Err(options.wrong("password", "is of no use without `username`")),
    }
    for (name, value) in options.with_prefix("header.") {
        let full = format!("header.{name}");
        let name: HeaderName = name.parse().map_err(|_| options.wrong(&full, "is no name of a header"))?;
        if name == AUTHORIZATION && headers.contains_key(AUTHORIZATION) {
            let instead = if v1 { "`username`" } else { "`token`" };
            return Err(options.wrong(&full, &format!("says the same as {instead}; give one of them")));
        }
        headers.insert(name, secret(&full, value)?);
    }
    Ok(headers)
}

impl Shape {
    pub(super) fn parse(options: &Options<'_>) -> Result<Self, SinkError> {
        let measurement = match options.get("measurement") {
            Some(text) => Template::parse(text).map_err(|reason| options.wrong("measurement", &reason))?,
            None => Template::fixed(options.target_or_rule()).map_err(|reason| {
                let message = format!("the name of the target cannot be a measurement: it {reason}");
                SinkError::misconfigured(message)
            })?,
        };
        let rule_tag = options.get("rule_tag").filter(|name| !name.is_empty());
        let mut tags = columns(options, "tags").unwrap_or_default().into_iter().map(Some).collect::<Vec<_>>();
        if let Some(name) = rule_tag
            && !tags.iter().flatten().any(|tag| tag == name)
        {
            tags.push(None);
        }
        let key = |column: Option<String>| {
            let (option, name) = match &column {
                Some(column) => ("tags", column.as_str()),
                None => ("rule_tag", rule_tag.unwrap_or_default()),
            };
            Tag::new(name, column.is_none())
                .map_err(|reason| options.wrong(option, &format!("names `{name}`, which {reason}")))
        };
        let mut tags = tags.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
        // In the order in which the server keeps them, which spares it the work.
        tags.sort();
        tags.dedup();
        let floats = columns(options, "floats").unwrap_or_default();
        Ok(Self {
            measurement,
            tags,
            fields: columns(options, "fields"),
            timestamp: options.get("timestamp").map(str::to_owned),
            nested: options.one_of("nested", &[("json", Nested::Json), ("flatten", Nested::Flatten)])?,
            floats: if floats.iter().any(|name| name == "*") { Floats::All } else { Floats::Of(floats) },
        })
    }
}

/// A list of columns; none where the option is not given.
fn columns(options: &Options<'_>, option: &str) -> Option<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for name in options.get(option)?.split(',').map(str::trim) {
        if !name.is_empty() && !columns.iter().any(|column| column == name) {
            columns.push(name.to_owned());
        }
    }
    Some(columns)
}

/// How long data lives, as the operator wrote it and in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retention {
    pub(super) text: String,
    pub(super) seconds: u64,
}

impl Retention {
    /// None where data lives for ever.
    pub(super) fn parse(options: &Options<'_>) -> Result<Option<Self>, SinkError> {
        let text = options.required("retention")?.trim();
        if matches!(text, "0" | "inf") {
            return Ok(None);
        }
        let wrong = || options.wrong("retention", "must be `0` or a number with m, h, d or w, e.g. `30d`");
        let unit_at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(unit_at);
        let seconds: u64 = match unit {
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            "w" => 7 * 24 * 60 * 60,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let seconds =
            number.checked_mul(seconds).filter(|all| *all < u64::from(u32::MAX)).ok_or_else(wrong)?;
        if seconds < RETENTION_SECONDS_MIN {
            return Err(options.wrong("retention", "must be an hour or more: InfluxDB keeps nothing shorter"));
        }
        Ok(Some(Self { text: text.to_owned(), seconds }))
    }
}
