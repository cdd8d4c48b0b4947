//! Requests to a platform that runs: what a command cannot do by looking into files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::access::{Secret, read_local};
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// How long an answer may take: longer than the server gives itself.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// REST of the platform that the configuration describes.
pub(super) struct Client {
    address: SocketAddr,
    http: reqwest::Client,
    key: Option<(String, Secret)>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// The configuration leaves the port open, or the system refuses what a client needs.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
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
        let cannot = |error| Error::because(ErrorKind::Start, "cannot set up a client", error);
        // It speaks plain HTTP; a provider of TLS is asked for all the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().timeout(ANSWER_WAIT).no_proxy().build();
        let http = http.map_err(|error| Error::because(ErrorKind::Start, "cannot set up a client", error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let key = key(config, address)?;
        Ok(Self { address, http, key, runtime })
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

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
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
        let (status, text) = answer.map_err(|error: reqwest::Error| {
            let message =
                format!("no platform answers at {}; is it running? --http says where", self.address);
            Error::because(ErrorKind::Start, message, error.without_url())
        })?;
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

/// What is shown to the platform: the key of the environment, or else, on its own machine, what it has left in its data
/// directory for those who may read it.
fn key(config: &Config, address: SocketAddr) -> Result<Option<(String, Secret)>, Error> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (variable("MUSTER_API_KEY"), variable("MUSTER_API_SECRET")) {
        (Some(key), Some(secret)) => Ok(Some((key, secret.into()))),
        (None, None) => Ok(is_here(address).then(|| read_local(&config.data)).flatten()),
        _ => {
            let message = "MUSTER_API_KEY and MUSTER_API_SECRET belong together, and one of them is missing";
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

/// Whether an address is one of this machine: nothing else can be listened on.
fn is_here(address: SocketAddr) -> bool {
    address.ip().is_loopback() || std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}
