//! A rule as clients see it, whether it was made over REST or stands in a file.

use std::collections::BTreeMap;

use muster_rules::read_select;
use muster_sinks::PipelineId;
use muster_sinks::delivery::{PipelineState, PipelineStatus};
use serde_json::{Map, Value, json};

use super::super::App;
use super::super::reply::rfc3339;
use crate::pipelines::{Listed, ListedTarget, ManagedRule};

/// Everything that is asked about a rule.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) id: String,
    name: String,
    pub(super) sql: String,
    pub(super) from: Vec<String>,
    actions: Vec<Value>,
    /// The targets as they run; empty for a rule that does not.
    targets: Vec<ListedTarget>,
    pub(super) enable: bool,
    pub(super) description: String,
    metadata: Map<String, Value>,
    created_at_ms: Option<i64>,
    modified_at_ms: Option<i64>,
    problems: Vec<String>,
}

/// Every rule, in the order of ids.
pub(super) fn all(app: &App) -> Vec<Shown> {
    let listed = app.pipelines.listed();
    let problems = app.pipelines.problems();
    let mut rules = BTreeMap::new();
    for (name, it) in listed.iter().filter(|(_, it)| !it.is_managed()) {
        rules.insert(name.clone(), of_file(app, name, it));
    }
    for rule in app.pipelines.managed_rules() {
        let shown = || managed(&rule, listed.get(&rule.id), &problems);
        rules.entry(rule.id.clone()).or_insert_with(shown);
    }
    rules.into_values().collect()
}

/// One rule.
pub(super) fn one(app: &App, id: &str) -> Option<Shown> {
    let listed = app.pipelines.listed();
    match (listed.get(id), app.pipelines.managed_rule(id)) {
        (Some(it), _) if !it.is_managed() => Some(of_file(app, id, it)),
        (it, Some(rule)) => Some(managed(&rule, it, &app.pipelines.problems())),
        _ => None,
    }
}

fn managed(rule: &ManagedRule, listed: Option<&Listed>, problems: &[String]) -> Shown {
    let from = match listed {
        Some(listed) => listed.from.clone(),
        None => read_select(&rule.sql)
            .map(|select| select.from.into_iter().map(|name| name.text).collect())
            .unwrap_or_default(),
    };
    let about = format!("rest:{}:", rule.id);
    Shown {
        id: rule.id.clone(),
        name: rule.name.clone(),
        sql: rule.sql.clone(),
        from,
        actions: rule.actions.clone(),
        targets: listed.map(|it| it.targets.clone()).unwrap_or_default(),
        enable: rule.enable,
        description: rule.description.clone(),
        metadata: rule.metadata.clone(),
        created_at_ms: Some(rule.created_at_ms),
        modified_at_ms: Some(rule.modified_at_ms),
        problems: problems.iter().filter(|it| it.starts_with(&about)).cloned().collect(),
    }
}

fn of_file(app: &App, name: &str, listed: &Listed) -> Shown {
    let (file, line) = listed.place.rsplit_once(':').unwrap_or((&listed.place, ""));
    let metadata = json!({
        "source": "file",
        "file": file,
        "line": line.parse::<u64>().ok(),
        "read_only": true,
    });
    let modified_at_ms = modified_at_ms(file);
    Shown {
        id: name.to_owned(),
        name: name.to_owned(),
        sql: listed.sql.clone(),
        from: listed.from.clone(),
        actions: listed.targets.iter().map(action).collect(),
        targets: listed.targets.clone(),
        enable: true,
        description: app.pipelines.comment(name).unwrap_or_default(),
        metadata: metadata.as_object().cloned().unwrap_or_default(),
        created_at_ms: modified_at_ms,
        modified_at_ms,
        problems: Vec::new(),
    }
}

/// When the file was written last; of its making, file systems tell nothing that can be trusted.
fn modified_at_ms(file: &str) -> Option<i64> {
    let modified = std::fs::metadata(file).and_then(|it| it.modified()).ok()?;
    jiff::Timestamp::try_from(modified).ok().map(jiff::Timestamp::as_millisecond)
}

/// A target of a rule in a file, in the words of a client.
fn action(target: &ListedTarget) -> Value {
    match target {
        ListedTarget::Sink { kind, id } => format!("{kind}:{}", target_name(kind, id)).into(),
        ListedTarget::Republish { topic, options } => {
            let mut args = json!(options);
            if let Some(args) = args.as_object_mut() {
                args.insert("topic".to_owned(), topic.as_str().into());
            }
            json!({"function": "republish", "args": args})
        }
    }
}

/// What stands behind the kind; of the embedded database its table.
fn target_name(kind: &str, id: &PipelineId) -> String {
    if kind == id.sink {
        id.target.clone()
    } else if id.target.is_empty() {
        id.sink.clone()
    } else {
        format!("{}.{}", id.sink, id.target)
    }
}

impl Shown {
    pub(super) fn has_action(&self, wanted: &[&str]) -> bool {
        let mut names: Vec<String> =
            self.actions.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        names.extend(self.targets.iter().map(action).filter_map(|it| it.as_str().map(str::to_owned)));
        names.iter().any(|name| wanted.contains(&name.as_str()))
    }

    pub(super) fn to_json(&self, statuses: &[PipelineStatus]) -> Value {
        let details = self.targets.iter().filter_map(|target| match target {
            ListedTarget::Sink { kind, id } => Some(json!({
                "type": kind,
                "name": target_name(kind, id),
                "status": status(id, statuses),
            })),
            ListedTarget::Republish { .. } => None,
        });
        let time = |at: Option<i64>| at.map_or(Value::Null, rfc3339);
        let mut shown = json!({
            "id": self.id,
            "name": self.name,
            "namespace": null,
            "from": self.from,
            "sql": self.sql,
            "actions": self.actions,
            "action_details": details.collect::<Vec<_>>(),
            "enable": self.enable,
            "description": self.description,
            "created_at": time(self.created_at_ms),
            "last_modified_at": time(self.modified_at_ms),
            "metadata": self.metadata,
        });
        if let (Some(shown), false) = (shown.as_object_mut(), self.problems.is_empty()) {
            shown.insert("problems".to_owned(), self.problems.clone().into());
        }
        shown
    }
}

fn status(id: &PipelineId, statuses: &[PipelineStatus]) -> &'static str {
    let same = |it: &&PipelineStatus| it.rule == id.rule && it.sink == id.sink && it.target == id.target;
    match statuses.iter().find(same).map(|it| it.state) {
        Some(PipelineState::Running) => "connected",
        Some(PipelineState::Starting) => "connecting",
        _ => "disconnected",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::rest) fn shown(id: &str, from: &[&str], actions: &[&str]) -> Shown {
        let rule = ManagedRule {
            id: id.to_owned(),
            name: String::new(),
            sql: String::new(),
            actions: actions.iter().map(|it| Value::from(*it)).collect(),
            enable: true,
            description: format!("about {id}"),
            metadata: Map::new(),
            created_at_ms: 0,
            modified_at_ms: 1_000,
        };
        Shown { from: from.iter().map(|it| (*it).to_owned()).collect(), ..managed(&rule, None, &[]) }
    }

    #[test]
    fn the_shape() {
        let mut rule = shown("r", &["t/#"], &["http:hook"]);
        let id = PipelineId::new("r", "hook", "");
        rule.targets = vec![ListedTarget::Sink { kind: "webhook".to_owned(), id }];
        assert_eq!(
            rule.to_json(&[]),
            json!({
                "id": "r", "name": "", "namespace": null, "from": ["t/#"], "sql": "", "actions": ["http:hook"],
                "action_details": [{"type": "webhook", "name": "hook", "status": "disconnected"}],
                "enable": true, "description": "about r", "metadata": {},
                "created_at": "1970-01-01T00:00:00.000+00:00", "last_modified_at": "1970-01-01T00:00:01.000+00:00",
            })
        );
        assert!(rule.has_action(&["http:hook"]) && rule.has_action(&["x", "webhook:hook"]));
        assert!(!rule.has_action(&["hook"]));
    }

    #[test]
    fn problems_are_those_of_the_rule() {
        let problems = ["rest:r:1:1: error: a", "rest:r2:1:1: error: b", "r.sql:1:1: error: c"];
        let rule = ManagedRule {
            id: "r".to_owned(),
            sql: "SELECT 1 FROM \"a\", 'b'".to_owned(),
            name: String::new(),
            actions: Vec::new(),
            enable: true,
            description: String::new(),
            metadata: Map::new(),
            created_at_ms: 0,
            modified_at_ms: 0,
        };
        let shown = managed(&rule, None, &problems.map(str::to_owned));
        assert_eq!(shown.problems, problems[..1]);
        assert_eq!(shown.from, ["a", "b"], "also while it does not run");
    }

    #[test]
    fn targets_of_files_in_the_words_of_clients() {
        let sink = |kind: &str, id| action(&ListedTarget::Sink { kind: kind.to_owned(), id });
        assert_eq!(sink("sqlite", PipelineId::new("r", "sqlite", "t")), "sqlite:t");
        assert_eq!(sink("sqlite", PipelineId::new("r", "own", "t")), "sqlite:own.t");
        assert_eq!(sink("webhook", PipelineId::new("r", "hook", "")), "webhook:hook");
        let options = [("qos".to_owned(), "1".to_owned())].into_iter().collect();
        assert_eq!(
            action(&ListedTarget::Republish { topic: "t".to_owned(), options }),
            json!({"function": "republish", "args": {"topic": "t", "qos": "1"}})
        );
    }
}
