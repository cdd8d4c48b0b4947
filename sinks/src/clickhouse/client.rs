//! Requests to ClickHouse's HTTP interface, and what its answers mean. It must never know a row or a column.
//!
//! By `reqwest` and not by the crate `clickhouse`: its INSERT sends a body of unknown length, so that a server may take
//! the first half of a broken one for all of it; it tells an error by its text alone, without status, code and
//! `Retry-After`; and it takes neither a certificate authority nor a certificate of ours.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use muster_core::clock::SharedClock;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, Response, Url};

use super::codes::{Refusal, code_in};
use super::config::Config;
use super::frame;
use crate::error::SinkError;

/// How much of an answer is read. Answers to our questions are small: a row a column of a table.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long an idle connection is kept: less than the 3 s after which ClickHouse closes it, so that no request goes
/// into a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_millis(2_000);

/// One row of an answer.
pub(super) type Cells = Vec<serde_json::Value>;

pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    shown: String,
    database: Option<String>,
    lz4: bool,
    clock: SharedClock,
}

impl Client {
    pub(super) fn new(config: &Config, clock: SharedClock) -> Result<Self, SinkError> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else installed one before, and then that one serves.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let unfit = |error: reqwest::Error| {
            SinkError::misconfigured("cannot set up an HTTP client").caused_by(error.without_url())
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-clickhouse-user", config.user.clone());
        if let Some(password) = &config.password {
            headers.insert("x-clickhouse-key", password.clone());
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .timeout(config.timeout)
            .connect_timeout(config.timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none())
            .http1_only()
            .no_proxy()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            let trusted = Certificate::from_pem_bundle(&read(path, "ca_file")?).map_err(unfit)?;
            builder = builder.tls_certs_merge(trusted);
        }
        if let Some((certificate, key)) = &config.identity {
            let mut pem = read(certificate, "cert_file")?;
            pem.push(b'\n');
            pem.extend(read(key, "key_file")?);
            builder = builder.identity(Identity::from_pem(&pem).map_err(unfit)?);
        }
        Ok(Self {
            http: builder.build().map_err(unfit)?,
            url: config.url.clone(),
            shown: config.url.origin().ascii_serialization(),
            database: config.database.clone(),
            lz4: config.lz4,
            clock,
        })
    }

    /// The database that was asked for.
    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The rows that `sql` yields.
    pub(super) async fn ask(&self, sql: &str) -> Result<Vec<Cells>, SinkError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            data: Vec<Cells>,
        }
        let text = self.post(&[], format!("{sql} FORMAT JSONCompact").into()).await?;
        let answer: Answer = serde_json::from_str(&text).map_err(|error| {
            SinkError::unavailable(format!("{} did not answer as ClickHouse does", self.shown))
                .caused_by(error)
        })?;
        Ok(answer.data)
    }

    /// Carries out `sql`.
    pub(super) async fn run(&self, sql: &str) -> Result<(), SinkError> {
        self.post(&[], sql.to_owned().into()).await.map(drop)
    }

    /// Sends `rows` to the INSERT `sql`; returns once the server has written them.
    pub(super) async fn insert(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
        rows: Vec<u8>,
    ) -> Result<(), SinkError> {
        let mut query = vec![("query", sql)];
        let body = if self.lz4 {
            query.push(("decompress", "1"));
            frame::compress(&rows)
        } else {
            rows
        };
        query.extend_from_slice(settings);
        self.post(&query, body.into()).await.map(drop)
    }

    async fn post(&self, query: &[(&str, &str)], body: Bytes) -> Result<String, SinkError> {
        let url = self.address(query);
        let request = self.http.post(url).header(CONTENT_TYPE, "application/octet-stream").body(body);
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.judge(answer).await
    }

    fn address(&self, query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        let mut pairs = url.query_pairs_mut();
        // The status then tells of an error that comes late, too.
        pairs.append_pair("wait_end_of_query", "1");
        if let Some(database) = &self.database {
            pairs.append_pair("database", database);
        }
        pairs.extend_pairs(query);
        drop(pairs);
        url
    }

    async fn judge(&self, answer: Response) -> Result<String, SinkError> {
        let status = answer.status();
        let retry_after = self.retry_after(answer.headers());
        let code = answer.headers().get("x-clickhouse-exception-code");
        let code: Option<u32> = code.and_then(|code| code.to_str().ok()?.parse().ok());
        let text = self.text(answer).await?;
        if status.is_success() && code.is_none() {
            return Ok(text);
        }
        let code = code.or_else(|| code_in(&text));
        Err(Refusal { server: &self.shown, status, code, retry_after, text: &text }.into_error())
    }

    /// The whole answer: one that ends before its end is no answer.
    async fn text(&self, mut answer: Response) -> Result<String, SinkError> {
        let mut kept = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            if kept.len() + chunk.len() > ANSWER_BYTES_MAX {
                let message = format!("{} answers with more than {ANSWER_BYTES_MAX} bytes", self.shown);
                return Err(SinkError::unavailable(message));
            }
            kept.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&kept).into_owned())
    }

    fn unreachable(&self, error: reqwest::Error) -> SinkError {
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

fn read(path: &Path, option: &str) -> Result<Vec<u8>, SinkError> {
    std::fs::read(path).map_err(|error| {
        SinkError::misconfigured(format!("`{option}` {} cannot be read", path.display())).caused_by(error)
    })
}
