//! Bodies that are lists, and the fields of what is asked for in the name of a client.

use axum::extract::{FromRequest, Request};
use muster_broker::SubscriptionInfo;
use serde_json::{Map, Value};

use crate::rest::reply::{ApiError, json_bytes};

/// A request's body: a JSON array.
#[derive(Debug)]
pub(super) struct List(pub(super) Vec<Value>);

impl<S: Send + Sync> FromRequest<S> for List {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = json_bytes(request, state).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Array(entries)) => Ok(Self(entries)),
            Ok(_) => Err(ApiError::bad_request("the body is no JSON array")),
            Err(error) => Err(ApiError::bad_request(format!("the body is no JSON: {error}"))),
        }
    }
}

/// The object that an entry of a list must be.
pub(super) fn object(entry: Value) -> Result<Map<String, Value>, ApiError> {
    match entry {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::bad_request("an entry is no JSON object")),
    }
}

/// The filter that must be named.
pub(super) fn topic(fields: &Map<String, Value>) -> Result<String, ApiError> {
    let topic = fields.get("topic").and_then(Value::as_str).filter(|it| !it.is_empty());
    topic.map(str::to_owned).ok_or_else(|| ApiError::bad_request("topic: must be a topic filter"))
}

/// A subscription as it is asked for.
pub(super) fn subscription(fields: &Map<String, Value>) -> Result<SubscriptionInfo, ApiError> {
    let number = |name: &str, max: u64| match fields.get(name) {
        None => Ok(0),
        Some(value) => {
            let number = value.as_u64().filter(|it| *it <= max).and_then(|it| u8::try_from(it).ok());
            number.ok_or_else(|| ApiError::bad_request(format!("{name}: must be a number from 0 to {max}")))
        }
    };
    let topic = topic(fields)?;
    let (qos, no_local) = (number("qos", 2)?, number("nl", 1)? == 1);
    let (retain_as_published, retain_handling) = (number("rap", 1)? == 1, number("rh", 2)?);
    if no_local && topic.starts_with("$share/") {
        return Err(ApiError::invalid_parameter(
            "nl: a shared subscription cannot leave out the client's own",
        ));
    }
    Ok(SubscriptionInfo { topic, qos, no_local, retain_as_published, retain_handling, subscription_id: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn subscriptions() {
        let read = |body: Value| object(body).and_then(|fields| subscription(&fields));
        let full =
            read(json!({"topic": "a/#", "qos": 2, "nl": 1, "rap": 1, "rh": 2})).expect("a subscription");
        assert_eq!(
            (full.qos, full.no_local, full.retain_as_published, full.retain_handling),
            (2, true, true, 2)
        );
        assert_eq!(read(json!({"topic": "a"})).expect("a subscription").qos, 0);
        for bad in [
            json!({}),
            json!({"topic": ""}),
            json!({"topic": 1}),
            json!({"topic": "a", "qos": 3}),
            json!({"topic": "a", "nl": true}),
            json!({"topic": "a", "rh": -1}),
            json!({"topic": "$share/g/a", "nl": 1}),
            json!(["a"]),
        ] {
            read(bad.clone()).expect_err(&bad.to_string());
        }
    }
}
