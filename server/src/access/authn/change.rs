//! Changes of the chain and of users: one at a time, durable before they count.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_broker::authn::{Algorithm, Busy, HashError, Hashed, SALT_BYTES};
use muster_core::registry::DocumentChange;
use ring::rand::SecureRandom as _;
use serde_json::{Map, Value, json};

use super::settings::{Asks, BUILT_IN, BUILT_IN_CLIENTID, BUILT_IN_USERNAME, Link};
use super::users::{StoredUser, UserFilter, shown};
use super::{Authn, CHAIN, Chain, ImportRow, ImportType, StoredChain, UserIdType, is_user_id};
use crate::error::Error;

/// Most links of a chain.
const LINKS_MAX: usize = 8;

/// Why something was not changed.
#[derive(Debug)]
pub enum ChangeError {
    /// What was to be changed is not there.
    NotFound(&'static str),
    /// It is there already.
    Exists(&'static str),
    /// It cannot be made so.
    Invalid(String),
    /// There is no time to hash passwords.
    Busy,
    /// It cannot be stored.
    Storage(Error),
}

impl From<Error> for ChangeError {
    fn from(error: Error) -> Self {
        Self::Storage(error)
    }
}

impl From<HashError> for ChangeError {
    fn from(error: HashError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<Busy> for ChangeError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

/// Where a link goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    Front,
    /// Behind all others.
    Rear,
    /// Before this one.
    Before(String),
    /// Behind this one.
    After(String),
}

/// What came of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the answer")]
pub struct Imported {
    pub total: u64,
    pub success: u64,
    pub overridden: u64,
    pub skipped: u64,
    pub failed: u64,
}

const NO_LINK: ChangeError = ChangeError::NotFound("Authenticator not found");
const NO_USER: ChangeError = ChangeError::NotFound("User not found");
const USER_EXISTS: ChangeError = ChangeError::Exists("User already exists");

impl Authn {
    pub(super) fn implicit_link() -> Link {
        Link::implicit(BUILT_IN, UserIdType::Username)
    }

    /// Every link in its order, without secrets.
    pub fn links(&self) -> Vec<Value> {
        self.chain.load().links.iter().map(|link| link.shown()).collect()
    }

    /// One link, without secrets.
    ///
    /// # Errors
    /// It is not there.
    pub fn link(&self, id: &str) -> Result<Value, ChangeError> {
        self.find(id).map(|link| link.shown())
    }

    /// What came of the questions to a link: total, success, failed, nomatch, unavailable; and whether it can be asked.
    ///
    /// # Errors
    /// It is not there.
    pub fn link_status(&self, id: &str) -> Result<(bool, Value), ChangeError> {
        let link = self.find(id)?;
        let is_up = match &link.asks {
            Asks::Http(http) => http.is_reachable.load(Ordering::Relaxed),
            Asks::Jwt(jwt) => jwt.is_reachable(),
            Asks::BuiltIn { .. } => true,
        };
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let it = &link.counters;
        let (success, failed) = (read(&it.success), read(&it.failed));
        let (nomatch, unavailable) = (read(&it.nomatch), read(&it.unavailable));
        let total = success + failed + nomatch + unavailable;
        let metrics = json!({
            "total": total, "success": success, "failed": failed, "nomatch": nomatch, "unavailable": unavailable,
        });
        Ok((is_up, metrics))
    }

    /// Adds a link at the end. The built-in one that is there unasked gives way, its users stay.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn create_link(&self, given: Map<String, Value>) -> Result<Value, ChangeError> {
        let _alone = self.changes.lock().await;
        let link = Link::read(given, None).map_err(ChangeError::Invalid)?;
        let chain = self.chain.load_full();
        let keep = |it: &&Arc<Link>| !chain.is_implicit || (it.id != link.id && self.users.count(&it.id) > 0);
        let mut links: Vec<_> = chain.links.iter().filter(keep).cloned().collect();
        if links.iter().any(|it| it.id == link.id) {
            return Err(ChangeError::Exists("Authenticator already exists"));
        }
        if links.len() >= LINKS_MAX {
            return Err(ChangeError::Invalid(format!("a chain has at most {LINKS_MAX} authenticators")));
        }
        let shown = link.shown();
        links.push(Arc::new(link));
        self.store_chain(links, Vec::new()).await?;
        Ok(shown)
    }

    /// Replaces a link's configuration; users stay.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn update_link(&self, id: &str, mut given: Map<String, Value>) -> Result<Value, ChangeError> {
        let _alone = self.changes.lock().await;
        let before = self.find(id)?;
        given.entry("id").or_insert_with(|| id.into());
        let link = Link::read(given, Some(&before)).map_err(ChangeError::Invalid)?;
        if link.id != id {
            return Err(ChangeError::Invalid(
                "mechanism, backend and id of an authenticator do not change".to_owned(),
            ));
        }
        let shown = link.shown();
        let link = Arc::new(link);
        let mut links = self.chain.load().links.clone();
        links.iter_mut().filter(|it| it.id == id).for_each(|it| *it = Arc::clone(&link));
        self.store_chain(links, Vec::new()).await?;
        Ok(shown)
    }

    /// Removes a link and its users.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_link(&self, id: &str) -> Result<(), ChangeError> {
        let _alone = self.changes.lock().await;
        self.find(id)?;
        let links = self.chain.load().links.iter().filter(|it| it.id != id).cloned().collect();
        let users = self.users.names(id);
        let removed = users.iter().map(|name| self.stored_users.remove(&document(id, name))).collect();
        self.store_chain(links, removed).await?;
        self.users.remove_store(id);
        Ok(())
    }

    /// Puts all links into another order.
    ///
    /// # Errors
    /// [`ChangeError`]; `ids` must name each link once.
    pub async fn order_links(&self, ids: &[String]) -> Result<(), ChangeError> {
        let _alone = self.changes.lock().await;
        let chain = self.chain.load_full();
        let mut left = chain.links.clone();
        let mut links = Vec::new();
        for id in ids {
            let at = left.iter().position(|it| it.id == *id);
            let at =
                at.ok_or_else(|| ChangeError::Invalid("an id is unknown, or stands there twice".to_owned()))?;
            links.push(left.remove(at));
        }
        if !left.is_empty() {
            return Err(ChangeError::Invalid("every authenticator of the chain must be named".to_owned()));
        }
        self.store_chain(links, Vec::new()).await
    }

    /// Moves one link.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn move_link(&self, id: &str, place: &Place) -> Result<(), ChangeError> {
        let _alone = self.changes.lock().await;
        let link = self.find(id)?;
        let mut links: Vec<_> = self.chain.load().links.iter().filter(|it| it.id != id).cloned().collect();
        let position = |other: &str| links.iter().position(|it| it.id == other).ok_or(NO_LINK);
        let at = match place {
            Place::Front => 0,
            Place::Rear => links.len(),
            Place::Before(other) => position(other)?,
            Place::After(other) => position(other)? + 1,
        };
        links.insert(at, link);
        self.store_chain(links, Vec::new()).await
    }

    /// A part of a link's users, and how many there are.
    ///
    /// # Errors
    /// There is no such store.
    pub fn list_users(
        &self,
        link: &str,
        filter: &UserFilter,
        skip: usize,
        limit: usize,
    ) -> Result<(Vec<Value>, u64), ChangeError> {
        self.algorithm(link)?;
        Ok(self.users.list(link, filter, skip, limit))
    }

    /// One user.
    ///
    /// # Errors
    /// There is no such store or user.
    pub fn user(&self, link: &str, name: &str) -> Result<Value, ChangeError> {
        self.algorithm(link)?;
        let user = self.users.get(link, name).ok_or(NO_USER)?;
        Ok(shown(name, user.stored.is_superuser))
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn create_user(
        &self,
        link: &str,
        name: &str,
        password: &str,
        is_superuser: bool,
    ) -> Result<Value, ChangeError> {
        let algorithm = self.algorithm(link)?;
        if !is_user_id(name) {
            return Err(ChangeError::Invalid("user_id: is 1 to 1024 bytes without NUL".to_owned()));
        }
        if self.users.get(link, name).is_some() {
            return Err(USER_EXISTS);
        }
        let password = self.hashed(algorithm, password).await?;
        let _alone = self.changes.lock().await;
        self.algorithm(link)?;
        if self.users.get(link, name).is_some() {
            return Err(USER_EXISTS);
        }
        self.store_user(link, name, StoredUser { password, is_superuser }).await
    }

    /// Gives a user another password, another flag, or both; what is none stays.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn update_user(
        &self,
        link: &str,
        name: &str,
        password: Option<&str>,
        is_superuser: Option<bool>,
    ) -> Result<Value, ChangeError> {
        let algorithm = self.algorithm(link)?;
        self.users.get(link, name).ok_or(NO_USER)?;
        let hashed = match password {
            Some(password) => Some(self.hashed(algorithm, password).await?),
            None => None,
        };
        let _alone = self.changes.lock().await;
        let mut stored = self.users.get(link, name).ok_or(NO_USER)?.stored.clone();
        stored.password = hashed.unwrap_or(stored.password);
        stored.is_superuser = is_superuser.unwrap_or(stored.is_superuser);
        self.store_user(link, name, stored).await
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_user(&self, link: &str, name: &str) -> Result<(), ChangeError> {
        let _alone = self.changes.lock().await;
        self.algorithm(link)?;
        self.users.get(link, name).ok_or(NO_USER)?;
        self.stored_users.commit(vec![self.stored_users.remove(&document(link, name))]).await?;
        self.users.remove(link, name);
        Ok(())
    }

    /// Makes or replaces many users in one transaction. Of a name that comes twice the last row counts, the others are
    /// skipped; a row that cannot be used fails alone.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub async fn import_users(
        &self,
        link: &str,
        kind: ImportType,
        rows: Vec<Option<ImportRow>>,
    ) -> Result<Imported, ChangeError> {
        let algorithm = self.algorithm(link)?;
        let mut counts = Imported { total: rows.len() as u64, ..Imported::default() };
        let mut last = std::collections::BTreeMap::new();
        for row in rows {
            match row.map(|row| last.insert(row.user_id.clone(), row)) {
                Some(Some(_)) => counts.skipped += 1,
                Some(None) => {}
                None => counts.failed += 1,
            }
        }
        let mut made = Vec::with_capacity(last.len());
        for (name, ImportRow { secret, salt, is_superuser, .. }) in last {
            let password = match kind {
                ImportType::Hash => Hashed::made_elsewhere(algorithm.clone(), secret, salt).ok(),
                ImportType::Plain => match self.hashed(algorithm.clone(), &secret).await {
                    Ok(hashed) => Some(hashed),
                    Err(ChangeError::Invalid(_)) => None,
                    Err(error) => return Err(error),
                },
            };
            match password {
                Some(password) => made.push((name, StoredUser { password, is_superuser })),
                None => counts.failed += 1,
            }
        }
        let _alone = self.changes.lock().await;
        self.algorithm(link)?;
        let changes = made.iter().map(|(name, user)| self.stored_users.put(&document(link, name), user));
        self.stored_users.commit(changes.collect::<Result<Vec<_>, Error>>()?).await?;
        for (name, user) in made {
            match self.users.get(link, &name) {
                Some(_) => counts.overridden += 1,
                None => counts.success += 1,
            }
            self.users.put(link, &name, user);
        }
        Ok(counts)
    }

    /// The store that knows users by this kind of name; made where there is none.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn store_of(&self, by: UserIdType) -> Result<String, ChangeError> {
        let _alone = self.changes.lock().await;
        let chain = self.chain.load_full();
        let is_it = |it: &&Arc<Link>| matches!(it.asks, Asks::BuiltIn { by: known, .. } if known == by);
        if let Some(link) = chain.links.iter().find(is_it) {
            return Ok(link.id.clone());
        }
        let has_first = chain.links.iter().any(|it| it.id == BUILT_IN);
        let id = match by {
            UserIdType::Username if !has_first => BUILT_IN,
            UserIdType::Username => BUILT_IN_USERNAME,
            UserIdType::Clientid => BUILT_IN_CLIENTID,
        };
        let mut links = chain.links.clone();
        links.push(Arc::new(Link::implicit(id, by)));
        self.store_chain(links, Vec::new()).await?;
        Ok(id.to_owned())
    }

    /// The store that knows users by this kind of name, if there is one.
    pub fn existing_store_of(&self, by: UserIdType) -> Option<String> {
        let chain = self.chain.load();
        let is_it = |it: &&Arc<Link>| matches!(it.asks, Asks::BuiltIn { by: known, .. } if known == by);
        chain.links.iter().find(is_it).map(|link| link.id.clone())
    }

    fn find(&self, id: &str) -> Result<Arc<Link>, ChangeError> {
        self.chain.load().links.iter().find(|link| link.id == id).cloned().ok_or(NO_LINK)
    }

    /// How a store hashes.
    fn algorithm(&self, link: &str) -> Result<Algorithm, ChangeError> {
        match &self.find(link)?.asks {
            Asks::BuiltIn { algorithm, .. } => Ok(algorithm.clone()),
            Asks::Jwt(_) | Asks::Http(_) => {
                Err(ChangeError::Invalid("this authenticator has no users".to_owned()))
            }
        }
    }

    async fn hashed(&self, algorithm: Algorithm, password: &str) -> Result<Hashed, ChangeError> {
        if password.is_empty() {
            return Err(ChangeError::Invalid("password: may not be empty".to_owned()));
        }
        let mut salt = [0; SALT_BYTES];
        self.random.fill(&mut salt).map_err(|_| ChangeError::Busy)?;
        if !algorithm.is_slow() {
            return Ok(algorithm.hash(password.as_bytes(), salt)?);
        }
        let password = password.as_bytes().to_vec();
        Ok(self.hashing.run(move || algorithm.hash(&password, salt)).await??)
    }

    async fn store_user(&self, link: &str, name: &str, user: StoredUser) -> Result<Value, ChangeError> {
        self.stored_users.commit(vec![self.stored_users.put(&document(link, name), &user)?]).await?;
        let is_superuser = user.is_superuser;
        self.users.put(link, name, user);
        Ok(shown(name, is_superuser))
    }

    async fn store_chain(
        &self,
        links: Vec<Arc<Link>>,
        mut changes: Vec<DocumentChange>,
    ) -> Result<(), ChangeError> {
        let stored = StoredChain { links: links.iter().map(|link| link.stored().clone()).collect() };
        changes.push(self.stored_chain.put(CHAIN, &stored)?);
        self.stored_chain.commit(changes).await?;
        self.chain.store(Arc::new(Chain { is_implicit: false, links }));
        Ok(())
    }
}

fn document(link: &str, name: &str) -> String {
    format!("{link}/{name}")
}
