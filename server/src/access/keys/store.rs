//! Where keys and people are stored. The server changes them by REST, commands change them beside it; both by this.

use std::collections::BTreeMap;

use muster_core::registry::{DocumentChange, Registry};

use super::record::{KeyRecord, PersonRecord, Role};
use super::secret::{self, Secret};
use crate::access::Collection;
use crate::error::{Error, ErrorKind};

/// Keys and people, by name.
pub(super) type Everybody = (BTreeMap<String, KeyRecord>, BTreeMap<String, PersonRecord>);

/// The collections of both.
#[derive(Debug)]
pub struct Stored {
    registry: Registry,
    keys: Collection<KeyRecord>,
    people: Collection<PersonRecord>,
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it may.
    pub role: Role,
    /// What it is for.
    pub desc: String,
    /// Whether it may be used at once.
    pub enable: bool,
    /// From when on it may not be used.
    pub expired_at_ms: Option<i64>,
    /// Now.
    pub created_at_ms: i64,
}

impl NewKey {
    /// The key, and the secret that nobody will see again.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn make(self) -> Result<(KeyRecord, Secret), Error> {
        let Self { role, desc, enable, expired_at_ms, created_at_ms } = self;
        let secret = Secret::draw()?;
        let (key, secret_sha256) = (secret::id()?, secret.digest());
        Ok((KeyRecord { key, secret_sha256, role, desc, enable, expired_at_ms, created_at_ms }, secret))
    }
}

impl KeyRecord {
    /// The same key with another secret.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn rotated(self) -> Result<(Self, Secret), Error> {
        let secret = Secret::draw()?;
        Ok((Self { key: secret::id()?, secret_sha256: secret.digest(), ..self }, secret))
    }
}

impl Stored {
    /// Those of a registry.
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            keys: Collection::new("api_keys", registry),
            people: Collection::new("people", registry),
        }
    }

    /// All of both, by name.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(&self) -> Result<Everybody, Error> {
        Ok((self.keys.load()?, self.people.load()?))
    }

    /// A number that is another one after any change.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn version(&self) -> Result<i64, Error> {
        let version = self.registry.version();
        version.map_err(|error| Error::because(ErrorKind::Fatal, "the registry cannot be read", error))
    }

    /// The change that stores a key.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn put_key(&self, name: &str, key: &KeyRecord) -> Result<DocumentChange, Error> {
        self.keys.put(name, key)
    }

    /// The change that removes a key.
    pub fn remove_key(&self, name: &str) -> DocumentChange {
        self.keys.remove(name)
    }

    /// The change that stores a person.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn put_person(&self, name: &str, person: &PersonRecord) -> Result<DocumentChange, Error> {
        self.people.put(name, person)
    }

    /// The change that removes a person.
    pub fn remove_person(&self, name: &str) -> DocumentChange {
        self.people.remove(name)
    }

    /// Makes changes: all or none. They are durable when it returns.
    ///
    /// # Errors
    /// The registry refused; nothing is changed then.
    pub async fn commit(&self, changes: Vec<DocumentChange>) -> Result<(), Error> {
        self.keys.commit(changes).await
    }
}
