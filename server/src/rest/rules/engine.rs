//! `/rule_engine`: the settings of the rule engine. They are the same everywhere and cannot be changed; a client that
//! puts back what it was shown is told that all is well.

use axum::Json;
use muster_rules::limits::JQ_TIME_DEFAULT_MS;
use serde_json::{Map, Value, json};

use super::super::reply::{ApiError, Body, BodyRefused, Refused};
use super::body::bad;
use super::described::Engine;

/// Settings of the rule engine.
#[utoipa::path(get, path = "/rule_engine", tag = "Rules", operation_id = "rule_engine",
    responses((status = 200, description = "The settings", body = Engine), Refused))]
pub(super) async fn show() -> Json<Value> {
    Json(Value::Object(settings()))
}

/// Takes the settings as they are; they cannot be changed.
#[utoipa::path(put, path = "/rule_engine", tag = "Rules", operation_id = "rule_engine_put", request_body = Engine,
    responses((status = 200, description = "The settings", body = Engine), Refused, BodyRefused))]
pub(super) async fn put(Body(fields): Body) -> Result<Json<Value>, ApiError> {
    let settings = settings();
    for (name, value) in fields {
        match settings.get(&name) {
            Some(fixed) if *fixed == value => {}
            Some(fixed) => return Err(bad(format!("`{name}` cannot be changed: it is {fixed}"))),
            None => return Err(bad(format!("there is no setting `{name}`"))),
        }
    }
    Ok(Json(Value::Object(settings)))
}

fn settings() -> Map<String, Value> {
    let timeout = format!("{}s", JQ_TIME_DEFAULT_MS / 1_000);
    [
        ("ignore_sys_message".to_owned(), json!(true)),
        ("jq_function_default_timeout".to_owned(), timeout.into()),
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_shown_can_be_put_and_nothing_else() {
        let Json(shown) = show().await;
        assert_eq!(shown, json!({"ignore_sys_message": true, "jq_function_default_timeout": "10s"}));
        let fields = |value: Value| Body(value.as_object().cloned().expect("an object"));
        assert_eq!(put(fields(shown.clone())).await.expect("fine").0, shown);
        assert_eq!(put(fields(json!({}))).await.expect("fine").0, shown);
        for (body, want) in [
            (json!({"ignore_sys_message": false}), "`ignore_sys_message` cannot be changed: it is true"),
            (json!({"jq_implementation_module": "jq_nif"}), "there is no setting `jq_implementation_module`"),
        ] {
            assert_eq!(
                put(fields(body)).await.expect_err("refused").message(),
                format!("Bad Arguments: {want}")
            );
        }
    }
}
