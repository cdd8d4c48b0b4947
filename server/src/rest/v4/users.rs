//! `/auth_username` and `/auth_clientid`: users of devices.

use utoipa_axum::router::OpenApiRouter;

use super::App;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
