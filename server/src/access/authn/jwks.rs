//! Keys that an endpoint shows (RFC 7517), read again from time to time, and when a token names one that is not known
//! yet. While the endpoint cannot be asked, the keys that it showed last count. It must never know what a token says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use arc_swap::ArcSwap;
use muster_broker::authn::{Claims, JwtKey, Token};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Most keys that are tried.
const KEYS_COUNT_MAX: usize = 64;
/// Longest wait for the endpoint.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Least time between two questions, whatever tokens say: who makes tokens up must not make us ask.
const PAUSE: Duration = Duration::from_secs(10);

/// The endpoint has not shown any keys yet.
#[derive(Debug)]
pub(super) struct NoKeys;

/// An endpoint and what it showed last.
pub(super) struct Jwks {
    client: reqwest::Client,
    url: Url,
    refresh: Duration,
    known: ArcSwap<Known>,
    /// Held by the one who asks.
    asking: Mutex<()>,
    is_reachable: AtomicBool,
}

/// What is known at some moment.
#[derive(Default)]
struct Known {
    keys: Arc<Vec<(Option<String>, JwtKey)>>,
    /// When they were shown; none: never.
    shown_at: Option<Duration>,
    /// When the endpoint was asked last.
    asked_at: Option<Duration>,
}

/// The host alone.
impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Jwks {
    pub(super) fn new(endpoint: &str, refresh: Duration) -> Result<Self, String> {
        static PROVIDER: Once = Once::new();
        // Fails where somebody else installed one before, and then that one serves.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let url: Url = endpoint.parse().map_err(|_| "endpoint: is no address")?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("endpoint: is no address of http or https".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("endpoint: may hold no user and no password".to_owned());
        }
        let builder = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).redirect(Policy::none()).no_proxy();
        let client = builder.build().map_err(|_| "no HTTP client can be set up")?;
        let known = ArcSwap::default();
        Ok(Self {
            client,
            url,
            refresh,
            known,
            asking: Mutex::default(),
            is_reachable: AtomicBool::new(true),
        })
    }

    /// Whether the endpoint showed keys when it was asked last.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Relaxed)
    }

    /// What a token says that one of the keys has signed.
    ///
    /// # Errors
    /// There has not been a key yet.
    pub(super) async fn verified(&self, token: &Token<'_>, now: Duration) -> Result<Option<Claims>, NoKeys> {
        let known = self.known.load_full();
        let is_old = known.shown_at.is_none_or(|at| now.saturating_sub(at) >= self.refresh);
        let is_unknown = !known.keys.iter().any(|(id, _)| fits(token, id.as_deref()));
        let known = if is_old || is_unknown { self.asked(known, now).await } else { known };
        if known.shown_at.is_none() {
            return Err(NoKeys);
        }
        let mut fitting = known.keys.iter().filter(|(id, _)| fits(token, id.as_deref()));
        Ok(fitting.find_map(|(_, key)| token.verified(key)))
    }

    /// What is known after asking, or without it, if somebody has just asked.
    async fn asked(&self, known: Arc<Known>, now: Duration) -> Arc<Known> {
        // Who has keys does not wait for another who asks.
        let turn = match known.shown_at {
            Some(_) => self.asking.try_lock().ok(),
            None => Some(self.asking.lock().await),
        };
        let Some(_turn) = turn else { return known };
        let known = self.known.load_full();
        if known.asked_at.is_some_and(|at| now.saturating_sub(at) < PAUSE.min(self.refresh)) {
            return known;
        }
        let shown = self.fetch().await;
        self.is_reachable.store(shown.is_some(), Ordering::Relaxed);
        let asked_at = Some(now);
        let known = Arc::new(match shown {
            Some(keys) => Known { keys: Arc::new(keys), shown_at: asked_at, asked_at },
            None => {
                let host = self.url.host_str().unwrap_or_default();
                tracing::warn!(
                    host,
                    "the endpoint shows no keys for tokens; those that it showed last count"
                );
                Known { keys: Arc::clone(&known.keys), shown_at: known.shown_at, asked_at }
            }
        });
        self.known.store(Arc::clone(&known));
        known
    }

    async fn fetch(&self) -> Option<Vec<(Option<String>, JwtKey)>> {
        let mut response = self.client.get(self.url.clone()).send().await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        keys(&body)
    }
}

/// Whether a key with this id may have signed the token.
fn fits(token: &Token<'_>, id: Option<&str>) -> bool {
    token.key_id().is_none() || id.is_none() || token.key_id() == id
}

/// The keys of an answer that can be used; none where it is no list of keys.
fn keys(body: &[u8]) -> Option<Vec<(Option<String>, JwtKey)>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let shown = answer.get("keys")?.as_array()?.iter().filter_map(Value::as_object);
    let usable = shown.filter_map(|jwk| {
        let id = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
        Some((id, JwtKey::from_jwk(jwk).ok()?))
    });
    Some(usable.take(KEYS_COUNT_MAX).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as SyncMutex;
    use std::sync::atomic::AtomicUsize;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Somebody who signs tokens.
    struct Issuer {
        id: &'static str,
        pair: Ed25519KeyPair,
    }

    impl Issuer {
        fn new(id: &'static str) -> Self {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
            Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key") }
        }

        fn jwk(&self) -> Value {
            let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
            json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
        }

        fn token(&self) -> String {
            let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!(
                "{}.{}",
                part(json!({"alg": "EdDSA", "kid": self.id})),
                part(json!({"sub": self.id}))
            );
            let signature = self.pair.sign(signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    /// An endpoint whose answer can be changed, and how often it was asked.
    struct Endpoint {
        url: String,
        answer: Arc<SyncMutex<String>>,
        asked: Arc<AtomicUsize>,
    }

    impl Endpoint {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}/keys", listener.local_addr().expect("its address"));
            let (answer, asked) = (Arc::new(SyncMutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
            let (given, count) = (Arc::clone(&answer), Arc::clone(&asked));
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut request = [0; 4096];
                    let _read = stream.read(&mut request).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    let body = given.lock().expect("nobody panics with it").clone();
                    let status = if body.is_empty() { "500 Sorry" } else { "200 OK" };
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                    );
                    let _written = stream.write_all(text.as_bytes()).await;
                }
            });
            Self { url, answer, asked }
        }

        fn show(&self, issuers: &[&Issuer]) {
            let keys: Vec<_> = issuers.iter().map(|it| it.jwk()).collect();
            *self.answer.lock().expect("nobody panics with it") = json!({"keys": keys}).to_string();
        }

        fn fail(&self) {
            self.answer.lock().expect("nobody panics with it").clear();
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn keys_come_change_and_stay_while_the_endpoint_is_gone() {
        let endpoint = Endpoint::new().await;
        let jwks = Jwks::new(&endpoint.url, Duration::from_secs(300)).expect("an endpoint");
        let (one, two, nobody) = (Issuer::new("one"), Issuer::new("two"), Issuer::new("nobody"));
        let ask = async |issuer: &Issuer, second: u64| {
            let text = issuer.token();
            let token = Token::parse(&text).expect("a token");
            jwks.verified(&token, Duration::from_secs(second)).await.map(|it| it.is_some())
        };
        assert!(ask(&one, 0).await.is_err() && !jwks.is_reachable(), "it shows no key");
        endpoint.show(&[&one]);
        assert!(ask(&one, 5).await.is_err(), "it was asked just now");
        assert!(matches!(ask(&one, 10).await, Ok(true)));
        assert_eq!((jwks.is_reachable(), endpoint.asked()), (true, 2));
        // A key that is not known yet is asked for, but not by everybody who makes one up.
        endpoint.show(&[&one, &two]);
        assert!(matches!(ask(&two, 15).await, Ok(false)));
        assert!(matches!(ask(&two, 20).await, Ok(true)));
        for second in [21, 22, 23] {
            assert!(matches!(ask(&nobody, second).await, Ok(false)));
        }
        assert_eq!(endpoint.asked(), 3);
        // One that is shown no more is believed until the keys are read again; none at all while nobody answers.
        endpoint.show(&[&two]);
        assert!(matches!(ask(&one, 319).await, Ok(true)));
        endpoint.fail();
        assert!(matches!(ask(&one, 320).await, Ok(true)));
        assert_eq!((jwks.is_reachable(), endpoint.asked()), (false, 4));
        endpoint.show(&[&two]);
        assert!(matches!(ask(&one, 330).await, Ok(false)));
        assert!(matches!(ask(&two, 331).await, Ok(true)));
    }

    #[test]
    fn only_lists_of_keys_are_answers() {
        for wrong in ["", "[]", "{}", r#"{"keys": {}}"#] {
            assert!(keys(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let mixed = json!({"keys": [7, {"kty": "oct", "k": "AQAB"}, Issuer::new("a").jwk()]}).to_string();
        assert_eq!(keys(mixed.as_bytes()).expect("keys").len(), 1);
    }
}
