//! The actions of rules made over REST, as EMQX clients write them, become targets of ours: `"type:name"` a sink that a
//! rule file declares, `"sqlite:table"` a table of the embedded database, `{"function": "republish", "args"}` a
//! REPUBLISH.

use std::collections::BTreeMap;

use muster_core::value::Value as RowValue;
use muster_rules::ast::{Name, OptionEntry, Options, Span, Target};
use serde_json::{Map, Value};

use super::plan::EMBEDDED;

/// Most actions of one rule.
const ACTIONS_MAX: usize = 64;

/// Names that EMQX has for kinds of ours.
const SYNONYMS: &[(&str, &str)] = &[
    ("http", "webhook"),
    ("pgsql", "postgres"),
    ("postgresql", "postgres"),
    ("timescale", "postgres"),
    ("kafka_producer", "kafka"),
];

/// The fields of a republish action; a text is a template.
const REPUBLISH: &[&str] =
    &["topic", "payload", "qos", "retain", "direct_dispatch", "mqtt_properties", "user_properties"];

/// The kind of sink that EMQX's `name` means.
pub(super) fn kind_of(name: &str) -> &str {
    SYNONYMS.iter().find(|(synonym, _)| *synonym == name).map_or(name, |(_, kind)| *kind)
}

/// Where a rule with these actions writes. `sinks` are the declared ones, with their kinds.
///
/// # Errors
/// Which action is wrong, and why.
pub(super) fn targets(actions: &[Value], sinks: &BTreeMap<&str, &str>) -> Result<Vec<Target>, String> {
    if actions.len() > ACTIONS_MAX {
        return Err(format!("a rule has at most {ACTIONS_MAX} actions"));
    }
    let numbered = actions.iter().enumerate();
    numbered
        .map(|(at, action)| target(action, sinks).map_err(|why| format!("actions[{at}]: {why}")))
        .collect()
}

fn target(action: &Value, sinks: &BTreeMap<&str, &str>) -> Result<Target, String> {
    match action {
        Value::String(text) => sink(text, sinks),
        Value::Object(fields) => function(fields),
        _ => Err("an action is a text such as \"sqlite:table\", or an object with `function`".to_owned()),
    }
}

fn sink(text: &str, sinks: &BTreeMap<&str, &str>) -> Result<Target, String> {
    let (kind, name) = match text.split_once(':') {
        Some((kind, name)) => (Some(kind_of(kind)), name),
        None => (None, text),
    };
    let fits = |sink: &str| sinks.get(sink).is_some_and(|it| kind.is_none_or(|kind| kind == *it));
    // A name may hold points, and so may the table behind it: the longest name that there is.
    let ends = std::iter::once(name.len()).chain(name.rmatch_indices('.').map(|(at, _)| at));
    for end in ends {
        let Some((sink, table)) = name.split_at_checked(end) else { continue };
        let table = table.strip_prefix('.');
        let embedded = sink == EMBEDDED && kind.is_none_or(|kind| kind == EMBEDDED);
        if (fits(sink) || embedded) && table != Some("") {
            return Ok(into(sink, table));
        }
    }
    match kind {
        Some(EMBEDDED) if !name.is_empty() => Ok(into(EMBEDDED, Some(name))),
        _ => Err(unknown(text, kind, name, sinks)),
    }
}

fn into(sink: &str, table: Option<&str>) -> Target {
    let name = |text: &str| Name { text: text.to_owned(), span: Span::default() };
    Target::Sink { sink: name(sink), table: table.map(name) }
}

fn unknown(text: &str, kind: Option<&str>, name: &str, sinks: &BTreeMap<&str, &str>) -> String {
    if let (Some(kind), Some(other)) = (kind, sinks.get(name)) {
        return format!("the sink `{name}` is of type {other}, not {kind}");
    }
    let known: Vec<_> = sinks.iter().map(|(name, kind)| format!("\"{kind}:{name}\"")).collect();
    let known = if known.is_empty() { String::new() } else { format!("; declared are {}", known.join(", ")) };
    format!(
        "there is no sink for \"{text}\"{known}; \"sqlite:TABLE\" is always there, and CREATE SINK in a rule file \
         declares others"
    )
}

fn function(fields: &Map<String, Value>) -> Result<Target, String> {
    if let Some(unknown) = fields.keys().find(|key| !["function", "args"].contains(&key.as_str())) {
        return Err(format!("there is no field `{unknown}`; an action has `function` and `args`"));
    }
    let none = Map::new();
    let args = match fields.get("args") {
        None => &none,
        Some(Value::Object(args)) => args,
        Some(_) => return Err("`args` is an object".to_owned()),
    };
    match fields.get("function").and_then(Value::as_str) {
        Some("republish") => republish(args),
        Some("console") => {
            Err("there is no console action; read the rule's rows from a table: \"sqlite:TABLE\"".to_owned())
        }
        Some(other) => Err(format!("there is no function `{other}`; there is `republish`")),
        None => Err("`function` is missing, or no text".to_owned()),
    }
}

fn republish(args: &Map<String, Value>) -> Result<Target, String> {
    if let Some(unknown) = args.keys().find(|key| !REPUBLISH.contains(&key.as_str())) {
        return Err(format!("republish has no `{unknown}`; it has {}", REPUBLISH.join(", ")));
    }
    let topic = match args.get("topic") {
        Some(Value::String(topic)) => topic.clone(),
        _ => return Err("republish needs `topic`, a text".to_owned()),
    };
    let mut options = Options::default();
    // As in EMQX: without a payload the message's own, with an empty one the whole row.
    match args.get("payload") {
        None => set(&mut options, "payload".to_owned(), "${payload}".into()),
        Some(Value::String(payload)) if payload.is_empty() => {}
        Some(Value::String(payload)) => set(&mut options, "payload".to_owned(), payload.as_str().into()),
        Some(_) => return Err("`payload` is a text".to_owned()),
    }
    for key in ["qos", "retain", "direct_dispatch"] {
        match args.get(key) {
            None => {}
            Some(value @ (Value::String(_) | Value::Bool(_) | Value::Number(_))) => {
                set(&mut options, key.to_owned(), value.clone().into());
            }
            Some(_) => return Err(format!("`{key}` is a value or a template such as \"${{{key}}}\"")),
        }
    }
    for key in ["user_properties", "mqtt_properties"] {
        match args.get(key) {
            None => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) if key == "user_properties" => {
                set(&mut options, key.to_owned(), text.as_str().into());
            }
            Some(Value::Object(properties)) => {
                for (name, value) in properties {
                    set(&mut options, format!("{key}.{name}"), value.clone().into());
                }
            }
            Some(_) => return Err(format!("`{key}` is an object")),
        }
    }
    Ok(Target::Republish { topic: Name { text: topic, span: Span::default() }, options })
}

fn set(options: &mut Options, key: String, value: RowValue) {
    let key = Name { text: key, span: Span::default() };
    options.0.push(OptionEntry { key, value, span: Span::default() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(action: Value) -> String {
        let sinks = [("hook", "webhook"), ("pg", "postgres"), ("a.b", "kafka"), ("own", "sqlite")];
        match targets(&[action], &sinks.into_iter().collect()) {
            Ok(targets) => match targets.as_slice() {
                [Target::Sink { sink, table }] => {
                    let table = table.as_ref().map(|it| it.text.as_str());
                    format!("{} {}", sink.text, table.unwrap_or("-"))
                }
                [Target::Republish { topic, options }] => {
                    let options: Vec<_> =
                        options.to_map().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
                    format!("{} {}", topic.text, options.join(" "))
                }
                _ => "not one".to_owned(),
            },
            Err(why) => why,
        }
    }

    #[test]
    fn texts_name_sinks() {
        for (text, want) in [
            ("webhook:hook", "hook -"),
            ("http:hook", "hook -"),
            ("hook", "hook -"),
            ("hook.x", "hook x"),
            ("pgsql:pg", "pg -"),
            ("pgsql:pg.public.t", "pg public.t"),
            ("pg.t", "pg t"),
            ("kafka_producer:a.b", "a.b -"),
            ("a.b.topic", "a.b topic"),
            ("sqlite:t", "sqlite t"),
            ("sqlite:own", "own -"),
            ("sqlite:own.t", "own t"),
            ("sqlite", "sqlite -"),
            ("sqlite.t", "sqlite t"),
            ("sqlite:sqlite.t", "sqlite t"),
        ] {
            assert_eq!(shown(text.into()), want, "{text}");
        }
        assert_eq!(shown("mysql:hook".into()), "actions[0]: the sink `hook` is of type webhook, not mysql");
        for text in ["", "nobody", "webhook:nobody", "sqlite:", "hook."] {
            let why = shown(text.into());
            assert!(
                why.starts_with(&format!("actions[0]: there is no sink for \"{text}\"; declared")),
                "{why}"
            );
        }
    }

    #[test]
    fn republish_becomes_a_target() {
        let republish = |args: Value| shown(json!({"function": "republish", "args": args}));
        assert_eq!(republish(json!({"topic": "t/${clientid}"})), "t/${clientid} payload=${payload}");
        assert_eq!(
            republish(json!({
                "topic": "t", "payload": "", "qos": 1, "retain": "${retain}", "direct_dispatch": false,
                "user_properties": "${user_properties}", "mqtt_properties": {"Content-Type": "text/plain"},
            })),
            "t direct_dispatch=false mqtt_properties.Content-Type=text/plain qos=1 retain=${retain} \
             user_properties=${user_properties}"
        );
        for (args, why) in [
            (json!({}), "republish needs `topic`, a text"),
            (json!({"topic": 1}), "republish needs `topic`, a text"),
            (json!({"topic": "t", "payload": {}}), "`payload` is a text"),
            (json!({"topic": "t", "qos": []}), "`qos` is a value or a template such as \"${qos}\""),
            (json!({"topic": "t", "mqtt_properties": "x"}), "`mqtt_properties` is an object"),
            (
                json!({"topic": "t", "qqos": 1}),
                "republish has no `qqos`; it has topic, payload, qos, retain, \
                direct_dispatch, mqtt_properties, user_properties",
            ),
        ] {
            assert_eq!(republish(args), format!("actions[0]: {why}"));
        }
    }

    #[test]
    fn what_is_no_action_is_refused() {
        for (action, part) in [
            (json!(1), "an action is a text"),
            (json!({"function": "console"}), "there is no console action"),
            (json!({"function": "mail"}), "there is no function `mail`"),
            (json!({"args": {}}), "`function` is missing"),
            (json!({"function": "republish", "args": 1}), "`args` is an object"),
            (json!({"function": "republish", "argz": 1}), "there is no field `argz`"),
        ] {
            let why = shown(action);
            assert!(why.contains(part), "{why}");
        }
        let many = vec![json!("sqlite:t"); ACTIONS_MAX + 1];
        assert!(targets(&many, &BTreeMap::new()).is_err());
    }
}
