//! Who may come in and who may do what: the two questions that the broker asks, and the answer "everybody, everything".
//! What answers them in earnest is in [`crate::authn`] and [`crate::authz`].
//! An answer may come at once or later, so that a check in memory costs no allocation and one over the network is
//! possible.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::authz::{Caching, DenyAction, Rule, RuleSet};
use crate::codec::Qos;

/// An answer that is there, or that is being found.
pub enum Answer<'a, T> {
    /// It is there.
    Now(T),
    /// It is being found.
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<T> Answer<'_, T> {
    /// Waits for it, if that is necessary.
    pub async fn get(self) -> T {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}

/// Who says to be who, in CONNECT.
pub struct Credentials<'a> {
    /// The client identifier.
    pub clientid: &'a str,
    /// The user name, if one was given.
    pub username: Option<&'a str>,
    /// The password, if one was given. Any bytes.
    pub password: Option<&'a [u8]>,
    /// `address:port` of the client.
    pub peername: &'a str,
    /// The listener's name, e.g. `tcp:default`.
    pub listener: &'a str,
    /// 3, 4 or 5.
    pub proto_ver: u8,
    /// The common name in the client's certificate, if it showed one that the listener trusts.
    pub cert_common_name: Option<&'a str>,
}

/// Everything but the password.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("clientid", &self.clientid)
            .field("username", &self.username)
            .field("peername", &self.peername)
            .finish_non_exhaustive()
    }
}

/// What the credentials are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authn {
    /// Let in.
    Allow(Identity),
    /// User name or password are wrong.
    BadCredentials,
    /// The credentials may be right, but this client is not let in.
    NotAuthorized,
    /// Shut out by an operator.
    Banned,
    /// Too many failed before; the credentials were not looked at.
    TooManyFailures,
    /// There is no time to look at the credentials.
    Busy,
}

/// What is known of a client that is let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Nobody checked who it is.
    pub is_anonymous: bool,
    /// May do everything.
    pub is_superuser: bool,
    /// Attributes that events carry.
    pub attrs: BTreeMap<String, String>,
    /// When the credentials cease to be worth anything, milliseconds since 1970: the connection ends then.
    pub expires_at_ms: Option<i64>,
    /// Permissions that came with the credentials (a token's claims): they are asked before any other.
    pub rules: Vec<Rule>,
}

/// Decides who is let in.
pub trait Authenticator: Send + Sync + 'static {
    /// What these credentials are worth.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Answer<'a, Authn>;
}

/// Who knocks: what is known before anything is checked.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// The client identifier.
    pub clientid: &'a str,
    /// The user name, if one was given.
    pub username: Option<&'a str>,
    /// The client's address.
    pub address: Option<IpAddr>,
}

/// Knows who is shut out. Asked before the credentials are looked at, and once more when the client is in, so that
/// nobody slips in while it is being shut out.
pub trait Doorkeeper: Send + Sync + 'static {
    /// Whether this client is shut out now. Must answer from memory.
    fn is_banned(&self, visitor: &Visitor<'_>) -> bool;
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic.
    Publish {
        /// With this QoS.
        qos: Qos,
        /// To be retained.
        retain: bool,
    },
    /// Subscribe to a filter.
    Subscribe {
        /// With at most this QoS.
        qos: Qos,
    },
}

impl Action {
    /// Its name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Subscribe { .. } => "subscribe",
        }
    }
}

/// Whose permissions are asked for: what does not change during a connection.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Client identifier.
    pub clientid: String,
    /// User name, if one was given.
    pub username: Option<String>,
    /// The client's address; none where there is none, e.g. in tests.
    pub address: Option<IpAddr>,
    /// The listener's name, e.g. `tcp:default`.
    pub listener: String,
    /// The common name in the client's certificate, if it showed one that the listener trusts.
    pub cert_common_name: Option<String>,
    /// What authentication found.
    pub identity: Arc<Identity>,
    /// The identity's rules, ready to be asked; none where there are none.
    pub rules: Option<Arc<RuleSet>>,
}

impl Subject {
    /// The rules of an identity. One that cannot be used lets nothing be done: to leave it out could allow what it
    /// denies.
    pub fn rules_of(identity: &Identity) -> Option<Arc<RuleSet>> {
        if identity.rules.is_empty() {
            return None;
        }
        let compiled = RuleSet::compile(identity.rules.clone()).unwrap_or_else(|(at, error)| {
            tracing::warn!(at, %error, "a rule that came with credentials cannot be used; nothing is allowed");
            RuleSet::closed()
        });
        Some(Arc::new(compiled))
    }
}

/// A question about a permission.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who.
    pub subject: &'a Subject,
    /// What.
    pub action: Action,
    /// On which topic, or with which filter (`$share/GROUP/` kept).
    pub topic: &'a str,
}

/// The answer about a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authz {
    /// Whether it may.
    pub allow: bool,
    /// Who says so, e.g. `file`, `default`.
    pub source: &'static str,
}

/// Decides who may do what.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether this may be done.
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a, Authz>;

    /// How the answer to this may be remembered, if at all. Asked before [`Authorizer::authorize`], so that a change
    /// between the two makes the answer count for nothing.
    fn caching(&self, _request: &Request<'_>) -> Option<Caching> {
        None
    }

    /// An answer was given from memory.
    fn remembered(&self, _allow: bool) {}

    /// What becomes of a client that does what it may not.
    fn deny_action(&self) -> DenyAction {
        DenyAction::Ignore
    }
}

/// Lets everybody in and everything be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Doorkeeper for AllowAll {
    fn is_banned(&self, _: &Visitor<'_>) -> bool {
        false
    }
}

impl Authenticator for AllowAll {
    fn authenticate<'a>(&'a self, _: &'a Credentials<'a>) -> Answer<'a, Authn> {
        Answer::Now(Authn::Allow(Identity { is_anonymous: true, ..Identity::default() }))
    }
}

impl Authorizer for AllowAll {
    fn authorize<'a>(&'a self, _: &'a Request<'a>) -> Answer<'a, Authz> {
        Answer::Now(Authz { allow: true, source: "default" })
    }
}
