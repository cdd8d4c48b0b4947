//! One request and what its answer means.

use std::sync::Once;
use std::time::{Duration, UNIX_EPOCH};

use muster_core::clock::SharedClock;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode, Url};
use ring::hmac;

use super::config::{Config, shown};
use super::encode::{Message, rejected, signatures};
use super::guard::{PublicOnly, Refused};
use super::tls;
use crate::error::{ErrorKind, SinkError};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// As the draft of the IETF's working group has it, and many receivers of payments and orders.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How much of a refusal's answer is kept as the reason.
const REASON_BYTES_MAX: usize = 300;
/// How much of an answer is read so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    /// Whether `url` is where requests go, not only how they begin.
    whole: bool,
    method: Method,
    keys: Vec<hmac::Key>,
    idempotency_key: bool,
    clock: SharedClock,
}

impl Client {
    pub(super) async fn new(config: &Config, clock: SharedClock) -> Result<Self, SinkError> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else installed one before, and then that one serves.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut builder = reqwest::Client::builder()
            .default_headers(config.headers.clone())
            .timeout(config.timeout)
            .connect_timeout(config.timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none())
            .no_proxy()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if config.public_only {
            builder = builder.dns_resolver(PublicOnly);
        }
        let http = tls::configured(builder, &config.tls).await?.build().map_err(|error| {
            SinkError::misconfigured("cannot set up an HTTP client").caused_by(error.without_url())
        })?;
        let address = &config.shape.address;
        Ok(Self {
            http,
            url: address.base().clone(),
            whole: address.is_constant(),
            method: config.method.clone(),
            keys: config.keys.clone(),
            idempotency_key: config.idempotency_key,
            clock,
        })
    }

    /// Sends `message`; returns once the receiver has accepted it.
    pub(super) async fn send(&self, message: Message) -> Result<(), SinkError> {
        let timestamp_s = self.clock.wall_ms().div_euclid(1000);
        let signature = (!self.keys.is_empty()).then(|| signatures(&self.keys, &message, timestamp_s));
        let Message { id, body, content_type, mut headers, url } = message;
        let text = |text: String| {
            HeaderValue::try_from(text).map_err(|_| rejected("the id of the row is no header".to_owned()))
        };
        let id = text(id)?;
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(WEBHOOK_TIMESTAMP, timestamp_s.into());
        if self.idempotency_key {
            headers.insert(IDEMPOTENCY_KEY, id.clone());
        }
        headers.insert(WEBHOOK_ID, id);
        if let Some(signature) = signature {
            headers.insert(WEBHOOK_SIGNATURE, text(signature)?);
        }
        let url = url.unwrap_or_else(|| self.url.clone());
        let request = self.http.request(self.method.clone(), url).headers(headers).body(body);
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.judge(answer).await
    }

    pub(super) async fn check(&self) -> Result<(), SinkError> {
        let answer = self.http.request(Method::HEAD, self.url.clone()).send().await;
        let status = answer.map_err(|error| self.unreachable(error))?.status();
        match status {
            // Whoever takes POST need not take HEAD; what counts is that somebody answers.
            status if status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED => Ok(()),
            StatusCode::NOT_FOUND if !self.whole => Ok(()),
            status => Err(self.refusal(kind(status, None), status, "")),
        }
    }

    async fn judge(&self, answer: Response) -> Result<(), SinkError> {
        let status = answer.status();
        let retry_after = self.retry_after(answer.headers());
        let text = read(answer).await;
        if status.is_success() {
            return Ok(());
        }
        Err(self.refusal(kind(status, retry_after), status, &text))
    }

    fn refusal(&self, kind: ErrorKind, status: StatusCode, text: &str) -> SinkError {
        let mut message = format!("{} answered {status}", shown(&self.url));
        // An answer may repeat the row; only a dead letter, which holds the row anyway, keeps it.
        if matches!(kind, ErrorKind::RejectedRow) && !text.is_empty() {
            message = format!("{message}: {text}");
        }
        let error = SinkError::new(kind, message);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => error.with_hint(
                "see that the sink's `header.Authorization` or `secret` is what the receiver expects",
            ),
            status if status.is_redirection() => {
                error.with_hint("redirects are not followed; write the final address into `url`")
            }
            _ => error,
        }
    }

    /// Why there is no answer. What only an operator can put right is said to be so.
    fn unreachable(&self, error: reqwest::Error) -> SinkError {
        let shown = shown(&self.url);
        if Refused::among_causes_of(&error) {
            let error = SinkError::misconfigured(format!("{shown} is not connected to"))
                .caused_by(error.without_url());
            return error.with_hint(
                "give the receiver a public address, or write `private_ranges = 'allow'` if it is one of yours",
            );
        }
        if let Some(hint) = tls::hint(&error) {
            let error =
                SinkError::misconfigured(format!("{shown}: TLS fails")).caused_by(error.without_url());
            return error.with_hint(hint);
        }
        let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
        SinkError::unavailable(format!("{shown} {what}")).caused_by(error.without_url())
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

/// What a status means. A row that is refused goes to the dead letters, so only statuses that judge the *row* may
/// mean that; those that judge the address or the credentials would refuse every row alike.
fn kind(status: StatusCode, retry_after: Option<Duration>) -> ErrorKind {
    match status.as_u16() {
        408 | 425 => ErrorKind::Unavailable,
        429 => ErrorKind::Throttled { retry_after },
        401 | 403 | 404 | 405 | 407 => ErrorKind::Misconfigured,
        410 => ErrorKind::Gone,
        400..=499 => ErrorKind::RejectedRow,
        500.. if retry_after.is_some() => ErrorKind::Throttled { retry_after },
        500.. => ErrorKind::Unavailable,
        _ => ErrorKind::Misconfigured,
    }
}

/// The beginning of an answer's text; the rest is read and forgotten, so that the connection can be used again.
async fn read(mut answer: Response) -> String {
    if answer.content_length() == Some(0) {
        return String::new();
    }
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Ok(Some(chunk)) = answer.chunk().await {
        seen += chunk.len();
        let room = REASON_BYTES_MAX.saturating_sub(kept.len()).min(chunk.len());
        kept.extend_from_slice(&chunk[..room]);
        if seen > ANSWER_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
