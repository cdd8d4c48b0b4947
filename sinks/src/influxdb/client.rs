//! Requests to InfluxDB over HTTP. What an answer means stands in `answer.rs`. It must never know a row.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Once;
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use muster_core::clock::SharedClock;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, Response, StatusCode, Url};

use super::answer::{self, Answer, Verdict};
use super::config::{Api, Connection};
use crate::error::{SinkError, in_words};

/// How much of an answer is kept: a refusal may repeat every line that it is about.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// The header in which every InfluxDB says its version.
const VERSION: HeaderName = HeaderName::from_static("x-influxdb-version");
/// What lines are.
const TEXT: &str = "text/plain; charset=utf-8";
/// A body without a point: enough to be asked who we are, and nothing is written.
const NOTHING: &str = "# muster\n";

pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    write: Url,
    gzip: bool,
    v2: bool,
    /// Where points go, for messages.
    target: String,
    shown: String,
    clock: SharedClock,
}

impl Client {
    pub(super) fn new(connection: &Connection, clock: SharedClock) -> Result<Self, SinkError> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else installed one before, and then that one serves.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut http = reqwest::Client::builder()
            .default_headers(connection.headers.clone())
            .timeout(connection.timeout)
            .connect_timeout(connection.timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none())
            .no_proxy()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if connection.ca_file.is_some() {
            http = http.tls_certs_only(authorities(connection)?);
        }
        let http = http.build().map_err(|error| {
            SinkError::misconfigured("cannot set up an HTTP client").caused_by(error.without_url())
        })?;
        Ok(Self {
            http,
            base: connection.url.clone(),
            write: write_address(connection),
            gzip: connection.gzip,
            v2: matches!(connection.api, Api::V2 { .. }),
            target: connection.target(),
            shown: connection.shown(),
            clock,
        })
    }

    /// Posts lines; an error is about the server or the way to it, a verdict about the lines.
    pub(super) async fn write(&self, lines: Cow<'_, str>) -> Result<Verdict, SinkError> {
        let mut request = self.http.post(self.write.clone()).header(CONTENT_TYPE, TEXT);
        let body = if self.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
            compressed(&lines)?
        } else {
            lines.into_owned().into_bytes()
        };
        let answer = self.send(request.body(body)).await?;
        answer::judge(&answer, &self.shown, &self.target)
    }

    /// Whether points would be taken: somebody healthy is there, and we may write. Nothing is written.
    pub(super) async fn check(&self) -> Result<(), SinkError> {
        let health = self.ask(Method::GET, if self.v2 { "health" } else { "ping" }, &[], None).await?;
        // A proxy may hide the address; then the attempt to write is what counts.
        if health.status.is_server_error() {
            return Err(SinkError::unavailable(format!(
                "{} is up but not healthy: {}",
                self.shown,
                health.said()
            )));
        }
        let request = self.http.post(self.write.clone()).header(CONTENT_TYPE, TEXT);
        let answer = self.send(request.body(NOTHING)).await?;
        // InfluxDB 1 has nothing against it, InfluxDB 2 misses the points, after it has looked at all the rest.
        match answer::judge(&answer, &self.shown, &self.target) {
            Ok(Verdict::Written | Verdict::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One request below the address of the server.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, &str)],
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, SinkError> {
        let mut url = below(&self.base, path);
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let mut request = self.http.request(method, url);
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        self.send(request).await
    }

    /// What is wrong with an answer that is not as hoped.
    pub(super) fn refused(&self, answer: &Answer, what: &str) -> SinkError {
        match answer::judge(answer, &self.shown, &self.target) {
            Err(error) => error,
            Ok(_) => SinkError::misconfigured(format!("{what}: {} answered {}", self.shown, answer.said())),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, SinkError> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status: StatusCode = response.status();
        let retry_after = self.retry_after(response.headers());
        let version =
            response.headers().get(VERSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let text = read(response).await.map_err(|error| self.unreachable(error))?;
        Ok(Answer { status, retry_after, version, text })
    }

    fn unreachable(&self, error: reqwest::Error) -> SinkError {
        if in_words(&error).contains("certificate") {
            let message = format!("the certificate of {} is not trusted", self.shown);
            return SinkError::misconfigured(message).caused_by(error.without_url()).with_hint(
                "name a file with the certificate that signs it in `ca_file`, or renew the server's",
            );
        }
        let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
        SinkError::unavailable(format!("{} {what}", self.shown)).caused_by(error.without_url())
    }

    /// Seconds, or a date.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let now = Duration::from_millis(u64::try_from(self.clock.wall_ms()).ok()?);
        Some(at.saturating_sub(now))
    }
}

fn authorities(connection: &Connection) -> Result<Vec<Certificate>, SinkError> {
    let Some(path) = &connection.ca_file else { return Ok(Vec::new()) };
    let wrong = |what: &str| SinkError::misconfigured(format!("`ca_file` {} {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong("cannot be read").caused_by(error))?;
    let found =
        Certificate::from_pem_bundle(&pem).map_err(|error| wrong("is no PEM file").caused_by(error))?;
    if found.is_empty() { Err(wrong("holds no certificate")) } else { Ok(found) }
}

fn write_address(connection: &Connection) -> Url {
    let (path, parameters): (_, Vec<(&str, &str)>) = match &connection.api {
        Api::V2 { org, bucket } => {
            let org = org.as_deref().map(|org| ("org", org));
            let rest = [("bucket", bucket.as_str()), ("precision", "ns")];
            ("api/v2/write", org.into_iter().chain(rest).collect())
        }
        Api::V1 { database, policy, consistency } => {
            let policy = policy.as_deref().map(|policy| ("rp", policy));
            let consistency = consistency.as_deref().map(|level| ("consistency", level));
            let first = [("db", database.as_str()), ("precision", "n")];
            ("write", first.into_iter().chain(policy).chain(consistency).collect())
        }
    };
    let mut url = below(&connection.url, path);
    url.query_pairs_mut().extend_pairs(parameters);
    url
}

/// The address of `path`; the server's own may end in a path, too, behind a proxy.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

fn compressed(lines: &str) -> Result<Vec<u8>, SinkError> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
    let done = encoder.write_all(lines.as_bytes()).and_then(|()| encoder.finish());
    done.map_err(|error| SinkError::unavailable("cannot compress a request").caused_by(error))
}

/// The beginning of an answer's text; the rest is read no further.
async fn read(mut answer: Response) -> Result<String, reqwest::Error> {
    let mut kept = Vec::new();
    while kept.len() < ANSWER_BYTES_MAX {
        let Some(chunk) = answer.chunk().await? else { break };
        let room = ANSWER_BYTES_MAX - kept.len();
        kept.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    Ok(String::from_utf8_lossy(&kept).trim().to_owned())
}
