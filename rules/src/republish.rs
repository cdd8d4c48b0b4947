//! REPUBLISH: what is published for a row. Topic, payload, QoS, the retain flag and MQTT 5 properties are templates
//! over the row. It must never know who publishes; whether the topic and the size suit the broker is the broker's
//! business, too.

use std::borrow::Cow;

use bytes::Bytes;
use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Properties, UserProperty};
use muster_core::event::{Event, proto};
use muster_core::topic;
use muster_core::value::{Map, Value};

use crate::ast::{Name, OptionEntry, Options, Rule};
use crate::diagnostic::{Diagnostic, Problem, Span, nearest};
use crate::program::{json, text};
use crate::template::{Context, Missing, Template};

/// What REPUBLISH does, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Republish {
    topic: Template,
    /// None: the row as JSON.
    payload: Option<Template>,
    qos: Template,
    retain: Template,
    direct_dispatch: Template,
    user_properties: UserProperties,
    /// Those with a name of their own.
    named: Vec<(String, Template)>,
    properties: Vec<(Property, Template)>,
}

/// A message for the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where to; valid for MQTT.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// Whether it is for subscribers only, and no rule sees it.
    pub direct_dispatch: bool,
    /// MQTT 5 properties, if it has any.
    pub props: Option<Properties>,
}

/// A row that gives no message; what is wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unpublishable(String);

#[derive(Debug, Clone, PartialEq)]
enum UserProperties {
    /// Those of the message that the rule saw, in their order and with repetitions.
    Original,
    /// A map of the row, or a list of `key` and `value`.
    Row(Template),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Property {
    PayloadFormatIndicator,
    MessageExpiryInterval,
    ContentType,
    ResponseTopic,
    CorrelationData,
}

const OPTIONS: &[&str] =
    &["payload", "qos", "retain", "direct_dispatch", "user_properties", "mqtt_properties.content_type"];

const PROPERTIES: &[(&str, Property)] = &[
    ("payload_format_indicator", Property::PayloadFormatIndicator),
    ("message_expiry_interval", Property::MessageExpiryInterval),
    ("content_type", Property::ContentType),
    ("response_topic", Property::ResponseTopic),
    ("correlation_data", Property::CorrelationData),
];

/// What a topic may not begin with: nobody would get the message, or something else would be meant by it.
const RESERVED: &[&str] = &["$SYS/", "$events/", "$share/", "$queue/", "$exclusive/", "$delayed/"];

/// Longest text or bytes in an MQTT packet besides the payload (MQTT 5.0, 1.5.4: a two-byte length).
const TEXT_BYTES_MAX: usize = 65_535;

impl Republish {
    /// Reads the topic and the options of one REPUBLISH of `rule`.
    ///
    /// # Errors
    /// Everything that is wrong with them; [`crate::parse_files`] tells it, too.
    pub fn compile(rule: &Rule, topic: &Name, options: &Options) -> Result<Self, Vec<Diagnostic>> {
        let (republish, problems) = read(topic, options);
        if problems.is_empty() {
            return Ok(republish);
        }
        Err(problems.into_iter().map(|problem| problem.at(&rule.source)).collect())
    }

    /// The message for a row that a rule made of `event`.
    ///
    /// # Errors
    /// The row gives no valid message, and never will.
    pub fn message(&self, row: &Map, event: &Event) -> Result<Outgoing, Unpublishable> {
        let topic = self.topic.render(&about(row, event), Context::Topic, Missing::Undefined);
        let topic = String::from_utf8(topic.into())
            .map_err(|_| Unpublishable("the topic is not UTF-8".to_owned()))?;
        if let Err(why) = check_topic(&topic) {
            let shown = text::shorten(topic.as_bytes());
            return Err(Unpublishable(format!("cannot publish to the topic `{shown}`: {why}")));
        }
        let payload = match &self.payload {
            Some(template) => template.render(row, Context::Text, Missing::Undefined),
            None => row.to_json().into(),
        };
        let qos = parsed("qos", &self.qos, row, qos_of, "0, 1 or 2")?.unwrap_or(0);
        let flag = |name, template| parsed(name, template, row, flag_of, "true or false");
        let retain = flag("retain", &self.retain)?.unwrap_or(false);
        let direct_dispatch = flag("direct_dispatch", &self.direct_dispatch)?.unwrap_or(false);
        let props = self.props(row, event)?;
        Ok(Outgoing { topic, payload, qos, retain, direct_dispatch, props })
    }

    fn props(&self, row: &Map, event: &Event) -> Result<Option<Properties>, Unpublishable> {
        let mut props = Properties::default();
        for (property, template) in &self.properties {
            // What is not there is left out, and so is a number that is none.
            let Some(value) = template.render_known(row) else { continue };
            match property {
                Property::PayloadFormatIndicator => {
                    props.payload_format_indicator = number(&value).filter(|number| *number <= 1);
                }
                Property::MessageExpiryInterval => props.message_expiry_interval = number(&value),
                Property::ContentType => props.content_type = Some(mqtt_text("content_type", &value)?),
                Property::ResponseTopic => props.response_topic = Some(response_topic(&value)?),
                Property::CorrelationData if value.len() > TEXT_BYTES_MAX => {
                    return Err(too_long("correlation_data"));
                }
                Property::CorrelationData => props.correlation_data = Some(value),
            }
        }
        props.user_property = match &self.user_properties {
            UserProperties::Original => original(event),
            UserProperties::Row(template) => template.value(row).map_or(Ok(Vec::new()), |it| pairs(&it))?,
        };
        for (key, template) in &self.named {
            if let Some(value) = template.render_known(row) {
                props.user_property.push(pair(key.as_bytes(), &value)?);
            }
        }
        Ok((props != Properties::default()).then_some(props))
    }
}

/// The row, as topics see it. An alarm that is about no one client, as a storm of many is, has its own name where the
/// client's would stand: `alarms/${clientid}` is `alarms/offline` then, not `alarms/undefined`.
fn about<'a>(row: &'a Map, event: &Event) -> Cow<'a, Map> {
    match &event.body.detail {
        Some(Detail::Alarm(alarm))
            if event.clientid().is_empty()
                && matches!(row.get("clientid"), None | Some(Value::Undefined | Value::Null)) =>
        {
            let mut row = row.clone();
            row.insert("clientid", alarm.name.as_str());
            Cow::Owned(row)
        }
        _ => Cow::Borrowed(row),
    }
}

/// What is wrong with the topic and the options.
pub(crate) fn problems(topic: &Name, options: &Options) -> Vec<Problem> {
    read(topic, options).1
}

fn read(topic: &Name, options: &Options) -> (Republish, Vec<Problem>) {
    let mut problems: Vec<_> = topic_problem(topic).into_iter().collect();
    let mut republish = Republish {
        topic: Template::new(&topic.text),
        payload: None,
        qos: Template::new("${qos}"),
        retain: Template::new("${retain}"),
        direct_dispatch: Template::new("false"),
        user_properties: UserProperties::Row(Template::new("${user_properties}")),
        named: Vec::new(),
        properties: Vec::new(),
    };
    for entry in &options.0 {
        problems.extend(republish.set(entry));
    }
    (republish, problems)
}

impl Republish {
    fn set(&mut self, entry: &OptionEntry) -> Option<Problem> {
        let OptionEntry { key, value, span } = entry;
        let text = value.as_str().map_or_else(|| value.to_json(), str::to_owned);
        let template = Template::new(&text);
        // A value that no row can mend is wrong at once.
        let constant = |known: &str, good: bool| {
            let wrong = template.is_constant() && !good;
            let help = format!("write {known}, or a template such as '${{{}}}'", key.text);
            wrong.then(|| Problem::new(*span, format!("`{text}` is no value of `{}`", key.text)).help(help))
        };
        match key.text.as_str() {
            "payload" => self.payload = (!text.is_empty()).then_some(template),
            "qos" => {
                let problem = constant("0, 1 or 2", qos_of(text.as_bytes()).is_some());
                self.qos = template;
                return problem;
            }
            "retain" | "direct_dispatch" => {
                let problem = constant("true or false", flag_of(text.as_bytes()).is_some());
                let flag = if key.text == "retain" { &mut self.retain } else { &mut self.direct_dispatch };
                *flag = template;
                return problem;
            }
            "user_properties" => return self.set_user_properties(&text, *span),
            name => match name.split_once('.') {
                Some(("user_properties", name)) => self.named.push((name.to_owned(), template)),
                Some(("mqtt_properties", name)) => match property(name) {
                    Some(property) => self.properties.push((property, template)),
                    None => return Some(unknown_property(key, name)),
                },
                _ => return Some(unknown_option(key)),
            },
        }
        None
    }

    fn set_user_properties(&mut self, text: &str, span: Span) -> Option<Problem> {
        // Quotes cannot stand inside of a text in quotes, so that the name is known without them, too.
        if text.replace('\'', "") == "${pub_props.User-Property}" {
            self.user_properties = UserProperties::Original;
            return None;
        }
        let template = Template::new(text);
        if template.value(&Map::new()).is_none() {
            let help = "write '${NAME}' for a map of the row, '${pub_props.User-Property}' for those of the message \
                        that the rule sees, or user_properties.NAME = '...' for a single one";
            return Some(Problem::new(span, "`user_properties` is one placeholder").help(help));
        }
        self.user_properties = UserProperties::Row(template);
        None
    }
}

fn unknown_option(key: &Name) -> Problem {
    let problem = Problem::new(key.span, format!("REPUBLISH has no option `{}`", key.text));
    match nearest(&key.text, OPTIONS.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help(
            "options of the rule (`start`, `batch_rows` and so on) stand in a WITH (...) of their own behind this one",
        ),
    }
}

fn unknown_property(key: &Name, name: &str) -> Problem {
    let known = PROPERTIES.iter().map(|(name, _)| *name);
    let problem = Problem::new(key.span, format!("a message has no property `{name}`"));
    match nearest(&normal(name), known.clone()) {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help(format!("known are {}", known.collect::<Vec<_>>().join(", "))),
    }
}

/// `Content-Type` as `content_type`.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn property(name: &str) -> Option<Property> {
    let name = normal(name);
    PROPERTIES.iter().find(|(known, _)| *known == name).map(|(_, property)| *property)
}

/// What is wrong with every topic that the template can give.
fn topic_problem(topic: &Name) -> Option<Problem> {
    let template = Template::new(&topic.text);
    let why = if template.is_constant() {
        check_topic(&topic.text).err()?
    } else if template.texts().any(|text| text.contains(['+', '#', '\0'])) {
        topic::TopicError::WildcardInName.to_string().into()
    } else {
        check_reserved(template.prefix()).err()?
    };
    let help = "write the topic of a message, e.g. 'alerts/${clientid}'";
    Some(Problem::new(topic.span, why).help(help))
}

fn check_topic(topic: &str) -> Result<(), Cow<'static, str>> {
    topic::validate_name(topic).map_err(|error| error.to_string())?;
    check_reserved(topic)
}

fn check_reserved(topic: &str) -> Result<(), Cow<'static, str>> {
    match RESERVED.iter().find(|prefix| topic.starts_with(*prefix)) {
        Some(prefix) => Err(format!("no message can be published below `{prefix}`").into()),
        None => Ok(()),
    }
}

/// What a template of an option gives; none where its only value is not there.
fn parsed<T>(
    name: &str,
    template: &Template,
    row: &Map,
    parse: fn(&[u8]) -> Option<T>,
    known: &str,
) -> Result<Option<T>, Unpublishable> {
    if matches!(template.value(row), Some(Value::Undefined | Value::Null)) {
        return Ok(None);
    }
    let text = template.render(row, Context::Text, Missing::Undefined);
    parse(&text).map(Some).ok_or_else(|| {
        let shown = text::shorten(&text);
        Unpublishable(format!("`{shown}` cannot be the message's {name}; it is {known}"))
    })
}

fn qos_of(text: &[u8]) -> Option<u8> {
    match text {
        b"0" => Some(0),
        b"1" => Some(1),
        b"2" => Some(2),
        _ => None,
    }
}

fn flag_of(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"1" => Some(true),
        b"false" | b"0" => Some(false),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn too_long(what: &str) -> Unpublishable {
    Unpublishable(format!("{what} has more than {TEXT_BYTES_MAX} bytes"))
}

fn mqtt_text(what: &str, bytes: &[u8]) -> Result<String, Unpublishable> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(too_long(what));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Unpublishable(format!("{what} is no text that MQTT can carry"))),
    }
}

fn response_topic(bytes: &[u8]) -> Result<String, Unpublishable> {
    let topic = mqtt_text("response_topic", bytes)?;
    match topic::validate_name(&topic) {
        Ok(()) => Ok(topic),
        Err(error) => Err(Unpublishable(format!("response_topic is none: {error}"))),
    }
}

/// The user properties of the message that the event is about.
fn original(event: &Event) -> Vec<UserProperty> {
    let props = event.body.message.as_ref().and_then(|message: &proto::Message| message.props.as_ref());
    props.map(|props| props.user_property.clone()).unwrap_or_default()
}

/// A map, a list of maps with `key` and `value`, or either as JSON; anything else has no user properties.
fn pairs(value: &Value) -> Result<Vec<UserProperty>, Unpublishable> {
    match value {
        Value::Map(map) => map.iter().map(|(key, value)| pair(key.as_bytes(), &bytes(value))).collect(),
        Value::Array(items) => {
            let of_item = |item: &Value| match item {
                Value::Map(map) => Some(pair(&bytes(map.get("key")?), &bytes(map.get("value")?))),
                _ => None,
            };
            items.iter().filter_map(of_item).collect()
        }
        Value::Str(text) => match json::decode(text) {
            Ok(inner @ (Value::Map(_) | Value::Array(_))) => pairs(&inner),
            _ => Ok(Vec::new()),
        },
        _ => Ok(Vec::new()),
    }
}

fn pair(key: &[u8], value: &[u8]) -> Result<UserProperty, Unpublishable> {
    let key = mqtt_text("the name of a user property", key)?;
    Ok(UserProperty { key, value: mqtt_text("the value of a user property", value)? })
}

fn bytes(value: &Value) -> Cow<'_, [u8]> {
    text::bytes_of(value).unwrap_or(Cow::Borrowed(b""))
}
