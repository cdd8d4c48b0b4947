//! Permissions: who may publish and subscribe where. Rules as data, and in what order they are asked. It must never
//! know where rules are stored, nor what a session does with an answer.

mod authority;
mod cache;
mod compiled;
mod pattern;
mod rule;

pub use authority::{
    Authority, AuthzCounts, DenyAction, Owned, Owner, Policy, SOURCE_BUILT_IN, SOURCE_CLIENT, SOURCE_DEFAULT,
    SOURCE_SUPERUSER,
};
pub use cache::{Cache, CachedAnswer, Caching};
pub use compiled::{REGEX_BYTES_MAX, RuleError, RuleSet};
pub use rule::{Permission, Retain, Rule, RuleAction};
