//! Who decides: every rule of every client and user in memory, the settings, and counters. A change counts from the
//! moment that it is made here, also for answers that sessions remember.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use muster_core::topic;

use super::cache::Caching;
use super::compiled::RuleSet;
use super::rule::{Permission, Rule};
use crate::access::{Answer, Authorizer, Authz, Request};

/// The rules that operators made.
pub const SOURCE_BUILT_IN: &str = "built_in_database";
/// The rules that came with the credentials.
pub const SOURCE_CLIENT: &str = "client_info";
/// Nobody said anything.
pub const SOURCE_DEFAULT: &str = "default";
/// Who may do everything.
pub const SOURCE_SUPERUSER: &str = "superuser";

/// What becomes of a client that does what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DenyAction {
    /// It is told, where there is a way to.
    #[default]
    Ignore,
    /// Its connection ends.
    Disconnect,
}

/// What holds for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether the operators' rules are asked.
    pub is_built_in_asked: bool,
    /// What may be done that no rule speaks about.
    pub no_match: Permission,
    /// What becomes of a client that does what it may not.
    pub deny_action: DenyAction,
    /// Answers that one session may remember; 0: none.
    pub cache_entries_max: usize,
    /// How long; none: until something changes.
    pub cache_ttl: Option<Duration>,
    /// Topics whose answers are not remembered.
    pub cache_excludes: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            is_built_in_asked: true,
            no_match: Permission::Allow,
            deny_action: DenyAction::Ignore,
            cache_entries_max: 32,
            cache_ttl: Some(Duration::from_secs(60)),
            cache_excludes: Vec::new(),
        }
    }
}

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// One client's, by its identifier.
    Client,
    /// One user's, by its name.
    User,
}

/// How often what was answered, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuthzCounts {
    /// It may, from wherever the answer came.
    pub allow: u64,
    /// It may not, from wherever the answer came.
    pub deny: u64,
    /// Remembered answers.
    pub cache_hit: u64,
    /// Asked by those who may do everything.
    pub superuser: u64,
    /// No rule spoke about it.
    pub nomatch: u64,
    /// A rule that came with the credentials decided.
    pub matched_client_info: u64,
    /// A rule of an operator decided: it may.
    pub built_in_allow: u64,
    /// A rule of an operator decided: it may not.
    pub built_in_deny: u64,
    /// The operators' rules were asked and did not say anything.
    pub built_in_nomatch: u64,
}

#[derive(Debug, Default)]
struct Live {
    allow: AtomicU64,
    deny: AtomicU64,
    cache_hit: AtomicU64,
    superuser: AtomicU64,
    nomatch: AtomicU64,
    client_info: AtomicU64,
    built_in_allow: AtomicU64,
    built_in_deny: AtomicU64,
    built_in_nomatch: AtomicU64,
}

#[derive(Debug, Default)]
struct Rules {
    clients: BTreeMap<String, RuleSet>,
    users: BTreeMap<String, RuleSet>,
    all: RuleSet,
}

impl Rules {
    fn of(&self, owner: Owner) -> &BTreeMap<String, RuleSet> {
        match owner {
            Owner::Client => &self.clients,
            Owner::User => &self.users,
        }
    }

    fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.users.is_empty() && self.all.is_empty()
    }
}

/// Rules, settings and counters.
#[derive(Debug, Default)]
pub struct Authority {
    rules: RwLock<Rules>,
    policy: ArcSwap<Policy>,
    generation: AtomicU64,
    counts: Live,
}

/// Some owners with their rules.
pub type Owned = Vec<(String, Vec<Rule>)>;

impl Authority {
    /// The settings.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Other settings, from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.forget_answers();
    }

    /// Whatever sessions remember counts for nothing any more.
    pub fn forget_answers(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// These owners have these rules, from now on and all at once.
    pub fn put(&self, owner: Owner, entries: Vec<(String, RuleSet)>) {
        self.change(|rules| match owner {
            Owner::Client => rules.clients.extend(entries),
            Owner::User => rules.users.extend(entries),
        });
    }

    /// The owner has no rules any more; whether it had some.
    pub fn remove(&self, owner: Owner, id: &str) -> bool {
        self.change(|rules| match owner {
            Owner::Client => rules.clients.remove(id).is_some(),
            Owner::User => rules.users.remove(id).is_some(),
        })
    }

    /// The rules for everybody, from now on.
    pub fn put_all(&self, set: RuleSet) {
        self.change(|rules| rules.all = set);
    }

    /// No rule is left.
    pub fn clear(&self) {
        self.change(|rules| *rules = Rules::default());
    }

    /// The rules of one owner, as they were written.
    pub fn owned(&self, owner: Owner, id: &str) -> Option<Vec<Rule>> {
        self.read().of(owner).get(id).map(|set| set.written().cloned().collect())
    }

    /// How many owners there are, clients and users.
    pub fn owners(&self) -> usize {
        let rules = self.read();
        rules.clients.len() + rules.users.len()
    }

    /// Whether the owner has rules.
    pub fn has(&self, owner: Owner, id: &str) -> bool {
        self.read().of(owner).contains_key(id)
    }

    /// The rules for everybody, as they were written.
    pub fn all(&self) -> Vec<Rule> {
        self.read().all.written().cloned().collect()
    }

    /// Owners whose name contains `like`, in their order: `limit` of them behind the first `skip`, and how many there
    /// are.
    pub fn page(&self, owner: Owner, like: Option<&str>, skip: usize, limit: usize) -> (Owned, usize) {
        let rules = self.read();
        let map = rules.of(owner);
        let shown = |(id, set): (&String, &RuleSet)| (id.clone(), set.written().cloned().collect());
        let Some(like) = like else {
            let from = map.iter();
            return (from.skip(skip).take(limit).map(shown).collect(), map.len());
        };
        let fits = || map.iter().filter(|(id, _)| id.contains(like));
        (fits().skip(skip).take(limit).map(shown).collect(), fits().count())
    }

    /// How often what was answered.
    pub fn counts(&self) -> AuthzCounts {
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let live = &self.counts;
        AuthzCounts {
            allow: read(&live.allow),
            deny: read(&live.deny),
            cache_hit: read(&live.cache_hit),
            superuser: read(&live.superuser),
            nomatch: read(&live.nomatch),
            matched_client_info: read(&live.client_info),
            built_in_allow: read(&live.built_in_allow),
            built_in_deny: read(&live.built_in_deny),
            built_in_nomatch: read(&live.built_in_nomatch),
        }
    }

    /// The answer: the credentials' rules, those of the client, of the user, for everybody, and last the setting.
    pub fn decide(&self, request: &Request<'_>) -> Authz {
        let subject = request.subject;
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let live = &self.counts;
        let (allow, source) = if subject.identity.is_superuser {
            count(&live.superuser);
            (true, SOURCE_SUPERUSER)
        } else if let Some(said) = subject.rules.as_ref().and_then(|rules| rules.decide(request)) {
            count(&live.client_info);
            (said == Permission::Allow, SOURCE_CLIENT)
        } else if let Some(said) = self.built_in(request) {
            (said == Permission::Allow, SOURCE_BUILT_IN)
        } else {
            count(&live.nomatch);
            (self.policy.load().no_match == Permission::Allow, SOURCE_DEFAULT)
        };
        count(if allow { &live.allow } else { &live.deny });
        Authz { allow, source }
    }

    fn built_in(&self, request: &Request<'_>) -> Option<Permission> {
        if !self.policy.load().is_built_in_asked {
            return None;
        }
        let subject = request.subject;
        let rules = self.read();
        let client = rules.clients.get(&subject.clientid);
        let user = subject.username.as_deref().and_then(|name| rules.users.get(name));
        let said = client
            .and_then(|set| set.decide(request))
            .or_else(|| user.and_then(|set| set.decide(request)))
            .or_else(|| rules.all.decide(request));
        drop(rules);
        let counter = match said {
            Some(Permission::Allow) => &self.counts.built_in_allow,
            Some(Permission::Deny) => &self.counts.built_in_deny,
            None => &self.counts.built_in_nomatch,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        said
    }

    /// The generation grows after the change: an answer found meanwhile is of the old one, whatever it was found by.
    fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        let done = change(&mut self.rules.write().unwrap_or_else(PoisonError::into_inner));
        self.forget_answers();
        done
    }

    fn read(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorizer for Authority {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a, Authz> {
        Answer::Now(self.decide(request))
    }

    fn caching(&self, request: &Request<'_>) -> Option<Caching> {
        let policy = self.policy.load();
        if policy.cache_entries_max == 0
            || request.subject.identity.is_superuser
            || policy.cache_excludes.iter().any(|filter| topic::matches(filter, request.topic))
        {
            return None;
        }
        // Where there is nothing to ask there is nothing to remember, and a session needs no memory for it.
        let generation = self.generation.load(Ordering::SeqCst);
        if request.subject.rules.is_none() && (!policy.is_built_in_asked || self.read().is_empty()) {
            return None;
        }
        Some(Caching { generation, entries_max: policy.cache_entries_max, ttl: policy.cache_ttl })
    }

    fn remembered(&self, allow: bool) {
        self.counts.cache_hit.fetch_add(1, Ordering::Relaxed);
        let counter = if allow { &self.counts.allow } else { &self.counts.deny };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn deny_action(&self) -> DenyAction {
        self.policy.load().deny_action
    }
}
