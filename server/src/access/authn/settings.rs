//! A link of the chain as an operator writes it, in the words of EMQX v5. What is unknown is refused, never ignored;
//! secrets are shown as asterisks, and asterisks that come back mean the secret that is there.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_broker::authn::{Algorithm, JwtKey, SaltPosition};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::http::HttpLink;
use super::jwks::Jwks;
use super::jwt::{JwtLink, Keys};

/// What stands where a secret is.
pub(super) const MASK: &str = "******";
/// The store that the reference has.
pub(super) const BUILT_IN: &str = "password_based:built_in_database";
/// A second one beside it, for the other kind of name.
pub(super) const BUILT_IN_CLIENTID: &str = "password_based:built_in_database_clientid";
pub(super) const BUILT_IN_USERNAME: &str = "password_based:built_in_database_username";

const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const POOL_MAX: usize = 256;
/// How often an endpoint is asked for its keys, where nobody says it.
const JWKS_REFRESH_SECONDS: u64 = 300;
const JWKS_REFRESH_SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// By what a store of users knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserIdType {
    /// The user name in CONNECT.
    Username,
    /// The client identifier.
    Clientid,
}

/// A link, ready to be asked.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: String,
    pub(super) enable: bool,
    /// As it is stored, secrets and all. Never shown.
    stored: Stored,
    pub(super) asks: Asks,
    pub(super) counters: super::LinkCounters,
}

/// Whom a link asks.
#[derive(Debug)]
pub(super) enum Asks {
    BuiltIn { by: UserIdType, algorithm: Algorithm },
    Jwt(JwtLink),
    Http(Box<HttpLink>),
}

/// A configuration with its secrets. Its Debug shows none of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Stored(pub(super) Map<String, Value>);

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    mechanism: String,
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default = "yes")]
    enable: bool,
    #[serde(default = "username")]
    user_id_type: UserIdType,
    #[serde(default = "sha256")]
    password_hash_algorithm: Algorithm,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    mechanism: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default = "yes")]
    enable: bool,
    #[serde(default)]
    pub(super) use_jwks: bool,
    #[serde(default)]
    pub(super) from: TokenFrom,
    /// Not with `use_jwks`: there each key says what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) algorithm: Option<JwtFamily>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_interval: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    #[serde(default)]
    pub(super) secret_base64_encoded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<String>,
    #[serde(default, deserialize_with = "claims")]
    pub(super) verify_claims: BTreeMap<String, String>,
    #[serde(default = "acl")]
    pub(super) acl_claim_name: String,
    #[serde(default = "yes")]
    pub(super) disconnect_after_expire: bool,
}

/// Where in CONNECT a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TokenFrom {
    #[default]
    Password,
    Username,
}

/// What kind of key signs tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum JwtFamily {
    HmacBased,
    PublicKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    mechanism: String,
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default = "yes")]
    enable: bool,
    #[serde(default)]
    pub(super) method: HttpMethod,
    pub(super) url: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) body: BTreeMap<String, String>,
    #[serde(default = "five_seconds")]
    pub(super) request_timeout: String,
    #[serde(default = "five_seconds")]
    pub(super) connect_timeout: String,
    #[serde(default = "eight")]
    pub(super) pool_size: usize,
}

/// How the server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HttpMethod {
    #[default]
    Post,
    Get,
}

fn yes() -> bool {
    true
}

fn username() -> UserIdType {
    UserIdType::Username
}

fn sha256() -> Algorithm {
    Algorithm::Sha256 { salt_position: SaltPosition::Prefix }
}

fn acl() -> String {
    "acl".to_owned()
}

fn five_seconds() -> String {
    "5s".to_owned()
}

fn eight() -> usize {
    8
}

/// Claims to check: an object, or the list of `{"name", "value"}` that some clients write.
fn claims<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
        value: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Object(BTreeMap<String, String>),
        List(Vec<Named>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Object(claims) => claims,
        Written::List(claims) => claims.into_iter().map(|it| (it.name, it.value)).collect(),
    })
}

impl Link {
    /// The store that is there before anybody has configured one.
    pub(super) fn implicit(id: &str, by: UserIdType) -> Self {
        let algorithm = Algorithm::Argon2id {};
        let config = BuiltIn {
            mechanism: "password_based".to_owned(),
            backend: "built_in_database".to_owned(),
            id: Some(id.to_owned()),
            enable: true,
            user_id_type: by,
            password_hash_algorithm: algorithm.clone(),
        };
        let asks = Asks::BuiltIn { by, algorithm };
        Self { id: id.to_owned(), enable: true, stored: stored(&config), asks, counters: Default::default() }
    }

    /// Reads what an operator wrote; `before` is what the link was, whose secrets may be meant.
    pub(super) fn read(mut given: Map<String, Value>, before: Option<&Self>) -> Result<Self, String> {
        if let Some(before) = before {
            unmask(&mut given, &before.stored.0);
        }
        // Shown beside the configuration, so it comes back with it.
        let text = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (mechanism, backend) = (text("mechanism"), text("backend"));
        match (mechanism.as_str(), backend.as_str()) {
            ("password_based", "built_in_database") => Self::built_in(parse(given)?),
            ("password_based", "http") => Self::http(parse(given)?),
            ("jwt", "") => Self::jwt(parse(given)?),
            _ => Err(format!(
                "no authenticator of mechanism `{mechanism}` and backend `{backend}` is known here; there are \
                 password_based with built_in_database or http, and jwt"
            )),
        }
    }

    fn built_in(mut config: BuiltIn) -> Result<Self, String> {
        config.password_hash_algorithm.check().map_err(|error| error.to_string())?;
        let by = config.user_id_type;
        let id = config.id.get_or_insert_with(|| BUILT_IN.to_owned()).clone();
        let is_known = id == BUILT_IN
            || (id == BUILT_IN_CLIENTID && by == UserIdType::Clientid)
            || (id == BUILT_IN_USERNAME && by == UserIdType::Username);
        if !is_known {
            return Err(format!("`{id}` is no id of a built-in database of this user_id_type"));
        }
        let asks = Asks::BuiltIn { by, algorithm: config.password_hash_algorithm.clone() };
        Ok(Self { id, enable: config.enable, stored: stored(&config), asks, counters: Default::default() })
    }

    fn jwt(mut config: Jwt) -> Result<Self, String> {
        named(&mut config.id, "jwt")?;
        let keys = if config.use_jwks {
            let endpoint = config.endpoint.as_deref().ok_or("endpoint: is missing")?;
            let seconds = config.refresh_interval.unwrap_or(JWKS_REFRESH_SECONDS);
            if !(1..=JWKS_REFRESH_SECONDS_MAX).contains(&seconds) {
                return Err(format!("refresh_interval: is from 1 to {JWKS_REFRESH_SECONDS_MAX} seconds"));
            }
            Keys::Endpoint(Box::new(Jwks::new(endpoint, Duration::from_secs(seconds))?))
        } else {
            Keys::Fixed(Self::jwt_key(&config)?)
        };
        let asks = Asks::Jwt(JwtLink::new(keys, &config));
        Ok(Self {
            id: "jwt".to_owned(),
            enable: config.enable,
            stored: stored(&config),
            asks,
            counters: Default::default(),
        })
    }

    fn jwt_key(config: &Jwt) -> Result<JwtKey, String> {
        let key = match config.algorithm.ok_or("algorithm: is missing")? {
            JwtFamily::HmacBased => {
                let secret = config.secret.as_deref().ok_or("secret: is missing")?;
                JwtKey::from_secret(secret, config.secret_base64_encoded)
            }
            JwtFamily::PublicKey => {
                let given = config.public_key.as_deref().ok_or("public_key: is missing")?;
                if given.contains("-----BEGIN") {
                    JwtKey::from_public_key_pem(given)
                } else {
                    let pem = std::fs::read_to_string(given);
                    JwtKey::from_public_key_pem(&pem.map_err(|_| "public_key: the file cannot be read")?)
                }
            }
        };
        key.map_err(|error| error.to_string())
    }

    fn http(mut config: Http) -> Result<Self, String> {
        named(&mut config.id, "password_based:http")?;
        if !(1..=POOL_MAX).contains(&config.pool_size) {
            return Err(format!("pool_size: is from 1 to {POOL_MAX}"));
        }
        let timeout = |key: &str, text: &str| match crate::config::duration(text) {
            Ok(time) if !time.is_zero() && time <= HTTP_TIMEOUT_MAX => Ok(time),
            _ => Err(format!("{key}: is a time such as 5s, up to 60s")),
        };
        let request = timeout("request_timeout", &config.request_timeout)?;
        let connect = timeout("connect_timeout", &config.connect_timeout)?;
        let asks = Asks::Http(Box::new(HttpLink::new(&config, request, connect)?));
        Ok(Self {
            id: "password_based:http".to_owned(),
            enable: config.enable,
            stored: stored(&config),
            asks,
            counters: Default::default(),
        })
    }

    /// As it is stored.
    pub(super) const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// As it is shown: without secrets.
    pub(super) fn shown(&self) -> Value {
        let mut shown = self.stored.0.clone();
        for (key, value) in &mut shown {
            match (key.as_str(), value) {
                ("secret", value) => *value = MASK.into(),
                ("headers", Value::Object(headers)) => {
                    let hidden = headers.iter_mut().filter(|(name, _)| is_secret_header(name));
                    hidden.for_each(|(_, value)| *value = MASK.into());
                }
                ("body", Value::Object(fields)) => {
                    // A field without a placeholder may be anything, a shared secret for example.
                    let hidden = fields.values_mut().filter(|value| !value.to_string().contains("${"));
                    hidden.for_each(|value| *value = MASK.into());
                }
                _ => {}
            }
        }
        Value::Object(shown)
    }
}

fn is_secret_header(name: &str) -> bool {
    !["content-type", "accept", "user-agent"].iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// Puts secrets back where only asterisks came.
fn unmask(given: &mut Map<String, Value>, before: &Map<String, Value>) {
    for (key, value) in given {
        match (value, before.get(key)) {
            (Value::Object(inner), Some(Value::Object(before))) => unmask(inner, before),
            (value, Some(before)) if value.as_str() == Some(MASK) => *value = before.clone(),
            _ => {}
        }
    }
}

fn named(id: &mut Option<String>, expected: &str) -> Result<(), String> {
    match id.get_or_insert_with(|| expected.to_owned()) == expected {
        true => Ok(()),
        false => Err(format!("id: this authenticator's is `{expected}`")),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(given: Map<String, Value>) -> Result<T, String> {
    // Messages of serde may quote a value, and a value may be a secret.
    serde_json::from_value(Value::Object(given)).map_err(|error| {
        let text = error.to_string();
        match text.split_once("invalid type") {
            Some(_) => "a field has a value of the wrong type".to_owned(),
            None => text,
        }
    })
}

fn stored(config: &impl Serialize) -> Stored {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => Stored(fields),
        _ => Stored(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value, before: Option<&Link>) -> Result<Link, String> {
        Link::read(value.as_object().expect("an object").clone(), before)
    }

    #[test]
    fn secrets_are_hidden_and_come_back() {
        let jwt = json!({"mechanism": "jwt", "algorithm": "hmac-based", "secret": "hush-hush"});
        let link = read(jwt, None).expect("a link");
        let shown = link.shown();
        assert!(!shown.to_string().contains("hush-hush") && !format!("{link:?}").contains("hush-hush"));
        assert_eq!(shown["secret"], MASK);
        let again = read(shown, Some(&link)).expect("what was shown can be sent back");
        assert_eq!(again.stored().0["secret"], "hush-hush");

        let http = json!({"mechanism": "password_based", "backend": "http", "url": "http://127.0.0.1:1/x",
            "headers": {"Authorization": "hush-hush"}, "body": {"u": "${username}", "k": "hush-hush"}});
        let link = read(http, None).expect("a link");
        let shown = link.shown();
        assert!(!shown.to_string().contains("hush-hush") && !format!("{link:?}").contains("hush-hush"));
        assert_eq!(shown["body"]["u"], "${username}");
        let again = read(shown, Some(&link)).expect("what was shown can be sent back");
        assert_eq!(again.stored().0["headers"]["Authorization"], "hush-hush");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for wrong in [
            json!({}),
            json!({"mechanism": "scram"}),
            json!({"mechanism": "password_based", "backend": "built_in_database", "colour": 1}),
            json!({"mechanism": "password_based", "backend": "built_in_database", "id": "mine"}),
            json!({"mechanism": "jwt", "algorithm": "hmac-based"}),
            json!({"mechanism": "jwt", "algorithm": "public-key", "public_key": "no key"}),
            json!({"mechanism": "jwt", "secret": "s"}),
            json!({"mechanism": "jwt", "use_jwks": true, "algorithm": "public-key"}),
            json!({"mechanism": "jwt", "use_jwks": true, "endpoint": "file:///etc/passwd"}),
            json!({"mechanism": "jwt", "use_jwks": true, "endpoint": "http://a:b@x/"}),
            json!({"mechanism": "jwt", "use_jwks": true, "endpoint": "http://x/", "refresh_interval": 0}),
            json!({"mechanism": "password_based", "backend": "http", "url": "ftp://x"}),
            json!({"mechanism": "password_based", "backend": "http", "url": "http://x", "pool_size": 0}),
            json!({"mechanism": "password_based", "backend": "http", "url": "http://x", "request_timeout": "2h"}),
        ] {
            assert!(read(wrong.clone(), None).is_err(), "{wrong}");
        }
    }
}
