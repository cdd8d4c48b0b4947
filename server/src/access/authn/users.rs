//! Users in memory, as they are asked for, and how they are stored. A user takes about 300 bytes here.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use muster_broker::authn::Hashed;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A user as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredUser {
    pub(super) password: Hashed,
    #[serde(default)]
    pub(super) is_superuser: bool,
}

/// A user as asked for. Another password or flag is another `User`, so that what was learnt of this one goes with it.
#[derive(Debug)]
pub(super) struct User {
    pub(super) stored: StoredUser,
    /// Made of the password that was right, with a key that lives as long as the process: a device that comes again
    /// and again is known without a slow hash.
    known: OnceLock<[u8; 32]>,
}

impl User {
    fn new(stored: StoredUser) -> Arc<Self> {
        Arc::new(Self { stored, known: OnceLock::new() })
    }

    /// Whether this password was right before.
    pub(super) fn knows(&self, key: &hmac::Key, name: &str, password: &[u8]) -> bool {
        self.known.get().is_some_and(|tag| hmac::verify(key, &message(name, password), tag).is_ok())
    }

    /// Remembers a password that is right.
    pub(super) fn learn(&self, key: &hmac::Key, name: &str, password: &[u8]) {
        let tag = hmac::sign(key, &message(name, password));
        if let Ok(tag) = tag.as_ref().try_into() {
            // Somebody else may have been quicker with the same.
            let _ = self.known.set(tag);
        }
    }
}

fn message(name: &str, password: &[u8]) -> Vec<u8> {
    [name.as_bytes(), &[0], password].concat()
}

/// Users by name, by the id of their link.
type Stores = BTreeMap<String, BTreeMap<Box<str>, Arc<User>>>;

/// The users of all stores.
#[derive(Debug, Default)]
pub(super) struct Users {
    stores: RwLock<Stores>,
}

/// Which users a list is to show.
#[derive(Debug, Default)]
pub struct UserFilter {
    /// Those whose name holds this.
    pub like: Option<String>,
    /// Those with this flag.
    pub is_superuser: Option<bool>,
}

impl Users {
    pub(super) fn get(&self, link: &str, name: &str) -> Option<Arc<User>> {
        self.read().get(link)?.get(name).cloned()
    }

    pub(super) fn put(&self, link: &str, name: &str, stored: StoredUser) {
        self.write().entry(link.to_owned()).or_default().insert(name.into(), User::new(stored));
    }

    pub(super) fn remove(&self, link: &str, name: &str) {
        if let Some(store) = self.write().get_mut(link) {
            store.remove(name);
        }
    }

    pub(super) fn remove_store(&self, link: &str) {
        self.write().remove(link);
    }

    pub(super) fn count(&self, link: &str) -> usize {
        self.read().get(link).map_or(0, BTreeMap::len)
    }

    pub(super) fn names(&self, link: &str) -> Vec<String> {
        let stores = self.read();
        stores.get(link).into_iter().flat_map(BTreeMap::keys).map(|name| name.to_string()).collect()
    }

    /// Whether there is nobody at all.
    pub(super) fn is_empty(&self) -> bool {
        self.read().values().all(BTreeMap::is_empty)
    }

    /// A part of those that the filter admits, and how many it admits.
    pub(super) fn list(
        &self,
        link: &str,
        filter: &UserFilter,
        skip: usize,
        limit: usize,
    ) -> (Vec<Value>, u64) {
        let stores = self.read();
        let Some(store) = stores.get(link) else { return (Vec::new(), 0) };
        let (mut total, mut page) = (0_u64, Vec::new());
        for (name, user) in store {
            let is_like = filter.like.as_ref().is_none_or(|like| name.contains(like.as_str()));
            if !is_like || filter.is_superuser.is_some_and(|it| it != user.stored.is_superuser) {
                continue;
            }
            if total >= skip as u64 && page.len() < limit {
                page.push(shown(name, user.stored.is_superuser));
            }
            total += 1;
        }
        (page, total)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Stores> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Stores> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user as REST shows one.
pub(super) fn shown(name: &str, is_superuser: bool) -> Value {
    json!({"user_id": name, "is_superuser": is_superuser})
}
