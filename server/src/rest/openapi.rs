//! The description of REST: what is not of one endpoint, and where to read it: `/api/openapi.json`, and `/api/docs` as
//! a page. Paths are described where they are served; this must never know what they do.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
#[cfg(test)]
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::App;

mod complete;

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
        description = "Devices, their messages and where they go. `/api/v5` has the paths and shapes of EMQX v5, \
            `/api/v4` those of the older dialect, which answers nearly everything with 200 and a `code`, and `/api/v1` \
            what neither of them has. Errors are `{code, message}`; times are RFC 3339; lists have `page` and `limit`. \
            Parameters of lists may be written with an underscore before them.",
        license(name = "Apache-2.0"),
    ),
    servers((url = "/", description = "This node")),
    security(("basic" = []), ("bearer" = [])),
    modifiers(&Schemes),
    tags(
        (name = "Status", description = "Whether the node runs, and its numbers for Prometheus."),
        (name = "Clients", description = "Who has a session: lists, kicking, subscribing in their name."),
        (name = "Subscriptions", description = "Who listens to what."),
        (name = "Publish", description = "Messages from operators."),
        (name = "Retained", description = "Messages that are kept for later subscribers."),
        (name = "Authentication", description = "Who may connect: authenticators and their users."),
        (name = "Authorization", description = "Who may publish and subscribe where."),
        (name = "Banned", description = "Who is shut out."),
        (name = "Rules", description = "What is made of events, and where it goes."),
        (name = "Statistics", description = "Counters, gauges and samples."),
        (name = "Nodes", description = "The node and its machine."),
        (name = "API keys", description = "Keys for programs. A key may not ask for them: log in as a person."),
        (name = "Users", description = "People who may manage. A key may not ask for them."),
        (name = "Devices", description = "The roll call: who is here, who is gone, since when and why."),
        (name = "Alarms", description = "What is wrong with devices now."),
        (name = "Listeners", description = "Where devices connect."),
        (name = "Log", description = "The event log in numbers."),
        (name = "Pipelines", description = "How rows travel from rules to targets, and orders to halt, go on or begin elsewhere."),
        (name = "Dead letters", description = "Rows that a target refused and events on which a rule failed."),
        (name = "Replays", description = "Recorded events through a rule once more."),
        (name = "Older dialect", description = "`/api/v4`, for clients that were written for it."),
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
pub(super) fn served<S: Clone + Send + Sync + 'static>(document: &utoipa::openapi::OpenApi) -> Router<S> {
    let page = Router::from(SwaggerUi::new(PAGE).config(Config::new([DOCUMENT])));
    let page = page.layer(middleware::from_fn(guard_page));
    let document = axum::Json(complete::completed(document));
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
fn document() -> Value {
    complete::completed(&super::api(1).split_for_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_how_to_sign_in() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
        assert_eq!(document["components"]["securitySchemes"]["basic"]["scheme"], "basic");
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        assert_eq!(document["security"].as_array().unwrap().len(), 2, "either of them");
    }

    /// `UPDATE_GOLDEN=1 cargo test --workspace --lib openapi` writes the file anew.
    #[test]
    fn the_document_is_the_golden_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/openapi.json");
        let want = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(file, &want).unwrap();
        }
        let found = std::fs::read_to_string(file).unwrap_or_default();
        assert!(found == want, "schemas/openapi.json is stale; run with UPDATE_GOLDEN=1");
    }
}
