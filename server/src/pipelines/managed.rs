//! Rules made over REST: what they are, how a change of one is merged, and how they are stored. It must never know HTTP
//! or how a rule is planned.

use muster_core::registry::StoredRule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most rules made over REST: each change plans all of them.
pub const MANAGED_RULES_MAX: usize = 1_000;

/// Before a rule's id in messages, where a rule of a file has the file's name.
pub(super) const PLACE: &str = "rest:";

/// A rule made over REST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManagedRule {
    /// Its id, and its name among the rules of the files.
    #[serde(skip)]
    pub id: String,
    /// What people call it; empty if they do not.
    pub name: String,
    /// A SELECT or FOREACH.
    pub sql: String,
    /// Where its rows go, as it was asked for.
    pub actions: Vec<Value>,
    /// Whether it runs.
    pub enable: bool,
    /// What is said of it.
    pub description: String,
    /// Whatever its makers want to keep with it.
    pub metadata: Map<String, Value>,
    /// When it was made, milliseconds since 1970.
    #[serde(skip)]
    pub created_at_ms: i64,
    /// When it was changed last, milliseconds since 1970.
    #[serde(skip)]
    pub modified_at_ms: i64,
}

/// What is to be changed of a rule; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "as in ManagedRule")]
pub struct RulePatch {
    pub name: Option<String>,
    pub sql: Option<String>,
    pub actions: Option<Vec<Value>>,
    pub enable: Option<bool>,
    pub description: Option<String>,
    pub metadata: Option<Map<String, Value>>,
}

impl RulePatch {
    /// `rule` with the changes of this patch. Of `metadata`, each key is merged on its own.
    pub(super) fn apply(self, mut rule: ManagedRule, now_ms: i64) -> ManagedRule {
        let Self { name, sql, actions, enable, description, metadata } = self;
        rule.name = name.unwrap_or(rule.name);
        rule.sql = sql.unwrap_or(rule.sql);
        rule.actions = actions.unwrap_or(rule.actions);
        rule.enable = enable.unwrap_or(rule.enable);
        rule.description = description.unwrap_or(rule.description);
        rule.metadata.extend(metadata.unwrap_or_default());
        rule.modified_at_ms = now_ms;
        rule
    }
}

impl ManagedRule {
    /// How messages name the place where it stands.
    pub(super) fn place(&self) -> String {
        format!("{PLACE}{}", self.id)
    }

    pub(super) fn to_stored(&self) -> Result<StoredRule, serde_json::Error> {
        Ok(StoredRule {
            id: self.id.clone(),
            body: serde_json::to_string(self)?,
            created_at_ms: self.created_at_ms,
            modified_at_ms: self.modified_at_ms,
        })
    }

    pub(super) fn from_stored(stored: StoredRule) -> Result<Self, serde_json::Error> {
        let StoredRule { id, body, created_at_ms, modified_at_ms } = stored;
        let rule: Self = serde_json::from_str(&body)?;
        Ok(Self { id, created_at_ms, modified_at_ms, ..rule })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::pipelines) fn managed(id: &str, sql: &str, actions: &[&str]) -> ManagedRule {
        ManagedRule {
            id: id.to_owned(),
            name: String::new(),
            sql: sql.to_owned(),
            actions: actions.iter().map(|it| Value::from(*it)).collect(),
            enable: true,
            description: String::new(),
            metadata: Map::new(),
            created_at_ms: 1,
            modified_at_ms: 1,
        }
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let mut before = managed("r", "SELECT 1", &["sqlite:t"]);
        before.metadata = json!({"a": 1, "b": 1}).as_object().cloned().unwrap_or_default();
        let after = RulePatch::default().apply(before.clone(), 5);
        assert_eq!(after, ManagedRule { modified_at_ms: 5, ..before.clone() });
        let patch = RulePatch {
            enable: Some(false),
            actions: Some(vec![]),
            description: Some("d".to_owned()),
            metadata: json!({"b": 2, "c": 3}).as_object().cloned(),
            ..RulePatch::default()
        };
        let after = patch.apply(before.clone(), 5);
        assert_eq!((after.enable, after.actions.len(), &*after.description), (false, 0, "d"));
        assert_eq!(Value::Object(after.metadata.clone()), json!({"a": 1, "b": 2, "c": 3}));
        assert_eq!((after.sql, after.created_at_ms), (before.sql, 1));
    }

    #[test]
    fn what_is_stored_is_found_again() {
        let mut rule = managed("r-1", "SELECT 1", &["sqlite:t"]);
        rule.actions.push(json!({"function": "republish", "args": {"topic": "t"}}));
        let stored = rule.to_stored().expect("JSON");
        assert_eq!(ManagedRule::from_stored(stored).expect("a rule"), rule);
    }
}
