//! `/mqtt/retainer`: messages that are kept for later subscribers.

use utoipa_axum::router::OpenApiRouter;

use super::App;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
