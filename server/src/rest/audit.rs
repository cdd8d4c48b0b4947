//! What was changed over REST, as events `admin` of the log.

use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};

use super::App;

/// Who did it: REST asks nobody for a name yet.
const ACTOR: &str = "rest";

/// Writes that `action` was done to `object`, and waits until that is durable. A log that takes nothing does not undo
/// what was done.
pub(super) async fn write(app: &App, action: &str, object: &str) {
    let admin = proto::Admin {
        action: action.to_owned(),
        actor: ACTOR.to_owned(),
        object: object.to_owned(),
        details: "{}".to_owned(),
        result: "success".to_owned(),
    };
    let body = proto::Event {
        node: app.node.to_string(),
        detail: Some(Detail::Admin(admin)),
        ..proto::Event::default()
    };
    let event =
        NewEvent { timestamp_ms: app.clock.wall_ms(), kind: EventKind::Admin, topic: String::new(), body };
    let written = match app.journal.append(event).await {
        Ok(appended) => app.journal.durable(appended.offset).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::warn!(%error, action, object, "a change over REST could not be written into the log");
    }
}
