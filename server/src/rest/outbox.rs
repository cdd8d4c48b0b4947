//! Follows the registry: what commands changed beside the server counts within [`LOOK_EVERY`], and the log is told.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{App, audit};
use crate::access::{Caller, Role};
use crate::error::{Error, chain};

/// How often somebody looks whether the registry was changed: one pragma.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks until it is stopped.
pub(super) async fn follow(app: App, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        match look(&app).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(error = %chain(&error), "keys that were changed beside the server are not seen");
            }
            Err(_) => {}
        }
    }
}

async fn look(app: &App) -> Result<(), Error> {
    let keys = &app.access.keys;
    if !keys.reload_if_changed()? {
        return Ok(());
    }
    for (id, noted) in keys.outbox().load()? {
        let caller = Caller { name: noted.actor, role: Role::Administrator };
        audit::write(app, &caller, &noted.action, &noted.object, noted.details).await;
        keys.outbox().forget(&id).await?;
    }
    Ok(())
}
