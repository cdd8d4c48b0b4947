//! Who may manage: API keys for programs, passwords and tokens for people, and what a role may do. All of it is
//! answered from memory; another process may change what is stored (`muster key` beside a running server), which
//! [`Keys::reload_if_changed`] notices. It must never know HTTP, nor keep a secret anywhere but hashed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

mod attempts;
mod local;
mod outbox;
mod password;
mod record;
mod secret;
mod store;
mod tokens;

pub use local::{LocalAccess, LocalTls, read_local};
pub use outbox::{Noted, Outbox};
pub use password::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, Password};
pub use record::{KeyRecord, PersonRecord, Role, is_name};
pub use secret::Secret;
pub use store::{NewKey, Stored};

use crate::config::Config;
use crate::error::Error;
use attempts::Attempts;
use local::Local;
use tokens::Tokens;

/// Passwords that are hashed at a time; more wait, since each takes 19 MiB and a core.
const HASHERS_MAX: usize = 2;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name in the audit: of a key or a person; `rest` where nobody is asked for one.
    pub name: String,
    /// What they may.
    pub role: Role,
}

/// By what somebody has shown who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Nothing: there is neither a key nor a person yet, and they are on this machine.
    Nothing,
    /// An API key.
    Key,
    /// A token from logging in.
    Token,
    /// The secret that only those can read who can read the data directory.
    Local,
}

/// Why somebody is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No such key, or not its secret, or it is expired or disabled; no such person, or not their password.
    Wrong,
    /// The token was good once.
    TokenTimeOut,
    /// There is no such token.
    BadToken,
    /// Wrong too often; come again after so many seconds.
    TooOften(u64),
}

/// What is stored, as it is asked.
#[derive(Debug, Default)]
struct Known {
    keys: BTreeMap<String, KeyRecord>,
    /// The name of each public id.
    by_id: HashMap<String, String>,
    people: BTreeMap<String, PersonRecord>,
}

/// Keys and people.
pub struct Keys {
    stored: Stored,
    known: ArcSwap<Known>,
    /// Held while what is stored is read and takes the place of what was known, so that no older reading comes later.
    reading: Mutex<()>,
    version: AtomicI64,
    tokens: Tokens,
    attempts: Attempts,
    local: Local,
    outbox: Outbox,
    hashers: tokio::sync::Semaphore,
    /// Held from the look at what there is to the change of it.
    changes: tokio::sync::Mutex<()>,
    clock: SharedClock,
    refused_401: AtomicU64,
    refused_403: AtomicU64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("refused_401", &self.refused_401).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read, or the local secret cannot be drawn.
    pub fn load(config: &Config, registry: &Registry, clock: &SharedClock) -> Result<Self, Error> {
        let keys = Self {
            stored: Stored::new(registry),
            known: ArcSwap::default(),
            reading: Mutex::new(()),
            version: AtomicI64::new(i64::MIN),
            tokens: Tokens::default(),
            attempts: Attempts::new(config.http.failures_max),
            local: Local::draw(&config.data)?,
            outbox: Outbox::new(registry),
            hashers: tokio::sync::Semaphore::new(HASHERS_MAX),
            changes: tokio::sync::Mutex::default(),
            clock: clock.clone(),
            refused_401: AtomicU64::new(0),
            refused_403: AtomicU64::new(0),
        };
        keys.reload()?;
        Ok(keys)
    }

    /// Writes the secret by which commands on this machine are known into the data directory, and how REST is reached.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn publish_local(&self, tls: Option<&LocalTls>) -> Result<(), Error> {
        self.local.write(tls)
    }

    /// One change of this process at a time, while the answer is held: what was looked at is still so when it is
    /// stored.
    pub async fn change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Whether nobody was given a key or a password yet.
    pub fn is_open(&self) -> bool {
        let known = self.known.load();
        known.keys.is_empty() && known.people.is_empty()
    }

    /// Who the key `id` with `secret` is of. A right key is let in however often others at `address` were wrong: nobody
    /// guesses 256 bits, and a forgotten script must not shut out its neighbours.
    ///
    /// # Errors
    /// [`Denied::Wrong`] and [`Denied::TooOften`].
    pub fn check_key(&self, id: &str, secret: &str, address: IpAddr) -> Result<(Caller, Means), Denied> {
        let offered = Secret::digest_of(secret);
        if self.local.is(id, &offered) {
            return Ok((Caller { name: local::NAME.to_owned(), role: Role::Administrator }, Means::Local));
        }
        let known = self.known.load();
        let found = known.by_id.get(id).and_then(|name| known.keys.get_key_value(name));
        // A key that is not there is compared with one that nobody has: the time tells nothing.
        let is_right = found.map_or(&secret::NOBODY, |(_, key)| &key.secret_sha256).is(&offered);
        match found {
            Some((name, key)) if is_right && key.is_usable(self.clock.wall_ms()) => {
                Ok((Caller { name: name.clone(), role: key.role }, Means::Key))
            }
            _ => Err(self.attempts.failed(address, self.clock.monotonic()).unwrap_or(Denied::Wrong)),
        }
    }

    /// Who the token is of.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_token(&self, token: &str, address: IpAddr) -> Result<(Caller, Means), Denied> {
        let known = self.known.load();
        let password_of = |name: &str| known.people.get(name).map(|person| person.password.mark());
        match self.tokens.check(token, self.clock.monotonic(), password_of) {
            Ok(name) => {
                let role = known.people.get(&name).map(|person| person.role).ok_or(Denied::BadToken)?;
                Ok((Caller { name, role }, Means::Token))
            }
            Err(Denied::TokenTimeOut) => Err(Denied::TokenTimeOut),
            Err(why) => Err(self.attempts.failed(address, self.clock.monotonic()).unwrap_or(why)),
        }
    }

    /// A token for a person, who shows a password.
    ///
    /// # Errors
    /// [`Denied`]; where there were too many failures, no password is looked at.
    pub async fn log_in(
        &self,
        username: &str,
        password: &str,
        address: IpAddr,
    ) -> Result<(Secret, Role), Denied> {
        let person = self.check_password(username, password, address).await?;
        let now = self.clock.monotonic();
        let token = self.tokens.give(username, person.password.mark(), now).ok_or(Denied::Wrong)?;
        Ok((token, person.role))
    }

    /// The person of this name, if the password is theirs.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn check_password(
        &self,
        username: &str,
        password: &str,
        address: IpAddr,
    ) -> Result<PersonRecord, Denied> {
        // Counted before it is looked at, or many at once would all be looked at.
        if let Some(denied) = self.attempts.failed(address, self.clock.monotonic()) {
            return Err(denied);
        }
        let person = self.known.load().people.get(username).cloned();
        // Who is not there costs as much as who is.
        let stored = person.as_ref().map_or_else(password::nobody, |person| person.password.clone());
        let offered = password.to_owned();
        let is_right = self.hash(move || stored.is(&offered)).await.unwrap_or(false);
        match person {
            Some(person) if is_right => {
                self.attempts.was_right(address);
                Ok(person)
            }
            _ => Err(Denied::Wrong),
        }
    }

    /// Runs something that takes a core for long, a few at a time and off the threads that answer others.
    pub async fn hash<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _turn = self.hashers.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// The token is good for nothing any more; whether it was `username`'s.
    pub fn log_out(&self, token: &str, username: &str) -> bool {
        self.tokens.revoke(token, username)
    }

    /// Every key by its name.
    pub fn keys(&self) -> BTreeMap<String, KeyRecord> {
        self.known.load().keys.clone()
    }

    /// Every person by their name.
    pub fn people(&self) -> BTreeMap<String, PersonRecord> {
        self.known.load().people.clone()
    }

    /// Where both are stored. What is changed there counts after [`Keys::reload`].
    pub const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// What commands did and the log does not know yet.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes what is stored now.
    ///
    /// # Errors
    /// The registry cannot be read; what was known stays.
    pub fn reload(&self) -> Result<(), Error> {
        let _only = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, people) = self.stored.load()?;
        let by_id = keys.iter().map(|(name, key)| (key.key.clone(), name.clone())).collect();
        self.known.store(Arc::new(Known { keys, by_id, people }));
        Ok(())
    }

    /// Takes what is stored if anybody changed the registry; whether somebody did.
    ///
    /// # Errors
    /// As [`Keys::reload`].
    pub fn reload_if_changed(&self) -> Result<bool, Error> {
        let version = self.stored.version()?;
        if self.version.load(Ordering::Relaxed) == version {
            return Ok(false);
        }
        self.reload()?;
        self.version.store(version, Ordering::Relaxed);
        Ok(true)
    }

    /// Counts an answer 401 or 403.
    pub fn count_refused(&self, status: u16) {
        let counter = if status == 403 { &self.refused_403 } else { &self.refused_401 };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were refused: for want of somebody, and for want of a right.
    pub fn refused(&self) -> (u64, u64) {
        (self.refused_401.load(Ordering::Relaxed), self.refused_403.load(Ordering::Relaxed))
    }
}
