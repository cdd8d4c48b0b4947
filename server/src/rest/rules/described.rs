//! Rules and what is asked about them, for those who describe them. It must never be read or written itself.

use std::collections::BTreeMap;

use serde_json::Value;

/// A rule.
#[derive(utoipa::ToSchema)]
#[schema(as = Rule)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Described {
    id: String,
    name: String,
    /// There are none; always null.
    namespace: Value,
    /// What its FROM names.
    from: Vec<String>,
    sql: String,
    actions: Vec<Action>,
    /// Its targets as they run, with how they are doing.
    action_details: Vec<ActionDetail>,
    enable: bool,
    description: String,
    #[schema(required = true, format = DateTime)]
    created_at: Option<String>,
    #[schema(required = true, format = DateTime)]
    last_modified_at: Option<String>,
    /// Of a rule that stands in a file: which, and that it is read only.
    #[schema(value_type = Object)]
    metadata: Value,
    /// Why it does not run, if it does not.
    #[schema(nullable = false)]
    problems: Option<Vec<String>>,
}

/// A target as it runs.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleActionDetail)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct ActionDetail {
    r#type: String,
    name: String,
    /// `connected`, `connecting` or `disconnected`.
    status: String,
}

/// Where rows go: `TYPE:NAME`, or a function with its arguments.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[serde(untagged)]
#[schema(as = RuleAction, example = "sqlite:alarms")]
#[expect(dead_code, reason = "describes what is read and written as JSON")]
enum Action {
    Name(String),
    Function(Function),
}

/// What is done with rows within the broker.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[schema(as = RuleFunction)]
struct Function {
    /// `republish` or `console`.
    function: String,
    #[schema(value_type = Option<Object>, nullable = false)]
    args: Option<Value>,
}

/// A rule to be.
#[derive(utoipa::ToSchema)]
#[schema(as = NewRule)]
#[expect(dead_code, reason = "describes what is read by hand")]
pub(super) struct New {
    /// Made up where it is left out.
    #[schema(nullable = false, example = "alarms")]
    id: Option<String>,
    name: Option<String>,
    #[schema(example = "SELECT clientid, payload.t AS t FROM \"sensors/#\" WHERE t > 80")]
    sql: String,
    #[schema(nullable = false, example = json!(["sqlite:alarms"]))]
    actions: Option<Vec<Action>>,
    #[schema(nullable = false)]
    enable: Option<bool>,
    description: Option<String>,
    #[schema(value_type = Option<Object>, nullable = false)]
    metadata: Option<Value>,
}

/// What is to change of a rule; what is left out stays.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleChange)]
#[expect(dead_code, reason = "describes what is read by hand")]
pub(super) struct Change {
    name: Option<String>,
    #[schema(nullable = false)]
    sql: Option<String>,
    #[schema(nullable = false)]
    actions: Option<Vec<Action>>,
    #[schema(nullable = false)]
    enable: Option<bool>,
    description: Option<String>,
    #[schema(value_type = Option<Object>, nullable = false)]
    metadata: Option<Value>,
}

/// Which rules are listed.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Params reads")]
pub(super) struct RuleQuery {
    /// Those that are enabled, or are not.
    enable: Option<bool>,
    /// Those whose FROM names exactly this.
    from: Option<String>,
    /// Part of the id; leaves `meta.count` out.
    like_id: Option<String>,
    /// Part of what FROM names; leaves `meta.count` out.
    like_from: Option<String>,
    /// Part of the description; leaves `meta.count` out.
    like_description: Option<String>,
    /// A topic filter that what FROM names falls under; leaves `meta.count` out.
    #[param(example = "sensors/#")]
    match_from: Option<String>,
    /// Those with one of these actions; may be repeated.
    action: Option<Vec<String>>,
    /// Those with one of these sources, of which there are none; may be repeated.
    source: Option<Vec<String>>,
}

/// A rule's metrics.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleMetrics)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Metrics {
    id: String,
    /// Numbers by name, such as `matched`, `passed`, `failed.no_result`, `actions.success`.
    metrics: BTreeMap<String, f64>,
    /// The same by node.
    node_metrics: Vec<NodeMetrics>,
}

/// A rule's metrics on one node.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleNodeMetrics)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct NodeMetrics {
    node: String,
    metrics: BTreeMap<String, f64>,
}

/// A statement to try, and the event to try it on.
#[derive(utoipa::ToSchema)]
#[schema(as = SqlTrial)]
#[expect(dead_code, reason = "describes what is read by hand")]
pub(super) struct SqlTrial {
    #[schema(example = "SELECT payload.t AS t FROM \"sensors/#\"")]
    sql: String,
    /// `event_type` and columns of the event; examples fill in what is left out.
    #[schema(value_type = Option<Object>, nullable = false,
        example = json!({"event_type": "message_publish", "topic": "sensors/1", "payload": "{\"t\": 81}"}))]
    context: Option<Value>,
}

/// The event to try a rule on.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleTrial)]
#[expect(dead_code, reason = "describes what is read by hand")]
pub(super) struct RuleTrial {
    /// `event_type` and columns of the event; examples fill in what is left out.
    #[schema(value_type = Option<Object>, nullable = false)]
    context: Option<Value>,
    /// A test never runs the rule's actions.
    #[schema(nullable = false, default = true)]
    stop_action_after_template_rendering: Option<bool>,
}

/// A row, or a list of rows where the statement is a FOREACH.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[serde(untagged)]
#[schema(as = TrialResult)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) enum TrialResult {
    Row(BTreeMap<String, Value>),
    Rows(Vec<BTreeMap<String, Value>>),
}

/// An event that rules can select.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleEvent)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Event {
    /// What FROM names.
    event: String,
    title: InLanguages,
    description: InLanguages,
    columns: Vec<String>,
    /// Columns that a trial asks for, each with an example and what it is.
    test_columns: BTreeMap<String, Vec<Value>>,
    sql_example: String,
}

/// A text by language.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct InLanguages {
    en: String,
}

/// Settings of the rule engine. They cannot be changed.
#[derive(utoipa::ToSchema)]
#[schema(as = RuleEngine)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Engine {
    #[schema(nullable = false, pattern = "^10s$")]
    jq_function_default_timeout: Option<String>,
    /// Always true.
    #[schema(nullable = false)]
    ignore_sys_message: Option<bool>,
}
