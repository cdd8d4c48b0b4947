//! Requests to a platform that runs: what a command cannot do by looking into files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{ConfigArgs, trust};
use crate::access::{LocalAccess, Secret, read_local};
use crate::config::Config;
use crate::error::{Error, ErrorKind, chain};

/// How long an answer may take: longer than the server gives itself.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// Where the platform is that a command asks.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Reach {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where REST of the platform is, e.g. `https://muster.example.com:18083` [default: http.listen].
    #[arg(long, value_name = "URL", conflicts_with = "http")]
    url: Option<String>,
    /// File with the authorities that its certificate may be of, in PEM [default: those of the system; on the
    /// platform's own machine, with its --data, the very certificate that it shows].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Reach {
    /// The configuration of this machine.
    ///
    /// # Errors
    /// As [`ConfigArgs::load`].
    pub(super) fn load(&self) -> Result<Config, Error> {
        self.config.load()
    }

    /// REST of the platform. Nothing is sent yet.
    ///
    /// # Errors
    /// It does not say where, or the system refuses what a client needs.
    pub(super) fn client(&self) -> Result<Client, Error> {
        Client::new(&self.load()?, self)
    }
}

/// REST of a platform.
pub(super) struct Client {
    /// Without a slash at its end.
    base: String,
    http: reqwest::Client,
    key: Option<(String, Secret)>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn new(config: &Config, reach: &Reach) -> Result<Self, Error> {
        let place = match &reach.url {
            Some(url) => Place::of_url(url)?,
            None => Place::of_config(config)?,
        };
        let local = place.is_here.then(|| read_local(&config.data)).flatten();
        let (secret, certificates) =
            local.map_or((None, None), |LocalAccess { key, certificates }| (Some(key), certificates));
        let is_tls = place.is_tls.unwrap_or(config.http.tls.is_some() || certificates.is_some());
        let cannot = |error| Error::because(ErrorKind::Start, "cannot set up a client", error);
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().timeout(ANSWER_WAIT).no_proxy();
        let http = match (&reach.ca, certificates) {
            (Some(ca), _) => http.tls_certs_only(trust::authorities(ca)?),
            (None, Some(own)) if is_tls => http.tls_backend_preconfigured(trust::exactly(&own)?),
            _ => http,
        };
        let http = http.redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|error| Error::because(ErrorKind::Start, "cannot set up a client", error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let base = format!("{}://{}", if is_tls { "https" } else { "http" }, place.authority);
        Ok(Self { base, http, key: key(secret)?, runtime })
    }

    /// The answer to `GET path`.
    pub(super) fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::GET, path, None)
    }

    /// The answer to `POST path` with `body`.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.ask(Method::POST, path, Some(body))
    }

    /// The answer to `DELETE path`.
    pub(super) fn delete(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::DELETE, path, None)
    }

    /// Waits; true if somebody presses Ctrl-C meanwhile, which does not end the process from then on.
    pub(super) fn interrupted(&self, wait: Duration) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => pressed.is_ok(),
                () = tokio::time::sleep(wait) => false,
            }
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let base = &self.base;
        let message = if chain(&error).contains(NOT_BELIEVED) {
            format!(
                "the certificate at {base} is not believed; --ca names a file with the authority to believe"
            )
        } else {
            format!("no platform answers at {base}; is it running? --http or --url says where")
        };
        Error::because(ErrorKind::Start, message, error)
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some((key, secret)) = &self.key {
            request = request.basic_auth(key, Some(secret.reveal()));
        }
        let answer = self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok((answer.status(), answer.text().await?))
        });
        let (status, text) = answer.map_err(|error: reqwest::Error| self.unreachable(error.without_url()))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let message = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
        let hint = match (status, &self.key) {
            (StatusCode::UNAUTHORIZED, None) => {
                "; the platform asks for an API key: run this on its machine with its --data, or set MUSTER_API_KEY \
                 and MUSTER_API_SECRET (muster key add makes one)"
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                "; the platform does not know this key: is it that of MUSTER_API_KEY and MUSTER_API_SECRET, or is \
                 --data another platform's?"
            }
            (StatusCode::FORBIDDEN, _) => "; a key of another role is needed (muster key list)",
            _ => "",
        };
        Err(Error::new(ErrorKind::Negative, format!("{status}: {message}{hint}")))
    }
}

/// What TLS says of a certificate that it does not believe; the error itself is wrapped too deep to be asked.
const NOT_BELIEVED: &str = "invalid peer certificate";

/// Where a platform is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Host and port.
    authority: String,
    /// Whether the command runs on its machine.
    is_here: bool,
    /// Whether TLS is spoken, if that was said.
    is_tls: Option<bool>,
}

impl Place {
    fn of_config(config: &Config) -> Result<Self, Error> {
        let mut address = config.http.listen;
        if address.port() == 0 {
            let message = "http.listen has port 0: say with --http where the platform listens";
            return Err(Error::new(ErrorKind::Config, message));
        }
        // Who listens everywhere is reached at home.
        if address.ip().is_unspecified() {
            let home: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(home);
        }
        Ok(Self { authority: address.to_string(), is_here: is_here(address.ip()), is_tls: None })
    }

    fn of_url(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let message = format!("--url {why}; write for example https://muster.example.com:18083");
            Error::new(ErrorKind::Config, message)
        };
        let url = reqwest::Url::parse(text).map_err(|_| wrong("is no URL"))?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("begins neither with https:// nor with http://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("takes no key: set MUSTER_API_KEY and MUSTER_API_SECRET"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("ends behind host and port"));
        }
        let host = url.host_str().ok_or_else(|| wrong("names no host"))?;
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_here = host == "localhost" || ip.is_ok_and(is_here);
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        Ok(Self { authority: format!("{host}{port}"), is_here, is_tls: Some(is_tls) })
    }
}

/// What is shown to the platform: the key of the environment, or else, on its own machine, what it has left in its data
/// directory for those who may read it.
fn key(local: Option<(String, Secret)>) -> Result<Option<(String, Secret)>, Error> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (variable("MUSTER_API_KEY"), variable("MUSTER_API_SECRET")) {
        (Some(key), Some(secret)) => Ok(Some((key, secret.into()))),
        (None, None) => Ok(local),
        _ => {
            let message = "MUSTER_API_KEY and MUSTER_API_SECRET belong together, and one of them is missing";
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

/// Whether an address is one of this machine: nothing else can be listened on.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_may_be() {
        for (url, authority, is_here, is_tls) in [
            ("https://muster.example.com:18083", "muster.example.com:18083", false, true),
            ("https://muster.example.com/", "muster.example.com", false, true),
            ("http://localhost:1", "localhost:1", true, false),
            ("https://[::1]:8443", "[::1]:8443", true, true),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true, false),
        ] {
            let place = Place { authority: authority.to_owned(), is_here, is_tls: Some(is_tls) };
            assert_eq!(Place::of_url(url).unwrap(), place, "{url}");
        }
        for (url, why) in [
            ("muster.example.com", "is no URL"),
            ("ftp://host", "begins neither"),
            ("https://k:s@host", "takes no key"),
            ("https://host/api/v5", "ends behind"),
        ] {
            let refused = Place::of_url(url).unwrap_err().to_string();
            assert!(refused.contains(why), "{url}: {refused}");
        }
    }
}
