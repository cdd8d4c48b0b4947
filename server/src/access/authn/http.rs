//! The link that asks a server over HTTP. A server that cannot be asked leaves the decision to the next link; that is
//! counted and shown in the link's status.

use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_broker::{Authn, Credentials, Identity};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::settings::{Http, HttpMethod};
use super::{Verdict, jwt, text_attributes};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most questions that wait for a connection, for each connection of the pool.
const WAITING_PER_CONNECTION_MAX: usize = 64;

/// A server to ask.
pub(super) struct HttpLink {
    client: reqwest::Client,
    url: Url,
    method: HttpMethod,
    headers: HeaderMap,
    is_form: bool,
    body: BTreeMap<String, String>,
    pool: Semaphore,
    waiting: Semaphore,
    timeout: Duration,
    pub(super) is_reachable: AtomicBool,
}

/// The address alone, without its user and query.
impl std::fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpLink").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl HttpLink {
    pub(super) fn new(config: &Http, request: Duration, connect: Duration) -> Result<Self, String> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else installed one before, and then that one serves.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let url: Url = config.url.parse().map_err(|_| "url: is no address")?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("url: is no address of http or https".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("url: may hold no user and no password; use headers".to_owned());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| "headers: a name is none")?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| "headers: a value is none")?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let is_form = content_type.starts_with("application/x-www-form-urlencoded");
        let builder = reqwest::Client::builder().timeout(request).connect_timeout(connect);
        let builder = builder.redirect(Policy::none()).no_proxy().pool_max_idle_per_host(config.pool_size);
        let client = builder.build().map_err(|_| "no HTTP client can be set up")?;
        Ok(Self {
            client,
            url,
            method: config.method,
            headers,
            is_form,
            body: config.body.clone(),
            pool: Semaphore::new(config.pool_size),
            waiting: Semaphore::new(config.pool_size * WAITING_PER_CONNECTION_MAX),
            timeout: request,
            is_reachable: AtomicBool::new(true),
        })
    }

    /// What the server says of these credentials.
    pub(super) async fn ask(&self, credentials: &Credentials<'_>) -> Verdict {
        let Ok(_place) = self.waiting.try_acquire() else { return Verdict::Unavailable };
        let Ok(Ok(_connection)) = tokio::time::timeout(self.timeout, self.pool.acquire()).await else {
            return Verdict::Unavailable;
        };
        let answer = self.exchange(credentials).await;
        self.is_reachable.store(answer.is_some(), Ordering::Relaxed);
        match answer {
            Some((StatusCode::OK, body)) => understood(&body),
            Some((StatusCode::NO_CONTENT, _)) => Verdict::Allow(Identity::default()),
            Some((status, _)) if status.is_client_error() => Verdict::Ignore,
            _ => Verdict::Unavailable,
        }
    }

    async fn exchange(&self, credentials: &Credentials<'_>) -> Option<(StatusCode, Vec<u8>)> {
        let fields: BTreeMap<&str, String> =
            self.body.iter().map(|(name, value)| (name.as_str(), filled(value, credentials))).collect();
        let mut url = self.url.clone();
        let request = match self.method {
            HttpMethod::Get => {
                url.query_pairs_mut().extend_pairs(&fields);
                self.client.get(url)
            }
            HttpMethod::Post if self.is_form => {
                let mut form = Url::parse("http://form").ok()?;
                form.query_pairs_mut().extend_pairs(&fields);
                self.client.post(url).body(form.query().unwrap_or_default().to_owned())
            }
            HttpMethod::Post => {
                let body = serde_json::to_vec(&fields).ok()?;
                self.client.post(url).header(CONTENT_TYPE, "application/json").body(body)
            }
        };
        let mut response = request.headers(self.headers.clone()).send().await.ok()?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        Some((status, body))
    }
}

/// What an answer means. One that cannot be understood lets nobody in.
fn understood(body: &[u8]) -> Verdict {
    let Ok(answer) = serde_json::from_slice::<Map<String, Value>>(body) else { return Verdict::Ignore };
    match answer.get("result").and_then(Value::as_str) {
        Some("allow") => {}
        Some("deny") => return Verdict::Deny(Authn::BadCredentials),
        _ => return Verdict::Ignore,
    }
    let rules = match answer.get("acl") {
        None | Some(Value::Null) => Vec::new(),
        Some(acl) => match jwt::rules(acl) {
            Some(rules) => rules,
            None => return Verdict::Deny(Authn::NotAuthorized),
        },
    };
    let expires_at_ms = match answer.get("expire_at") {
        None | Some(Value::Null) => None,
        Some(at) => match at.as_i64() {
            Some(seconds) => Some(seconds.saturating_mul(1000)),
            None => return Verdict::Deny(Authn::NotAuthorized),
        },
    };
    Verdict::Allow(Identity {
        is_superuser: answer.get("is_superuser").and_then(Value::as_bool).unwrap_or(false),
        attrs: text_attributes(answer.get("client_attrs")),
        expires_at_ms,
        rules,
        ..Identity::default()
    })
}

/// A template with what the client says in its places; what it does not say is empty.
fn filled(template: &str, it: &Credentials<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, behind)) = behind.split_once('}') else {
            out.push_str("${");
            rest = behind;
            continue;
        };
        match name {
            "clientid" => out.push_str(it.clientid),
            "username" => out.push_str(it.username.unwrap_or_default()),
            "password" => out.push_str(&String::from_utf8_lossy(it.password.unwrap_or_default())),
            "peerhost" => out.push_str(&super::address(it).map(|it| it.to_string()).unwrap_or_default()),
            "cert_common_name" => out.push_str(it.cert_common_name.unwrap_or_default()),
            "listener" => out.push_str(it.listener),
            _ => {}
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_answers() {
        let it = Credentials {
            clientid: "${password}",
            username: Some("u"),
            password: Some(b"p"),
            peername: "10.0.0.1:5",
            listener: "tcp:default",
            proto_ver: 4,
            cert_common_name: None,
        };
        let whole = filled("${username}/${clientid}/${peerhost}/${password}/${cert_common_name}/${x}$", &it);
        assert_eq!(whole, "u/${password}/10.0.0.1/p//$");
        assert!(matches!(understood(br#"{"result":"deny"}"#), Verdict::Deny(_)));
        assert!(matches!(understood(b"allow"), Verdict::Ignore));
        assert!(matches!(understood(br#"{"result":"allow","acl":7}"#), Verdict::Deny(_)));
        let allowed =
            understood(br#"{"result":"allow","is_superuser":true,"expire_at":7,"client_attrs":{"a":"b"}}"#);
        let Verdict::Allow(identity) = allowed else { panic!("it is allowed") };
        assert!(identity.is_superuser && identity.expires_at_ms == Some(7000) && identity.attrs["a"] == "b");
    }
}
