//! The description of REST: what is not of one endpoint, and where to read it: `/api/openapi.json`, and `/api/docs` as
//! a page. Paths are described where they are served; this must never know what they do.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::App;

/// Where the document is.
const DOCUMENT: &str = "/api/openapi.json";
/// Where the page is.
const PAGE: &str = "/api/docs";
/// The page takes everything from here and is framed by nobody. Its own styles are partly inline.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the document says of the API as a whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster",
        description = "Devices, their messages and where they go. Errors are `{code, message}`; times are RFC 3339.",
    ),
    servers((url = "/", description = "This node")),
    security(("basic" = []), ("bearer" = [])),
    modifiers(&Schemes),
    tags(
        (name = "Devices", description = "The roll call: who is here, who is gone, since when and why."),
        (name = "Listeners", description = "Where devices connect."),
        (name = "Log", description = "The event log in numbers."),
    ),
)]
struct Described;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, scheme) in [("basic", HttpAuthScheme::Basic), ("bearer", HttpAuthScheme::Bearer)] {
            components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
        }
    }
}

/// A router that describes what it serves.
pub(super) fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Described::openapi())
}

/// Serves the description of what `described` has collected.
pub(super) fn served<S: Clone + Send + Sync + 'static>(document: utoipa::openapi::OpenApi) -> Router<S> {
    let page = Router::from(SwaggerUi::new(PAGE).config(Config::new([DOCUMENT])));
    let page = page.layer(middleware::from_fn(guard_page));
    let document = axum::Json(document);
    Router::new().route(DOCUMENT, get(async move || document.clone())).merge(page)
}

async fn guard_page(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_how_to_sign_in() {
        let document = serde_json::to_value(Described::openapi()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
        assert_eq!(document["components"]["securitySchemes"]["basic"]["scheme"], "basic");
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        assert_eq!(document["security"].as_array().unwrap().len(), 2, "either of them");
    }
}
