//! What bodies about permissions look like, for those who write and those who describe them.

use muster_broker::authz::Rule;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::reply::ApiError;

/// Reads a body as what it should be.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_json::from_value(value).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// One rule.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes muster_broker::authz::Rule")]
pub(super) struct AuthorizationRule {
    /// A topic filter in which `${clientid}`, `${username}` and `${client_attrs.NAME}` stand for the client's own;
    /// behind `eq ` the very text.
    #[schema(min_length = 1, example = "devices/${clientid}/#")]
    topic: String,
    permission: RulePermission,
    action: RuleActionName,
    /// Only these; any without it.
    #[schema(required = false, max_items = 3)]
    qos: Option<Vec<RuleQos>>,
    retain: Option<RuleRetain>,
    /// Only clients whose identifier this regular expression finds something in.
    #[schema(required = false, min_length = 1, max_length = 1024)]
    clientid_re: Option<String>,
    /// Only clients whose user name this regular expression finds something in.
    #[schema(required = false, min_length = 1, max_length = 1024)]
    username_re: Option<String>,
    /// Only clients from this address or range.
    #[schema(required = false, example = "10.0.0.0/8")]
    ipaddr: Option<String>,
    /// Only clients of this listener.
    #[schema(required = false, example = "tcp:default")]
    listener: Option<String>,
}

/// Whether it may be done.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes muster_broker::authz::Permission")]
enum RulePermission {
    Allow,
    Deny,
}

/// What a rule is about.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes muster_broker::authz::RuleAction")]
enum RuleActionName {
    Publish,
    Subscribe,
    All,
}

/// A quality of service.
#[derive(utoipa::ToSchema)]
#[schema(minimum = 0, maximum = 2)]
#[expect(dead_code, reason = "describes a number")]
struct RuleQos(u8);

/// Only publishes with this retain flag, or `all`.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes muster_broker::authz::Retain")]
enum RuleRetain {
    Flag(bool),
    Word(String),
}

/// A client with its rules.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientRules {
    /// Client identifier.
    #[schema(min_length = 1, max_length = 1024)]
    pub(super) clientid: String,
    /// In their order.
    #[schema(value_type = Vec<AuthorizationRule>, max_items = 100)]
    pub(super) rules: Vec<Rule>,
}

/// A user with its rules.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRules {
    /// User name.
    #[schema(min_length = 1, max_length = 1024)]
    pub(super) username: String,
    /// In their order.
    #[schema(value_type = Vec<AuthorizationRule>, max_items = 100)]
    pub(super) rules: Vec<Rule>,
}

/// Other rules for one client or user. The path says whose they are.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OtherRules {
    /// As in the path, for clients that send it.
    #[serde(rename = "clientid")]
    pub(super) _clientid: Option<String>,
    /// As in the path, for clients that send it.
    #[serde(rename = "username")]
    pub(super) _username: Option<String>,
    /// In their order.
    #[schema(value_type = Vec<AuthorizationRule>, max_items = 100)]
    pub(super) rules: Vec<Rule>,
}

/// Rules for everybody.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RulesForAll {
    /// In their order.
    #[schema(value_type = Vec<AuthorizationRule>, max_items = 100)]
    pub(super) rules: Vec<Rule>,
}

/// Where a page is in its list.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes Page::envelope")]
pub(super) struct RulesPageMeta {
    page: u64,
    limit: u64,
    /// Left out of searches by likeness.
    #[schema(required = false)]
    count: Option<u64>,
    hasnext: bool,
}

/// A page of clients with their rules.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes Page::envelope")]
pub(super) struct ClientRulesPage {
    data: Vec<ClientRules>,
    meta: RulesPageMeta,
}

/// A page of users with their rules.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes Page::envelope")]
pub(super) struct UserRulesPage {
    data: Vec<UserRules>,
    meta: RulesPageMeta,
}
