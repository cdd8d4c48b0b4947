//! A message as an operator writes it, and what is wrong with it. It must never know how messages are published.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_broker::{PublishRequest, Qos};
use muster_core::event::proto;
use muster_core::topic;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Refusal;

/// Unspecified error.
const UNSPECIFIED: u8 = 131;
/// The topic cannot be published to.
const TOPIC_NAME_INVALID: u8 = 144;

/// How the payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::rest) enum Encoding {
    /// As text.
    #[default]
    Plain,
    /// As Base64, for any bytes.
    Base64,
}

/// A message to publish.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(in crate::rest) struct Message {
    /// Where to. No wildcards, and not below `$SYS/`.
    #[schema(example = "sensors/7/command")]
    pub(in crate::rest) topic: String,
    /// What.
    #[schema(example = "reboot")]
    pub(in crate::rest) payload: String,
    /// How the payload is written.
    #[serde(default, alias = "encoding")]
    pub(in crate::rest) payload_encoding: Encoding,
    /// At most, at least or exactly once.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    pub(in crate::rest) qos: u8,
    /// Whether it is kept for later subscribers.
    #[serde(default)]
    pub(in crate::rest) retain: bool,
    /// In whose name: what subscribers and rules see as the publisher.
    #[serde(default)]
    pub(in crate::rest) clientid: Option<String>,
    /// What comes with it for MQTT 5 subscribers.
    #[serde(default)]
    pub(in crate::rest) properties: Option<Properties>,
}

/// MQTT 5 properties of a message.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(in crate::rest) struct Properties {
    /// 1 where the payload is UTF-8.
    #[schema(minimum = 0, maximum = 1)]
    payload_format_indicator: Option<u8>,
    /// Seconds after which nobody gets it any more.
    message_expiry_interval: Option<u32>,
    /// Where an answer is expected.
    response_topic: Option<String>,
    /// What an answer should bring back.
    correlation_data: Option<String>,
    /// Names and values.
    user_properties: Option<BTreeMap<String, String>>,
    /// The payload's type.
    content_type: Option<String>,
}

/// What the broker is to publish.
///
/// # Errors
/// What is wrong, with MQTT's code for it.
pub(in crate::rest) fn request(message: Message, packet_bytes_max: usize) -> Result<PublishRequest, Refusal> {
    let Message { topic, payload, payload_encoding, qos, retain, clientid, properties } = message;
    if topic::validate_name(&topic).is_err() || topic == "$SYS" || topic.starts_with("$SYS/") {
        return Err(Refusal::new(TOPIC_NAME_INVALID, "topic_name_invalid"));
    }
    if topic.starts_with("$delayed/") {
        return Err(Refusal::new(TOPIC_NAME_INVALID, "delayed publishing is not offered"));
    }
    let qos = Qos::from_u8(qos).ok_or_else(|| Refusal::new(UNSPECIFIED, "qos is 0, 1 or 2"))?;
    let payload = match payload_encoding {
        Encoding::Plain => payload.into_bytes(),
        Encoding::Base64 => {
            let decoded = STANDARD.decode(payload.as_bytes());
            decoded.map_err(|_| Refusal::new(UNSPECIFIED, "the payload is no Base64"))?
        }
    };
    let request = PublishRequest {
        clientid: clientid.unwrap_or_default(),
        topic,
        payload: payload.into(),
        qos,
        retain,
        props: properties.map(written).transpose()?,
        ..PublishRequest::default()
    };
    if request.bytes() > packet_bytes_max {
        return Err(Refusal::new(151, "packet_too_large"));
    }
    Ok(request)
}

fn written(properties: Properties) -> Result<proto::Properties, Refusal> {
    let Properties { payload_format_indicator, message_expiry_interval, response_topic, .. } = properties;
    if payload_format_indicator.is_some_and(|it| it > 1) {
        return Err(Refusal::new(UNSPECIFIED, "payload_format_indicator is 0 or 1"));
    }
    if response_topic.as_deref().is_some_and(|it| topic::validate_name(it).is_err()) {
        return Err(Refusal::new(TOPIC_NAME_INVALID, "response_topic is no topic to publish to"));
    }
    let pairs = properties.user_properties.unwrap_or_default();
    Ok(proto::Properties {
        payload_format_indicator: payload_format_indicator.map(u32::from),
        message_expiry_interval,
        response_topic,
        correlation_data: properties.correlation_data.map(|text| text.into_bytes().into()),
        content_type: properties.content_type,
        user_property: pairs.into_iter().map(|(key, value)| proto::UserProperty { key, value }).collect(),
        ..proto::Properties::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(json: Value) -> Result<PublishRequest, Refusal> {
        request(serde_json::from_value(json).expect("a message"), 100)
    }

    #[test]
    fn what_is_wrong_has_mqtts_code() {
        let codes = [
            (json!({"topic": "a/+", "payload": ""}), 144),
            (json!({"topic": "", "payload": ""}), 144),
            (json!({"topic": "$SYS/x", "payload": ""}), 144),
            (json!({"topic": "a", "payload": "?", "payload_encoding": "base64"}), 131),
            (json!({"topic": "a", "payload": "", "qos": 3}), 131),
            (json!({"topic": "a", "payload": "x".repeat(101)}), 151),
            (json!({"topic": "a", "payload": "", "properties": {"response_topic": "#"}}), 144),
            (json!({"topic": "a", "payload": "", "properties": {"payload_format_indicator": 2}}), 131),
        ];
        for (message, code) in codes {
            assert_eq!(of(message.clone()).expect_err("refused").reason_code, code, "{message}");
        }
    }

    #[test]
    fn everything_arrives() {
        let request = of(json!({
            "topic": "$x/ä", "payload": "AAH/", "encoding": "base64", "qos": 2, "retain": true, "clientid": "me",
            "properties": {"user_properties": {"b": "2", "a": "1"}, "correlation_data": "c"},
        }))
        .expect("good");
        assert_eq!((&*request.topic, &*request.payload), ("$x/ä", &[0, 1, 255][..]));
        assert_eq!((request.qos, request.retain, &*request.clientid), (Qos::ExactlyOnce, true, "me"));
        let props = request.props.expect("properties");
        let pairs: Vec<_> = props.user_property.iter().map(|it| (&*it.key, &*it.value)).collect();
        assert_eq!(
            (pairs, props.correlation_data.as_deref()),
            (vec![("a", "1"), ("b", "2")], Some(&b"c"[..]))
        );
    }
}
