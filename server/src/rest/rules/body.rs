//! Bodies of requests about rules: which fields there are, and of which type.

use serde_json::{Map, Value};

use super::super::reply::ApiError;
use crate::pipelines::{ManagedRule, RulePatch};

/// Fields of a rule as it is shown that nobody can change: a client may send back what it was sent.
const READ_ONLY: &[&str] = &[
    "from",
    "namespace",
    "action_details",
    "created_at",
    "last_modified_at",
    "problems",
    "status",
    "node",
    "node_status",
    "metrics",
    "node_metrics",
];

/// Fields that can be set.
const FIELDS: &[&str] = &["id", "name", "sql", "actions", "enable", "description", "metadata"];

/// The fields of a request, taken one by one.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The fields, if there is none that is not `known`.
    pub(super) fn known(fields: Map<String, Value>, known: &[&str]) -> Result<Self, ApiError> {
        match fields.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(Self(fields)),
            Some(key) => {
                let distance = |known: &&&str| strsim::damerau_levenshtein(key, known);
                let near = known.iter().min_by_key(distance).filter(|known| distance(known) <= 2);
                let meant = near.map_or_else(
                    || format!("; known are {}", known.join(", ")),
                    |near| format!("; did you mean `{near}`?"),
                );
                Err(bad(format!("there is no field `{key}`{meant}")))
            }
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("`{name}` is a text"))),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(bad(format!("`{name}` is true or false"))),
        }
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(bad(format!("`{name}` is a list"))),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(bad(format!("`{name}` is an object"))),
        }
    }
}

/// 400, as the reference words it.
pub(super) fn bad(message: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Bad Arguments: {message}"))
}

/// The rule to be made.
pub(super) fn new_rule(fields: Map<String, Value>) -> Result<ManagedRule, ApiError> {
    let (id, patch) = read(fields)?;
    if id.as_ref().is_some_and(String::is_empty) {
        return Err(ApiError::bad_request("empty rule id is not allowed"));
    }
    let sql = patch.sql.ok_or_else(|| bad("`sql` is missing"))?;
    Ok(ManagedRule {
        id: id.unwrap_or_default(),
        name: patch.name.unwrap_or_default(),
        sql,
        actions: patch.actions.unwrap_or_default(),
        enable: patch.enable.unwrap_or(true),
        description: patch.description.unwrap_or_default(),
        metadata: patch.metadata.unwrap_or_default(),
        created_at_ms: 0,
        modified_at_ms: 0,
    })
}

/// What is to be changed of the rule `id`.
pub(super) fn patch(id: &str, fields: Map<String, Value>) -> Result<RulePatch, ApiError> {
    match read(fields)? {
        (Some(other), _) if other != id => {
            Err(bad(format!("the id of a rule cannot be changed: it is `{id}`, not `{other}`")))
        }
        (_, patch) => Ok(patch),
    }
}

fn read(fields: Map<String, Value>) -> Result<(Option<String>, RulePatch), ApiError> {
    let mut fields: Map<_, _> =
        fields.into_iter().filter(|(name, _)| !READ_ONLY.contains(&name.as_str())).collect();
    // A rule of EMQX that has no description shows it as null.
    fields.retain(|name, value| !(value.is_null() && ["name", "description"].contains(&name.as_str())));
    let mut fields = Fields::known(fields, FIELDS)?;
    let id = fields.text("id")?;
    let patch = RulePatch {
        name: fields.text("name")?,
        sql: fields.text("sql")?,
        actions: fields.list("actions")?,
        enable: fields.flag("enable")?,
        description: fields.text("description")?,
        metadata: fields.object("metadata")?,
    };
    Ok((id, patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        result.expect_err("a refusal").message().to_owned()
    }

    #[test]
    fn a_rule_has_defaults() {
        let rule = new_rule(fields(json!({"sql": "SELECT 1", "created_at": "x", "from": [], "name": null})));
        let rule = rule.expect("a rule");
        assert_eq!((&*rule.sql, rule.enable, rule.id.as_str()), ("SELECT 1", true, ""));
        assert!(rule.actions.is_empty() && rule.metadata.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, want) in [
            (json!({}), "Bad Arguments: `sql` is missing"),
            (json!({"sql": 1}), "Bad Arguments: `sql` is a text"),
            (json!({"sql": "", "enable": "yes"}), "Bad Arguments: `enable` is true or false"),
            (json!({"sql": "", "actions": "x"}), "Bad Arguments: `actions` is a list"),
            (json!({"sql": "", "metadata": []}), "Bad Arguments: `metadata` is an object"),
            (json!({"sql": "", "id": 5}), "Bad Arguments: `id` is a text"),
            (json!({"sql": "", "id": ""}), "empty rule id is not allowed"),
            (
                json!({"sql": "", "enabled": true}),
                "Bad Arguments: there is no field `enabled`; did you mean `enable`?",
            ),
            (
                json!({"sql": "", "outputs": []}),
                "Bad Arguments: there is no field `outputs`; known are id, name, sql, actions, enable, description, \
                 metadata",
            ),
        ] {
            assert_eq!(refusal(new_rule(fields(body))), want);
        }
        assert_eq!(
            refusal(patch("a", fields(json!({"id": "b"})))),
            "Bad Arguments: the id of a rule cannot be changed: it is `a`, not `b`"
        );
        let same = patch("a", fields(json!({"id": "a", "enable": false}))).expect("a patch");
        assert_eq!(same, RulePatch { enable: Some(false), ..RulePatch::default() });
    }
}
