//! `/metrics`, `/stats`, `/nodes`: numbers.

use utoipa_axum::router::OpenApiRouter;

use super::App;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
