//! Options of the webhook sink.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use ring::hmac;

use super::guard;
use super::shape::{Address, Shape};
use super::template::Template;
use crate::error::SinkError;
use crate::registry::{Options, SinkEnv};

/// Requests at the same time that may be asked for.
const IN_FLIGHT_MAX: usize = 64;
/// The longest wait for an answer that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);
/// Secrets at the same time; two are enough to change one for another.
const SECRETS_MAX: usize = 4;
/// Headers that the sink writes itself, and what to write instead where there is something.
const OWN_HEADERS: &[(&str, &str)] = &[
    ("content-type", "is the sink's own; write `content_type`"),
    ("content-length", "is the sink's own"),
    ("transfer-encoding", "is the sink's own"),
    ("webhook-id", "is the sink's own"),
    ("webhook-timestamp", "is the sink's own"),
    ("webhook-signature", "is the sink's own; write `secret`"),
];

pub(super) struct Config {
    pub(super) shape: Arc<Shape>,
    pub(super) method: Method,
    pub(super) keys: Vec<hmac::Key>,
    pub(super) idempotency_key: bool,
    pub(super) timeout: Duration,
    pub(super) in_flight: usize,
    /// Headers that are the same for all rows.
    pub(super) headers: HeaderMap,
    /// Whether only public addresses may be connected to.
    pub(super) public_only: bool,
    pub(super) tls: Tls,
}

/// Files in PEM.
#[derive(Debug, Default)]
pub(super) struct Tls {
    /// Whose certificates are trusted, instead of those that the system trusts.
    pub(super) ca_file: Option<PathBuf>,
    /// Our certificate, with those between it and its authority, and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        if let Some(target) = options.target() {
            let message =
                format!("a webhook has no tables: write `INTO` the sink's name without `.{target}`");
            return Err(SinkError::misconfigured(message));
        }
        let address = Address::parse(options)?;
        let timeout = Duration::from_millis(options.parse("timeout_ms")?);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(options.wrong("timeout_ms", "must be between 1 and 600000"));
        }
        let in_flight = options.parse("in_flight")?;
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return Err(options.wrong("in_flight", "must be between 1 and 64"));
        }
        let public_only = options.one_of("private_ranges", &[("allow", false), ("refuse", true)])?;
        if public_only && let Err(refused) = guard::check_literal(address.base()) {
            return Err(options.wrong("url", "leads inside").caused_by(refused));
        }
        let tls = tls(options, env, address.base())?;
        let methods = [("POST", Method::POST), ("PUT", Method::PUT), ("PATCH", Method::PATCH)];
        let at = options.one_of("method", &[("POST", 0), ("PUT", 1), ("PATCH", 2)])?;
        let method = methods.get(at).map_or(Method::POST, |(_, method)| method.clone());
        let idempotency_key = options.one_of("idempotency_key", &[("true", true), ("false", false)])?;
        let keys = signing_keys(options)?;
        let (headers, row_headers) = headers(options)?;
        let shape = Arc::new(Shape::parse(options, address, row_headers)?);
        Ok(Self { shape, method, keys, idempotency_key, timeout, in_flight, headers, public_only, tls })
    }
}

/// Scheme, host and port: credentials, query and path may each be a secret.
pub(super) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn signing_keys(options: &Options<'_>) -> Result<Vec<hmac::Key>, SinkError> {
    let Some(secrets) = options.get("secret") else { return Ok(Vec::new()) };
    let key = |secret: &str| {
        let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
        let bytes = STANDARD.decode(encoded).ok().filter(|bytes| !bytes.is_empty())?;
        Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    };
    let keys = secrets.split([' ', '\t', '\n', ',']).filter(|secret| !secret.is_empty()).map(key);
    let keys = keys.collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty());
    let keys =
        keys.ok_or_else(|| options.wrong("secret", "must be `whsec_` and base64, e.g. of 32 random bytes"))?;
    if keys.len() > SECRETS_MAX {
        return Err(options.wrong("secret", "holds more than 4 secrets"));
    }
    Ok(keys)
}

type RowHeaders = Vec<(HeaderName, Template)>;

/// Headers that are the same for all rows, and those that hold columns.
fn headers(options: &Options<'_>) -> Result<(HeaderMap, RowHeaders), SinkError> {
    let (mut constant, mut of_row) = (HeaderMap::new(), Vec::new());
    for (name, value) in options.with_prefix("header.") {
        let full = format!("header.{name}");
        let name: HeaderName = name.parse().map_err(|_| options.wrong(&full, "is no name of a header"))?;
        if let Some((_, what)) = OWN_HEADERS.iter().find(|(own, _)| *own == name.as_str()) {
            return Err(options.wrong(&full, what));
        }
        let template = Template::new(value);
        // What stands around the columns must fit into a header, too.
        let text = if template.is_constant() { template.prefix() } else { value };
        let mut value =
            HeaderValue::from_str(text).map_err(|_| options.wrong(&full, "holds what a header cannot"))?;
        if template.is_constant() {
            value.set_sensitive(true);
            constant.insert(name, value);
        } else {
            of_row.push((name, template));
        }
    }
    Ok((constant, of_row))
}

fn tls(options: &Options<'_>, env: &SinkEnv, url: &Url) -> Result<Tls, SinkError> {
    let file = |name| options.get(name).map(|path| env.data_dir.join(path));
    let given = ["ca_file", "cert_file", "key_file"].into_iter().find(|name| options.get(name).is_some());
    if let (Some(name), "http") = (given, url.scheme()) {
        return Err(options.wrong(name, "is of no use with http://"));
    }
    let identity = match (file("cert_file"), file("key_file")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(options.wrong("cert_file", "needs a `key_file`")),
        (None, Some(_)) => return Err(options.wrong("key_file", "needs a `cert_file`")),
    };
    Ok(Tls { ca_file: file("ca_file"), identity })
}
