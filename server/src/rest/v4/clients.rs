//! `/clients`, `/mqtt/subscribe`, `/subscriptions`, `/routes`: clients and what they listen to.

use utoipa_axum::router::OpenApiRouter;

use super::App;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
