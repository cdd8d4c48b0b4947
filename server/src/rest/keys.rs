//! `/api_key`, `/login`, `/logout`, `/users`: who may manage.

use utoipa_axum::router::OpenApiRouter;

use super::App;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
