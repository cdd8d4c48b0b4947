//! Who may connect: the chain of authenticators and the users of the built-in ones. The first link that knows a client
//! decides. Passwords are checked on few threads of their own; failures cost whoever makes them time. It must never
//! know HTTP's requests to us, nor MQTT's packets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use muster_broker::authn::{Guard, HashPool};
use muster_broker::{Answer, Authenticator, Credentials, Identity};
use muster_core::clock::SharedClock;
use muster_core::registry::Registry;
use ring::{hmac, rand::SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

mod change;
mod http;
mod import;
mod jwks;
mod jwt;
mod settings;
mod users;

pub use change::{ChangeError, Imported, Place};
pub use import::{ImportRow, ImportType, rows_of_csv, rows_of_json};
pub use settings::UserIdType;
pub use users::UserFilter;

use super::Collection;
use crate::config::{AllowAnonymous, Config};
use crate::error::{Error, ErrorKind};
use settings::{Asks, Link, Stored};
use users::{StoredUser, Users};

/// Answers to failures that wait at a time; beyond, they are given at once.
const DELAYED_MAX: usize = 1_000;
/// Longest name of a user.
const USER_ID_BYTES_MAX: usize = 1024;
/// The one document of the chain.
const CHAIN: &str = "chain";

/// What a link says of a client.
#[derive(Debug)]
enum Verdict {
    Allow(Identity),
    Deny(muster_broker::Authn),
    /// Not known here.
    Ignore,
    /// Who would know cannot be asked.
    Unavailable,
}

/// What came of logins since the start.
#[derive(Debug, Default)]
pub struct AuthnCounters {
    /// Let in by a link of the chain.
    pub success: AtomicU64,
    /// Not let in, for whatever reason.
    pub failure: AtomicU64,
    /// Known to no link, let in or not.
    pub nomatch: AtomicU64,
    /// Let in without being known.
    pub anonymous: AtomicU64,
}

/// What came of the questions to one link.
#[derive(Debug, Default)]
pub(super) struct LinkCounters {
    success: AtomicU64,
    failed: AtomicU64,
    nomatch: AtomicU64,
    unavailable: AtomicU64,
}

#[derive(Debug)]
struct Chain {
    /// Nobody has configured one.
    is_implicit: bool,
    links: Vec<Arc<Link>>,
}

/// The chain as stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredChain {
    links: Vec<Stored>,
}

/// Who may connect.
pub struct Authn {
    chain: ArcSwap<Chain>,
    users: Users,
    changes: Mutex<()>,
    stored_users: Collection<StoredUser>,
    stored_chain: Collection<StoredChain>,
    hashing: HashPool,
    guard: Guard,
    delayed: Semaphore,
    known: hmac::Key,
    random: SystemRandom,
    counters: AuthnCounters,
    clock: SharedClock,
    allow_anonymous: AllowAnonymous,
    is_loopback: bool,
}

/// Nothing of it: it is made of secrets.
impl std::fmt::Debug for Authn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authn").finish_non_exhaustive()
    }
}

impl Authn {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(config: &Config, registry: &Registry, clock: &SharedClock) -> Result<Self, Error> {
        let stored_users = Collection::<StoredUser>::new("users", registry);
        let stored_chain = Collection::<StoredChain>::new("authenticators", registry);
        let users = Users::default();
        for (id, user) in stored_users.load()? {
            if let Some((link, name)) = id.split_once('/') {
                users.put(link, name, user);
            }
        }
        let chain = match stored_chain.load()?.remove(CHAIN) {
            None => Chain { is_implicit: true, links: vec![Arc::new(Self::implicit_link())] },
            Some(StoredChain { links }) => {
                let links = links.into_iter().map(|Stored(fields)| Link::read(fields, None).map(Arc::new));
                let links = links.collect::<Result<_, _>>().map_err(|why| {
                    Error::new(
                        ErrorKind::Start,
                        format!("an authenticator in the registry cannot be used: {why}"),
                    )
                })?;
                Chain { is_implicit: false, links }
            }
        };
        let random = SystemRandom::new();
        let known = hmac::Key::generate(hmac::HMAC_SHA256, &random)
            .map_err(|_| Error::new(ErrorKind::Start, "the system gives no randomness"))?;
        let authn = Self {
            chain: ArcSwap::from_pointee(chain),
            users,
            changes: Mutex::default(),
            stored_users,
            stored_chain,
            hashing: HashPool::new(),
            guard: Guard::default(),
            delayed: Semaphore::new(DELAYED_MAX),
            known,
            random,
            counters: AuthnCounters::default(),
            clock: clock.clone(),
            allow_anonymous: config.mqtt.allow_anonymous,
            is_loopback: config.mqtt.is_loopback(),
        };
        authn.warn_of_anonymous();
        Ok(authn)
    }

    /// What came of logins.
    pub const fn counters(&self) -> &AuthnCounters {
        &self.counters
    }

    /// Whether a client that nobody knows is let in.
    pub fn allows_anonymous(&self) -> bool {
        match self.allow_anonymous {
            AllowAnonymous::Always => true,
            AllowAnonymous::Never => false,
            AllowAnonymous::Auto => self.is_loopback && self.is_unused(),
        }
    }

    /// Whether nobody has made a user or an authenticator.
    fn is_unused(&self) -> bool {
        let chain = self.chain.load();
        (chain.is_implicit || chain.links.is_empty()) && self.users.is_empty()
    }

    fn warn_of_anonymous(&self) {
        if self.allows_anonymous() {
            tracing::warn!(
                "devices are let in without a password (mqtt.allow_anonymous); make a user to end that, see \
                 server/docs/authentication.md"
            );
        }
    }

    async fn decide(&self, credentials: &Credentials<'_>) -> muster_broker::Authn {
        let chain = self.chain.load_full();
        for link in chain.links.iter().filter(|link| link.enable) {
            let verdict = match &link.asks {
                Asks::BuiltIn { by, .. } => self.ask_built_in(&link.id, *by, credentials).await,
                Asks::Jwt(jwt) => jwt.ask(credentials, &self.clock).await,
                Asks::Http(http) => match self.admit(credentials) {
                    Ok(()) => http.ask(credentials).await,
                    Err(refused) => Verdict::Deny(refused),
                },
            };
            let LinkCounters { success, failed, nomatch, unavailable } = &link.counters;
            match verdict {
                Verdict::Allow(identity) => {
                    count(success);
                    count(&self.counters.success);
                    return muster_broker::Authn::Allow(identity);
                }
                Verdict::Deny(why) => {
                    count(failed);
                    return self.refuse(credentials, why).await;
                }
                Verdict::Ignore => count(nomatch),
                Verdict::Unavailable => count(unavailable),
            }
        }
        count(&self.counters.nomatch);
        if self.allows_anonymous() {
            return self.anonymous();
        }
        let said_something = credentials.username.is_some() || credentials.password.is_some();
        let why = if said_something {
            muster_broker::Authn::BadCredentials
        } else {
            muster_broker::Authn::NotAuthorized
        };
        self.refuse(credentials, why).await
    }

    fn anonymous(&self) -> muster_broker::Authn {
        count(&self.counters.anonymous);
        muster_broker::Authn::Allow(Identity { is_anonymous: true, ..Identity::default() })
    }

    async fn ask_built_in(&self, link: &str, by: UserIdType, credentials: &Credentials<'_>) -> Verdict {
        let name = match by {
            UserIdType::Username => credentials.username,
            UserIdType::Clientid => Some(credentials.clientid),
        };
        let Some(name) = name else { return Verdict::Ignore };
        let Some(user) = self.users.get(link, name) else { return Verdict::Ignore };
        let Some(password) = credentials.password else {
            return Verdict::Deny(muster_broker::Authn::BadCredentials);
        };
        let identity = Identity { is_superuser: user.stored.is_superuser, ..Identity::default() };
        if user.knows(&self.known, name, password) {
            return Verdict::Allow(identity);
        }
        if let Err(refused) = self.admit(credentials) {
            return Verdict::Deny(refused);
        }
        if !user.stored.password.algorithm().is_slow() {
            return match user.stored.password.verify(password) {
                true => Verdict::Allow(identity),
                false => Verdict::Deny(muster_broker::Authn::BadCredentials),
            };
        }
        let (of, given) = (Arc::clone(&user), password.to_vec());
        match self.hashing.run(move || of.stored.password.verify(&given)).await {
            Ok(true) => {
                user.learn(&self.known, name, password);
                Verdict::Allow(identity)
            }
            Ok(false) => Verdict::Deny(muster_broker::Authn::BadCredentials),
            Err(_) => Verdict::Deny(muster_broker::Authn::Busy),
        }
    }

    /// Whether somebody who may have failed often may try again.
    fn admit(&self, credentials: &Credentials<'_>) -> Result<(), muster_broker::Authn> {
        let now = self.clock.monotonic();
        let admitted = self.guard.admit(now, address(credentials), &guarded(credentials));
        admitted.map_err(|_| muster_broker::Authn::TooManyFailures)
    }

    /// Lets a failure wait before its answer, unless too many wait already.
    async fn refuse(&self, credentials: &Credentials<'_>, why: muster_broker::Authn) -> muster_broker::Authn {
        count(&self.counters.failure);
        if why == muster_broker::Authn::BadCredentials {
            let now = self.clock.monotonic();
            let delay = self.guard.failed(now, address(credentials), &guarded(credentials));
            if let Ok(_place) = self.delayed.try_acquire() {
                tokio::time::sleep(delay).await;
            }
        }
        why
    }
}

impl Authenticator for Authn {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Answer<'a, muster_broker::Authn> {
        if self.is_unused() && self.allows_anonymous() {
            count(&self.counters.nomatch);
            return Answer::Now(self.anonymous());
        }
        Answer::Later(Box::pin(self.decide(credentials)))
    }
}

/// Whom failures are counted for: the user name, or the client where there is none.
fn guarded(credentials: &Credentials<'_>) -> String {
    match credentials.username {
        Some(name) => format!("u/{name}"),
        None => format!("c/{}", credentials.clientid),
    }
}

fn address(credentials: &Credentials<'_>) -> Option<IpAddr> {
    let address: SocketAddr = credentials.peername.parse().ok()?;
    Some(address.ip().to_canonical())
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether a user may be called so.
fn is_user_id(name: &str) -> bool {
    (1..=USER_ID_BYTES_MAX).contains(&name.len()) && !name.contains('\0')
}

/// Attributes of a client, as a token or an answer gives them.
fn text_attributes(value: Option<&Value>) -> BTreeMap<String, String> {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests;
