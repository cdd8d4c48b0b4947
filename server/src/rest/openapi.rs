//! The description of REST: what is not of one endpoint. Paths are described where they are served.

use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::App;

/// What the document says of the API as a whole.
#[derive(OpenApi)]
#[openapi(info(title = "Muster"))]
struct Described;

/// A router that describes what it serves.
pub(super) fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Described::openapi())
}
