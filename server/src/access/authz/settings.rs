//! The settings of permissions, as they are written over REST and stored.

use std::time::Duration;

use muster_broker::authz::{DenyAction, Permission, Policy};
use serde::{Deserialize, Serialize};

use crate::config::parse_duration;

/// Rules that one client, one user, and everybody together may have, unless the source says otherwise.
pub(crate) const RULES_MAX_DEFAULT: usize = 100;
/// Most that the source may say.
const RULES_MAX: usize = 10_000;
/// Answers that one session may remember at most.
const CACHE_ENTRIES_MAX: usize = 10_000;
/// Topics that may be left out of what is remembered.
const EXCLUDES_MAX: usize = 100;

/// What holds for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = AuthorizationSettings)]
pub struct Settings {
    /// What may be done that no rule speaks about.
    pub no_match: NoMatch,
    /// What becomes of a client that does what it may not.
    pub deny_action: OnDeny,
    /// What sessions remember.
    pub cache: Cache,
}

/// What may be done that no rule speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoMatch {
    /// Everything.
    #[default]
    Allow,
    /// Nothing.
    Deny,
}

/// What becomes of a client that does what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDeny {
    /// It is told, where its protocol has a way to.
    #[default]
    Ignore,
    /// Its connection ends.
    Disconnect,
}

/// What a session remembers of answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = AuthorizationCache)]
pub struct Cache {
    /// Whether it does.
    pub enable: bool,
    /// How many.
    #[schema(minimum = 1, maximum = 10000)]
    pub max_size: usize,
    /// For how long: a duration such as `1m`.
    #[schema(pattern = "^[1-9][0-9]{0,5}(ms|s|m|h)$")]
    pub ttl: String,
    /// Topic filters; answers about topics that they match are not remembered.
    #[schema(max_items = 100)]
    pub excludes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { no_match: NoMatch::Allow, deny_action: OnDeny::Ignore, cache: Cache::default() }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { enable: true, max_size: 32, ttl: "1m".to_owned(), excludes: Vec::new() }
    }
}

impl Settings {
    /// What is wrong with them, if something is.
    ///
    /// # Errors
    /// The field and what it should be.
    pub fn check(&self) -> Result<(), String> {
        let Cache { max_size, ttl, excludes, .. } = &self.cache;
        if !(1..=CACHE_ENTRIES_MAX).contains(max_size) {
            return Err(format!("cache.max_size: 1 to {CACHE_ENTRIES_MAX}"));
        }
        if !parse_duration(ttl).is_ok_and(|ttl| !ttl.is_zero()) {
            return Err("cache.ttl: a duration such as 1m".to_owned());
        }
        if excludes.len() > EXCLUDES_MAX {
            return Err(format!("cache.excludes: at most {EXCLUDES_MAX}"));
        }
        if excludes.iter().any(|it| muster_core::topic::validate_filter(it).is_err()) {
            return Err("cache.excludes: topic filters".to_owned());
        }
        Ok(())
    }

    pub(super) fn policy(&self, is_built_in_asked: bool) -> Policy {
        let Cache { enable, max_size, ttl, excludes } = &self.cache;
        Policy {
            is_built_in_asked,
            no_match: match self.no_match {
                NoMatch::Allow => Permission::Allow,
                NoMatch::Deny => Permission::Deny,
            },
            deny_action: match self.deny_action {
                OnDeny::Ignore => DenyAction::Ignore,
                OnDeny::Disconnect => DenyAction::Disconnect,
            },
            cache_entries_max: if *enable { *max_size } else { 0 },
            cache_ttl: Some(parse_duration(ttl).unwrap_or(Duration::from_secs(60))),
            cache_excludes: excludes.clone(),
        }
    }
}

/// Where rules come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuthorizationSource)]
pub struct Source {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: SourceType,
    /// Whether it is asked.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enable: bool,
    /// Rules that one client, one user, and everybody together may have.
    #[serde(default = "rules_max_default")]
    #[schema(minimum = 1, maximum = 10000, default = 100)]
    pub max_rules: usize,
}

/// The kinds of sources that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceType {
    /// Rules made over REST.
    #[default]
    BuiltInDatabase,
}

impl Default for Source {
    fn default() -> Self {
        Self { kind: SourceType::default(), enable: true, max_rules: RULES_MAX_DEFAULT }
    }
}

impl Source {
    /// What is wrong with it, if something is.
    ///
    /// # Errors
    /// The field and what it should be.
    pub fn check(&self) -> Result<(), String> {
        if (1..=RULES_MAX).contains(&self.max_rules) {
            return Ok(());
        }
        Err(format!("max_rules: 1 to {RULES_MAX}"))
    }
}

const fn yes() -> bool {
    true
}

const fn rules_max_default() -> usize {
    RULES_MAX_DEFAULT
}
