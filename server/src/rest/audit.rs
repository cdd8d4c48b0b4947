//! What was changed over REST, as events `admin` of the log.

use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::log::LogError;
use serde_json::Value;

use super::App;
use crate::access::Caller;

/// Writes that `action` was done to `object` by `caller`, and waits until that is durable. `details` is an object
/// without secrets. A log that takes nothing does not undo what was done.
pub(super) async fn write(app: &App, caller: &Caller, action: &str, object: &str, details: Value) {
    if let Err(error) = record(app, caller, action, object, details).await {
        tracing::warn!(%error, action, object, "a change over REST could not be written into the log");
    }
}

/// The same where the event is the change itself: its offset, once it is durable.
pub(super) async fn record(
    app: &App,
    caller: &Caller,
    action: &str,
    object: &str,
    details: Value,
) -> Result<u64, LogError> {
    let admin = proto::Admin {
        action: action.to_owned(),
        actor: caller.name.clone(),
        object: object.to_owned(),
        details: details.to_string(),
        result: "success".to_owned(),
    };
    let body = proto::Event {
        node: app.node.to_string(),
        detail: Some(Detail::Admin(admin)),
        ..proto::Event::default()
    };
    let event =
        NewEvent { timestamp_ms: app.clock.wall_ms(), kind: EventKind::Admin, topic: String::new(), body };
    let appended = app.journal.append(event).await?;
    app.journal.durable(appended.offset).await?;
    Ok(appended.offset)
}
