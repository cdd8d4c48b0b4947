//! Options of the webhook sink.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::error::SinkError;
use crate::registry::Options;

/// Requests at the same time that may be asked for.
const IN_FLIGHT_MAX: usize = 64;
/// The longest wait for an answer that may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);

pub(super) struct Config {
    pub(super) url: Url,
    pub(super) key: Option<hmac::Key>,
    pub(super) batch: bool,
    pub(super) timeout: Duration,
    pub(super) in_flight: usize,
    pub(super) headers: HeaderMap,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>) -> Result<Self, SinkError> {
        if let Some(target) = options.target() {
            let message =
                format!("a webhook has no tables: write `INTO` the sink's name without `.{target}`");
            return Err(SinkError::misconfigured(message));
        }
        let url = Url::parse(options.required("url")?)
            .map_err(|error| options.wrong("url", "is no address").caused_by(error))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(options.wrong("url", "must begin with http:// or https://"));
        }
        let timeout = Duration::from_millis(options.parse("timeout_ms")?);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(options.wrong("timeout_ms", "must be between 1 and 600000"));
        }
        let in_flight = options.parse("in_flight")?;
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return Err(options.wrong("in_flight", "must be between 1 and 64"));
        }
        let batch = options.one_of("batch", &[("true", true), ("false", false)])?;
        let key = options.get("secret").map(|secret| signing_key(options, secret)).transpose()?;
        Ok(Self { url, key, batch, timeout, in_flight, headers: headers(options)? })
    }
}

/// Scheme, host and port: credentials, query and path may each be a secret.
pub(super) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn signing_key(options: &Options<'_>, secret: &str) -> Result<hmac::Key, SinkError> {
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    let bytes = STANDARD.decode(encoded).ok().filter(|bytes| !bytes.is_empty());
    let bytes = bytes
        .ok_or_else(|| options.wrong("secret", "must be `whsec_` and base64, e.g. of 32 random bytes"))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn headers(options: &Options<'_>) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    for (name, value) in options.with_prefix("header.") {
        let full = format!("header.{name}");
        let name: HeaderName = name.parse().map_err(|_| options.wrong(&full, "is no name of a header"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| options.wrong(&full, "holds what a header cannot"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
