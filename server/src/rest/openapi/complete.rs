//! What holds of every operation and would otherwise be written at each: answers to those who may not ask, to what
//! cannot be read, and links from what makes a thing to what is done with it. It must never know a single path.

use serde_json::{Map, Value, json};

/// Keys of a path that are operations.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// The operation that answers, with which status, the operation that goes on, and its parameters from the answer.
type Link = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// Where one goes from an answer.
const LINKS: &[Link] = &[
    (
        "rules_create",
        "201",
        &["rules_get", "rules_update", "rules_delete", "rules_metrics", "rules_metrics_reset", "rules_test"],
        &[("id", "$response.body#/id")],
    ),
    (
        "authentication_create",
        "200",
        &["authentication_get", "authentication_delete", "authentication_status"],
        &[("id", "$response.body#/id")],
    ),
    (
        "device_users_create",
        "201",
        &["device_users_get", "device_users_update", "device_users_delete"],
        &[("id", "$request.path.id"), ("user_id", "$response.body#/user_id")],
    ),
    (
        "authorization_rules_clients_create",
        "204",
        &[
            "authorization_rules_client",
            "authorization_rules_client_put",
            "authorization_rules_client_delete",
        ],
        &[("clientid", "$request.body#/0/clientid")],
    ),
    (
        "authorization_rules_users_create",
        "204",
        &["authorization_rules_user", "authorization_rules_user_put", "authorization_rules_user_delete"],
        &[("username", "$request.body#/0/username")],
    ),
    (
        "api_keys_create",
        "200",
        &["api_keys_get", "api_keys_update", "api_keys_delete"],
        &[("name", "$response.body#/name")],
    ),
    ("users_create", "200", &["users_update", "users_delete"], &[("username", "$response.body#/username")]),
    (
        "banned_create",
        "200",
        &["banned_delete"],
        &[("as", "$response.body#/as"), ("who", "$response.body#/who")],
    ),
    (
        "topic_metrics_create",
        "200",
        &["topic_metrics_get", "topic_metrics_remove"],
        &[("topic", "$response.body#/topic")],
    ),
    ("replays_create", "201", &["replays_get", "replays_end"], &[("id", "$response.body#/data/0/id")]),
    (
        "clients_list",
        "200",
        &["clients_get", "clients_subscriptions", "clients_subscribe", "clients_unsubscribe", "devices_one"],
        &[("clientid", "$response.body#/data/0/clientid")],
    ),
    ("devices_list", "200", &["devices_one"], &[("clientid", "$response.body#/data/0/clientid")]),
    (
        "dead_letters_list",
        "200",
        &["dead_letters_get", "dead_letters_delete"],
        &[("id", "$response.body#/data/0/id")],
    ),
    (
        "nodes_list",
        "200",
        &["nodes_get", "nodes_metrics", "nodes_stats", "monitor_of_node", "monitor_current_of_node"],
        &[("node", "$response.body#/0/node")],
    ),
];

/// The document, with that in every operation.
pub(super) fn completed(document: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for path in paths.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        let operations = path.iter_mut().filter(|(method, _)| METHODS.contains(&method.as_str()));
        operations.filter_map(|(_, operation)| operation.as_object_mut()).for_each(complete);
    }
    document
}

fn complete(operation: &mut Map<String, Value>) {
    let is_open = operation.get("security") == Some(&json!([{}]));
    if is_open {
        operation.insert("security".to_owned(), json!([]));
    }
    let has_body = operation.contains_key("requestBody");
    let has_parameters =
        operation.get("parameters").and_then(Value::as_array).is_some_and(|it| !it.is_empty());
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(answers) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    let mut may = |holds: bool, status: &str| {
        if holds && !answers.contains_key(status) {
            answers.insert(status.to_owned(), refusal(status));
        }
    };
    for status in ["401", "403", "429", "500", "503"] {
        may(!is_open, status);
    }
    may(!is_open && (has_body || has_parameters), "400");
    for status in ["413", "415"] {
        may(has_body, status);
    }
    for (status, answer) in answers.iter_mut() {
        if answer["description"].as_str().is_none_or(str::is_empty) {
            answer["description"] = words(status).into();
        }
        if let Some((name, description)) = header(status).filter(|_| answer.get("headers").is_none()) {
            let header = json!({"description": description, "schema": {"type": "string"}});
            answer["headers"] = json!({name: header});
        }
    }
    for (_, status, to, parameters) in LINKS.iter().filter(|(from, ..)| *from == id) {
        let Some(answer) = answers.get_mut(*status) else { continue };
        for name in *to {
            let parameters: Map<_, _> =
                parameters.iter().map(|(name, place)| ((*name).to_owned(), (*place).into())).collect();
            answer["links"][*name] = json!({"operationId": name, "parameters": parameters});
        }
    }
}

fn refusal(status: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/ErrorBody"});
    json!({"description": words(status), "content": {"application/json": {"schema": schema}}})
}

/// What a status means where nothing closer is said.
fn words(status: &str) -> &'static str {
    match status {
        "200" => "What was asked for",
        "201" => "It is made",
        "202" | "204" => "It is done",
        "400" => "The request cannot be used; `message` says why",
        "401" => "Nobody says who asks, or it is not true",
        "403" => "Who asks may not do this",
        "404" => "There is none",
        "409" => "There is one already",
        "412" => "It does not match",
        "413" => "The body is too large",
        "415" => "The body is not said to be JSON",
        "429" => "Somebody at this address was wrong too often",
        "500" => "Something is wrong with the server; its log says what",
        "503" => "Not now: it took too long, the node stops, or the log takes nothing",
        _ => "As its body says",
    }
}

/// What stands in the head of such an answer.
fn header(status: &str) -> Option<(&'static str, &'static str)> {
    match status {
        "401" => Some(("WWW-Authenticate", "How to say who asks")),
        "429" => Some(("Retry-After", "Seconds after which to come again")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Every operation, by its id.
    fn operations() -> Vec<(String, Value)> {
        let document = super::super::document();
        let paths = document["paths"].as_object().expect("paths").clone();
        let all = paths.into_iter().flat_map(|(path, item)| {
            let item = item.as_object().expect("a path").clone();
            item.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        });
        all.collect()
    }

    #[test]
    fn every_operation_is_described() {
        let document = super::super::document();
        let tags: Vec<_> = document["tags"].as_array().expect("tags").iter().map(|it| &it["name"]).collect();
        let mut ids = BTreeMap::new();
        for (name, operation) in operations() {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name}: no operationId"));
            if let Some(other) = ids.insert(id.to_owned(), name.clone()) {
                panic!("{name} and {other} are both {id}");
            }
            let own = operation["tags"].as_array().expect("tags");
            assert!(own.len() == 1 && own.iter().all(|it| tags.contains(&it)), "{name}: {own:?}");
            assert!(operation["summary"].is_string(), "{name}: nothing says what it does");
            let answers = operation["responses"].as_object().expect("answers");
            let good = answers.iter().find(|(status, _)| status.starts_with('2'));
            let (_, good) = good.unwrap_or_else(|| panic!("{name}: nothing says how it answers"));
            assert!(good["description"].as_str().is_some_and(|it| !it.is_empty()), "{name}");
            let is_open = operation["security"] == json!([]);
            assert_eq!(is_open, ["status", "login"].contains(&id), "{name}");
            assert!(id == "status" || answers.contains_key("401"), "{name}: 401");
        }
        assert!(ids.len() > 120, "{} operations", ids.len());
    }

    #[test]
    fn what_is_referred_to_is_there() {
        let document = super::super::document();
        let mut found = 0;
        let mut todo = vec![&document];
        while let Some(value) = todo.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(place)) = fields.get("$ref") {
                        let pointer = place.strip_prefix('#').expect("a place in the document");
                        assert!(document.pointer(pointer).is_some(), "{place}");
                        found += 1;
                    }
                    todo.extend(fields.values());
                }
                Value::Array(items) => todo.extend(items),
                _ => {}
            }
        }
        assert!(found > 100);
    }

    #[test]
    fn links_lead_somewhere() {
        let all: BTreeMap<_, _> = operations()
            .into_iter()
            .map(|(_, it)| (it["operationId"].as_str().expect("an id").to_owned(), it))
            .collect();
        for (from, status, to, parameters) in LINKS {
            let answer = &all[*from]["responses"][*status];
            for name in *to {
                assert_eq!(answer["links"][*name]["operationId"], **name, "{from}");
                let target = all.get(*name).unwrap_or_else(|| panic!("{from}: there is no {name}"));
                for (parameter, _) in *parameters {
                    let known = target["parameters"].as_array().expect("parameters");
                    assert!(known.iter().any(|it| it["name"] == *parameter), "{name}: {parameter}");
                }
            }
        }
    }
}
