//! Who may publish and subscribe where: rules and settings as operators keep them. They are in the registry first and
//! count then; what decides is `muster_broker::authz::Authority`, which holds all of them in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_broker::authz::{
    Authority, AuthzCounts, Caching, DenyAction, Owned, Owner, Rule, RuleError, RuleSet,
};
use muster_broker::{Answer, Authorizer, Request};
use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

mod settings;

pub(super) use settings::RULES_MAX_DEFAULT;
pub use settings::{Settings, Source, SourceType};

use super::collection::Collection;
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// Longest name of a client or user that has rules.
pub(super) const OWNER_BYTES_MAX: usize = 1_024;
/// Clients and users that may have rules.
pub(super) const OWNERS_MAX: usize = 1_000_000;

const EVERYBODY: &str = "all";

/// Why rules are not as somebody wants them.
#[derive(Debug, thiserror::Error)]
pub enum RefusedRules {
    /// The client or user has rules already.
    #[error("{0} has rules already")]
    Exists(String),
    /// The client or user has no rules.
    #[error("no such rules")]
    NotFound,
    /// A rule cannot be used.
    #[error("rule {at}: {why}")]
    Rule {
        /// Which one, counted from 0.
        at: usize,
        /// What is wrong.
        why: RuleError,
    },
    /// More than `max_rules`.
    #[error("at most {0} rules")]
    TooMany(usize),
    /// No client or user of that name can be.
    #[error("a name has 1 to {OWNER_BYTES_MAX} bytes")]
    Owner,
    /// `OWNERS_MAX`.
    #[error("at most {OWNERS_MAX} clients and users have rules")]
    Full,
    /// The rules are asked: they cannot be removed all at once.
    #[error("the source must be disabled before all of its rules are removed")]
    Enabled,
    /// The registry refused.
    #[error("the change could not be stored; see the log")]
    Store(#[from] Error),
}

/// Rules and settings.
#[derive(Debug)]
pub struct Authz {
    authority: Authority,
    state: Mutex<State>,
    /// Held while something is changed.
    turn: tokio::sync::Mutex<()>,
    clients: Collection<Vec<Rule>>,
    users: Collection<Vec<Rule>>,
    all: Collection<Vec<Rule>>,
    settings: Collection<State>,
}

/// What is stored besides rules.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
struct State {
    settings: Settings,
    source: Option<Source>,
}

impl Authz {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read, or holds a rule that cannot be used.
    pub fn load(_config: &Config, registry: &Registry, _clock: &SharedClock) -> Result<Self, Error> {
        let authz = Self {
            authority: Authority::default(),
            state: Mutex::new(State { settings: Settings::default(), source: Some(Source::default()) }),
            turn: tokio::sync::Mutex::default(),
            clients: Collection::new("authz_clients", registry),
            users: Collection::new("authz_users", registry),
            all: Collection::new("authz_all", registry),
            settings: Collection::new("authz_settings", registry),
        };
        if let Some(stored) = authz.settings.load()?.remove(EVERYBODY) {
            authz.authority.set_policy(policy(&stored));
            *authz.state() = stored;
        }
        let compiled = |(id, rules): (String, Vec<Rule>)| match RuleSet::compile(rules) {
            Ok(set) => Ok((id, set)),
            Err((at, why)) => {
                let message = format!("rule {at} of `{id}` in the registry cannot be used");
                Err(Error::because(ErrorKind::Start, message, why))
            }
        };
        for (owner, collection) in [(Owner::Client, &authz.clients), (Owner::User, &authz.users)] {
            let sets: Result<_, Error> = collection.load()?.into_iter().map(compiled).collect();
            authz.authority.put(owner, sets?);
        }
        if let Some((_, set)) = authz.all.load()?.into_iter().map(compiled).next().transpose()? {
            authz.authority.put_all(set);
        }
        Ok(authz)
    }

    /// What decides, for who only looks.
    pub fn counts(&self) -> AuthzCounts {
        self.authority.counts()
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Other settings.
    ///
    /// # Errors
    /// [`RefusedRules::Store`].
    pub async fn set_settings(&self, settings: Settings) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        let state = State { settings, ..self.state().clone() };
        self.store_state(state).await
    }

    /// The source of rules, if it is asked for at all.
    pub fn source(&self) -> Option<Source> {
        self.state().source.clone()
    }

    /// Puts the source there or takes it away, if it was there as `expected`. Its rules stay either way.
    ///
    /// # Errors
    /// [`RefusedRules::Exists`], [`RefusedRules::NotFound`], [`RefusedRules::Store`].
    pub async fn set_source(&self, source: Option<Source>, is_expected: bool) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        let before = self.state().clone();
        match (before.source.is_some(), is_expected) {
            (true, false) => return Err(RefusedRules::Exists("built_in_database".to_owned())),
            (false, true) => return Err(RefusedRules::NotFound),
            _ => {}
        }
        self.store_state(State { source, ..before }).await
    }

    /// Whatever sessions remember is forgotten.
    pub fn forget_answers(&self) {
        self.authority.forget_answers();
    }

    /// The rules of one owner.
    pub fn owned(&self, owner: Owner, id: &str) -> Option<Vec<Rule>> {
        self.authority.owned(owner, id)
    }

    /// Owners whose name contains `like`, with their rules, and how many there are.
    pub fn page(&self, owner: Owner, like: Option<&str>, skip: usize, limit: usize) -> (Owned, usize) {
        self.authority.page(owner, like, skip, limit)
    }

    /// The rules for everybody.
    pub fn all(&self) -> Vec<Rule> {
        self.authority.all()
    }

    /// Gives owners rules who have none: all of them, or none.
    ///
    /// # Errors
    /// [`RefusedRules`].
    pub async fn create(&self, owner: Owner, entries: Owned) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        let mut names = std::collections::BTreeSet::new();
        for (id, _) in &entries {
            if self.authority.has(owner, id) || !names.insert(id) {
                return Err(RefusedRules::Exists(id.clone()));
            }
        }
        if self.authority.owners() + entries.len() > OWNERS_MAX {
            return Err(RefusedRules::Full);
        }
        self.put(owner, entries).await
    }

    /// Gives an owner that has rules others in their place.
    ///
    /// # Errors
    /// [`RefusedRules`].
    pub async fn replace(&self, owner: Owner, id: &str, rules: Vec<Rule>) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        if !self.authority.has(owner, id) {
            return Err(RefusedRules::NotFound);
        }
        self.put(owner, vec![(id.to_owned(), rules)]).await
    }

    /// Changes the rules of one owner, or of everybody, by what `change` makes of them; an owner without rules is none.
    ///
    /// # Errors
    /// [`RefusedRules`].
    pub async fn edit(
        &self,
        owner: Option<(Owner, &str)>,
        change: impl FnOnce(&mut Vec<Rule>) -> Result<(), RefusedRules>,
    ) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        let Some((owner, id)) = owner else {
            let mut rules = self.authority.all();
            change(&mut rules)?;
            return self.put_all(rules).await;
        };
        let mut rules = self.authority.owned(owner, id).unwrap_or_default();
        change(&mut rules)?;
        if rules.is_empty() {
            return self.drop_owner(owner, id).await;
        }
        if !self.authority.has(owner, id) && self.authority.owners() >= OWNERS_MAX {
            return Err(RefusedRules::Full);
        }
        self.put(owner, vec![(id.to_owned(), rules)]).await
    }

    /// Takes an owner's rules away.
    ///
    /// # Errors
    /// [`RefusedRules::NotFound`], [`RefusedRules::Store`].
    pub async fn remove(&self, owner: Owner, id: &str) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        if !self.authority.has(owner, id) {
            return Err(RefusedRules::NotFound);
        }
        self.drop_owner(owner, id).await
    }

    /// These are the rules for everybody.
    ///
    /// # Errors
    /// [`RefusedRules`].
    pub async fn set_all(&self, rules: Vec<Rule>) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        self.put_all(rules).await
    }

    /// No rule is left. The source must not be in use.
    ///
    /// # Errors
    /// [`RefusedRules::Enabled`], [`RefusedRules::Store`].
    pub async fn purge(&self) -> Result<(), RefusedRules> {
        let _turn = self.turn.lock().await;
        if self.source().is_some_and(|it| it.enable) {
            return Err(RefusedRules::Enabled);
        }
        let changes = vec![self.clients.clear(), self.users.clear(), self.all.clear()];
        self.clients.commit(changes).await?;
        self.authority.clear();
        Ok(())
    }

    async fn put(&self, owner: Owner, entries: Owned) -> Result<(), RefusedRules> {
        let collection = self.collection(owner);
        let mut changes = Vec::with_capacity(entries.len());
        let mut sets = Vec::with_capacity(entries.len());
        for (id, rules) in entries {
            if id.is_empty() || id.len() > OWNER_BYTES_MAX {
                return Err(RefusedRules::Owner);
            }
            changes.push(collection.put(&id, &rules)?);
            sets.push((id, self.compile(rules)?));
        }
        collection.commit(changes).await?;
        self.authority.put(owner, sets);
        Ok(())
    }

    async fn put_all(&self, rules: Vec<Rule>) -> Result<(), RefusedRules> {
        let change = self.all.put(EVERYBODY, &rules)?;
        let set = self.compile(rules)?;
        self.all.commit(vec![change]).await?;
        self.authority.put_all(set);
        Ok(())
    }

    async fn drop_owner(&self, owner: Owner, id: &str) -> Result<(), RefusedRules> {
        let collection = self.collection(owner);
        collection.commit(vec![collection.remove(id)]).await?;
        self.authority.remove(owner, id);
        Ok(())
    }

    fn compile(&self, rules: Vec<Rule>) -> Result<RuleSet, RefusedRules> {
        let rules_max = self.source().map_or(RULES_MAX_DEFAULT, |it| it.max_rules);
        if rules.len() > rules_max {
            return Err(RefusedRules::TooMany(rules_max));
        }
        RuleSet::compile(rules).map_err(|(at, why)| RefusedRules::Rule { at, why })
    }

    async fn store_state(&self, state: State) -> Result<(), RefusedRules> {
        self.settings.commit(vec![self.settings.put(EVERYBODY, &state)?]).await?;
        let policy = policy(&state);
        *self.state() = state;
        self.authority.set_policy(policy);
        Ok(())
    }

    fn collection(&self, owner: Owner) -> &Collection<Vec<Rule>> {
        match owner {
            Owner::Client => &self.clients,
            Owner::User => &self.users,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn policy(state: &State) -> muster_broker::authz::Policy {
    let is_asked = state.source.as_ref().is_some_and(|it| it.enable);
    state.settings.policy(is_asked)
}

impl Authorizer for Authz {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a, muster_broker::Authz> {
        self.authority.authorize(request)
    }

    fn caching(&self, request: &Request<'_>) -> Option<Caching> {
        self.authority.caching(request)
    }

    fn remembered(&self, allow: bool) {
        self.authority.remembered(allow);
    }

    fn deny_action(&self) -> DenyAction {
        self.authority.deny_action()
    }
}
