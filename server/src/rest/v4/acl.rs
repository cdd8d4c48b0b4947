//! `/acl`: permissions, one topic at a time. `%c` and `%u` in a topic are the dialect's `${clientid}` and
//! `${username}`.

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use muster_broker::authz::{Owner, Permission, Retain, Rule, RuleAction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::audit;
use super::super::authz::refusal;
use super::super::reply::{AnyBody, BodyRefused, Page, Params, Path, Refused};
use super::{Answer, Code, Refusal, done, ok, page};
use crate::access::Caller;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(of_all))
        .routes(routes!(remove_of_all))
        .routes(routes!(list))
        .routes(routes!(of_one))
        .routes(routes!(of_topic, remove_of_topic))
}

/// A permission as the dialect writes it.
#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct AclEntry {
    #[schema(required = false)]
    clientid: Option<String>,
    #[schema(required = false)]
    username: Option<String>,
    topic: String,
    action: AclAction,
    access: AclAccess,
}

/// One, or many.
#[derive(utoipa::ToSchema, Serialize)]
#[serde(untagged)]
#[schema(as = AclEntries)]
#[expect(dead_code, reason = "describes what is read as JSON")]
enum OneOrMany {
    One(AclEntry),
    Many(Vec<AclEntry>),
}

/// What it is about.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum AclAction {
    Pub,
    Sub,
    Pubsub,
}

/// What it says.
#[derive(Clone, Copy, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum AclAccess {
    Allow,
    Deny,
}

/// Adds a permission, or each of an array. One about the same topic and action is replaced.
#[utoipa::path(post, path = "/acl", tag = "Older dialect", operation_id = "v4_acl_create",
    request_body = OneOrMany,
    responses((status = 200, description = "Code 0: it went well", body = Answer), BodyRefused, Refused))]
async fn create(State(app): State<App>, caller: Caller, AnyBody(value): AnyBody) -> Response {
    let Value::Array(entries) = value else {
        return match add(&app, &caller, value).await {
            Ok(entry) => ok(entry),
            Err(refused) => refused.into_response(),
        };
    };
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        let shown = entry.clone();
        answers.push(match add(&app, &caller, entry).await {
            Ok(entry) => entry,
            Err(Refusal(_, message)) => json!({"entry": shown, "result": message}),
        });
    }
    ok(answers)
}

async fn add(app: &App, caller: &Caller, value: Value) -> Result<Value, Refusal> {
    let entry: AclEntry =
        serde_json::from_value(value).map_err(|error| Refusal(Code::BadParameter, error.to_string()))?;
    let owner = match (&entry.clientid, &entry.username) {
        (Some(id), None) => Some((Owner::Client, id.clone())),
        (None, Some(name)) => Some((Owner::User, name.clone())),
        (None, None) => None,
        (Some(_), Some(_)) => {
            let message = "clientid or username, not both".to_owned();
            return Err(Refusal(Code::BadParameter, message));
        }
    };
    let rule = rule(&entry);
    let changed = app.access.authz.edit(owner.as_ref().map(|(kind, id)| (*kind, id.as_str())), |rules| {
        match rules.iter_mut().find(|it| it.topic == rule.topic && it.action == rule.action) {
            Some(held) => *held = rule.clone(),
            None => rules.push(rule.clone()),
        }
        Ok(())
    });
    changed.await.map_err(|error| Refusal::from(refusal(error)))?;
    let mut shown = shown(owner.as_ref().map(|(kind, id)| (*kind, id.as_str())), &rule);
    let object = owner.map_or("all".to_owned(), |(_, id)| id);
    audit::write(app, caller, "authorization.rules.update", &object, shown.clone()).await;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("result".to_owned(), "ok".into());
    }
    Ok(shown)
}

/// Permissions for everybody.
#[utoipa::path(get, path = "/acl/$all", tag = "Older dialect", operation_id = "v4_acl_all",
    params(("page" = Option<u64>, Query, minimum = 1), ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000)),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn of_all(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let asked = Page::from_params(&Params::new(query))?;
    let entries: Vec<_> = app.access.authz.all().iter().map(|it| shown(None, it)).collect();
    Ok(paged(asked, entries))
}

/// Takes a permission for everybody away.
#[utoipa::path(delete, path = "/acl/$all/topic/{topic}", tag = "Older dialect", operation_id = "v4_acl_all_delete",
    params(("topic" = String, Path, description = "Its topic")),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn remove_of_all(
    State(app): State<App>,
    caller: Caller,
    Path(topic): Path<String>,
) -> Result<Response, Refusal> {
    take(&app, &caller, None, &topic).await
}

/// Permissions of every client or user.
#[utoipa::path(get, path = "/acl/{kind}", tag = "Older dialect", operation_id = "v4_acl_list",
    params(("kind" = String, Path, description = "`clientid` or `username`"),
        ("page" = Option<u64>, Query, minimum = 1), ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000)),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn list(
    State(app): State<App>,
    Path(kind): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let owner = owner(&kind)?;
    let asked = Page::from_params(&Params::new(query))?;
    let (found, _) = app.access.authz.page(owner, None, 0, usize::MAX);
    let of = |(id, rules): &(String, Vec<Rule>)| -> Vec<_> {
        rules.iter().map(|it| shown(Some((owner, id)), it)).collect()
    };
    Ok(paged(asked, found.iter().flat_map(of).collect()))
}

/// Permissions of one client or user.
#[utoipa::path(get, path = "/acl/{kind}/{id}", tag = "Older dialect", operation_id = "v4_acl_one",
    params(("kind" = String, Path, description = "`clientid` or `username`"),
        ("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn of_one(
    State(app): State<App>,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let owner = owner(&kind)?;
    let rules = app.access.authz.owned(owner, &id).unwrap_or_default();
    Ok(ok(rules.iter().map(|it| shown(Some((owner, &id)), it)).collect::<Vec<_>>()))
}

/// Permissions of one client or user about one topic.
#[utoipa::path(get, path = "/acl/{kind}/{id}/topic/{topic}", tag = "Older dialect", operation_id = "v4_acl_topic",
    params(("kind" = String, Path, description = "`clientid` or `username`"),
        ("id" = String, Path, description = "Its name"), ("topic" = String, Path, description = "The topic")),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn of_topic(
    State(app): State<App>,
    Path((kind, id, topic)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let (owner, topic) = (owner(&kind)?, ours(&topic));
    let rules = app.access.authz.owned(owner, &id).unwrap_or_default();
    let about = rules.iter().filter(|it| it.topic == topic);
    Ok(ok(about.map(|it| shown(Some((owner, &id)), it)).collect::<Vec<_>>()))
}

/// Takes the permissions of one client or user about one topic away.
#[utoipa::path(delete, path = "/acl/{kind}/{id}/topic/{topic}", tag = "Older dialect",
    operation_id = "v4_acl_topic_delete",
    params(("kind" = String, Path, description = "`clientid` or `username`"),
        ("id" = String, Path, description = "Its name"), ("topic" = String, Path, description = "The topic")),
    responses((status = 200, description = "Code 0: it went well", body = Answer), Refused))]
async fn remove_of_topic(
    State(app): State<App>,
    caller: Caller,
    Path((kind, id, topic)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    take(&app, &caller, Some((owner(&kind)?, &id)), &topic).await
}

async fn take(
    app: &App,
    caller: &Caller,
    owner: Option<(Owner, &str)>,
    topic: &str,
) -> Result<Response, Refusal> {
    let topic = ours(topic);
    let changed = app.access.authz.edit(owner, |rules| {
        rules.retain(|it| it.topic != topic);
        Ok(())
    });
    changed.await.map_err(|error| Refusal::from(refusal(error)))?;
    let object = owner.map_or("all", |(_, id)| id);
    audit::write(app, caller, "authorization.rules.delete", object, json!({"topic": topic})).await;
    Ok(done())
}

fn paged(asked: Page, entries: Vec<Value>) -> Response {
    let total = entries.len() as u64;
    let skip = usize::try_from(asked.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    page(asked, entries.into_iter().skip(skip).take(limit).collect(), total)
}

fn owner(kind: &str) -> Result<Owner, Refusal> {
    match kind {
        "clientid" => Ok(Owner::Client),
        "username" => Ok(Owner::User),
        _ => Err(Refusal(Code::BadParameter, "clientid, username or $all".to_owned())),
    }
}

fn ours(topic: &str) -> String {
    topic.replace("%c", "${clientid}").replace("%u", "${username}")
}

fn rule(entry: &AclEntry) -> Rule {
    Rule {
        topic: ours(&entry.topic),
        permission: match entry.access {
            AclAccess::Allow => Permission::Allow,
            AclAccess::Deny => Permission::Deny,
        },
        action: match entry.action {
            AclAction::Pub => RuleAction::Publish,
            AclAction::Sub => RuleAction::Subscribe,
            AclAction::Pubsub => RuleAction::All,
        },
        qos: Vec::new(),
        retain: Retain::All,
        clientid_re: None,
        username_re: None,
        ipaddr: None,
        listener: None,
    }
}

fn shown(owner: Option<(Owner, &str)>, rule: &Rule) -> Value {
    let action = match rule.action {
        RuleAction::Publish => AclAction::Pub,
        RuleAction::Subscribe => AclAction::Sub,
        RuleAction::All => AclAction::Pubsub,
    };
    let access = match rule.permission {
        Permission::Allow => AclAccess::Allow,
        Permission::Deny => AclAccess::Deny,
    };
    match owner {
        Some((Owner::Client, id)) => {
            json!({"clientid": id, "topic": rule.topic, "action": action, "access": access})
        }
        Some((Owner::User, id)) => {
            json!({"username": id, "topic": rule.topic, "action": action, "access": access})
        }
        None => json!({"all": "$all", "topic": rule.topic, "action": action, "access": access}),
    }
}
