//! Who is let in: every request but those for [`OPEN`] paths shows a key or a token, and may no more than its role.
//! While there is neither key nor person, requests of this machine are let in, and of no page of the web that a browser
//! on it shows. It must never know what an endpoint does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::App;
use super::reply::ApiError;
use crate::access::{Caller, Denied, Means, Role};

/// What is answered to everybody: whether the node runs.
const OPEN: &[&str] = &["/status", "/api/v5/status"];

/// Where somebody shows a password and gets a token.
const LOGIN: &str = "/api/v5/login";

/// What a key may not ask: who may manage is for people to decide.
const PEOPLE_ONLY: &[&str] = &["/api/v5/api_key", "/api/v5/users", "/api/v5/logout"];

/// What a publisher may POST.
const PUBLISHING: &[&str] =
    &["/api/v5/publish", "/api/v5/publish/bulk", "/api/v4/mqtt/publish", "/api/v4/mqtt/publish_batch"];

/// What programs that show pages ask for when they are refused.
const CHALLENGE: &str = "Basic realm=\"muster\"";

/// Lets a request pass or answers it.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path) && request.method().is_safe() {
        return next.run(request).await;
    }
    let peer = peer(&request);
    if path == LOGIN && *request.method() == Method::POST {
        let answer = next.run(request).await;
        return counted(&app, answer);
    }
    match admit(&app, &request, peer) {
        Ok((caller, means)) => {
            let extensions = request.extensions_mut();
            extensions.insert(caller);
            extensions.insert(means);
            next.run(request).await
        }
        Err(refused) => counted(&app, refused),
    }
}

/// Where a request comes from; an address that is nobody's if that is not known.
pub(super) fn peer(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(address)| address.ip().to_canonical())
}

/// The answer to those who are wrong.
pub(super) fn denied(why: Denied) -> Response {
    let (code, message) = match why {
        Denied::Wrong => ("BAD_API_KEY_OR_SECRET", "Check api_key/api_secret"),
        Denied::TokenTimeOut => ("TOKEN_TIME_OUT", "Token expired, get new token by POST /login"),
        Denied::BadToken => ("BAD_TOKEN", "Get token by POST /login"),
        Denied::TooOften(seconds) => return too_often(seconds),
    };
    unauthorized(code, message)
}

/// 401 with a body.
pub(super) fn unauthorized(code: &'static str, message: &str) -> Response {
    let mut answer = ApiError::new(StatusCode::UNAUTHORIZED, code, message).into_response();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    answer
}

fn too_often(seconds: u64) -> Response {
    let message = format!("wrong too often from this address; come again in {seconds} s");
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "EXCEED_LIMIT", message);
    let mut answer = error.into_response();
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

fn forbidden(code: &'static str, message: impl Into<String>) -> Response {
    ApiError::new(StatusCode::FORBIDDEN, code, message).into_response()
}

fn counted(app: &App, answer: Response) -> Response {
    if matches!(answer.status().as_u16(), 401 | 403 | 429) {
        app.access.keys.count_refused(answer.status().as_u16());
    }
    answer
}

#[expect(clippy::result_large_err, reason = "the answer is what is wanted, and made seldom")]
fn admit(app: &App, request: &Request, peer: IpAddr) -> Result<(Caller, Means), Response> {
    let headers = request.headers();
    let keys = &app.access.keys;
    let (caller, means) = match credentials(headers)? {
        Some(Shown::Key(id, secret)) => keys.check_key(&id, &secret, peer).map_err(denied)?,
        Some(Shown::Token(token)) => keys.check_token(&token, peer).map_err(denied)?,
        None if keys.is_open() => {
            at_home(headers, request.uri().host(), peer)?;
            (Caller { name: "rest".to_owned(), role: Role::Administrator }, Means::Nothing)
        }
        None => return Err(missing()),
    };
    let path = request.uri().path();
    let is_below =
        |of: &&str| path.strip_prefix(*of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if means == Means::Key && PEOPLE_ONLY.iter().any(is_below) {
        return Err(unauthorized(
            "API_KEY_NOT_ALLOW",
            "This API Key don't have permission to access this resource",
        ));
    }
    if may(caller.role, request.method(), path) || (means == Means::Token && is_own(request.method(), path)) {
        return Ok((caller, means));
    }
    let message = format!("the role {} may not do this", caller.role.as_str());
    Err(forbidden("UNAUTHORIZED_ROLE", message))
}

fn missing() -> Response {
    unauthorized("AUTHORIZATION_HEADER_ERROR", "Support authorization: basic/bearer")
}

/// What a role may. Trying a rule changes nothing but takes the server's time: no viewer may, as in the reference.
fn may(role: Role, method: &Method, path: &str) -> bool {
    match role {
        Role::Administrator => true,
        Role::Viewer => method.is_safe(),
        Role::Publisher => *method == Method::POST && PUBLISHING.contains(&path),
    }
}

/// What people do with themselves, whatever their role: end their token, change their password.
fn is_own(method: &Method, path: &str) -> bool {
    *method == Method::POST
        && (path == "/api/v5/logout" || (path.starts_with("/api/v5/users/") && path.ends_with("/change_pwd")))
}

enum Shown {
    Key(String, String),
    Token(String),
}

/// What the header `authorization` shows; none where there is none.
#[expect(clippy::result_large_err, reason = "the answer is what is wanted, and made seldom")]
fn credentials(headers: &HeaderMap) -> Result<Option<Shown>, Response> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(missing());
    }
    value.to_str().ok().and_then(parse).map(Some).ok_or_else(missing)
}

fn parse(value: &str) -> Option<Shown> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Shown::Token(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some(Shown::Key(id.to_owned(), secret.to_owned()))
}

/// Whether a request without a key is of this machine, by its address and by the name under which it was asked: a name
/// that somebody else has pointed at this machine brings a browser's request here, too.
#[expect(clippy::result_large_err, reason = "the answer is what is wanted, and made seldom")]
fn at_home(headers: &HeaderMap, authority: Option<&str>, peer: IpAddr) -> Result<(), Response> {
    if !peer.is_loopback() {
        let message = "there is no API key yet, so only requests of the server's own machine are answered; \
                       make one there: muster key add --name NAME --role administrator";
        return Err(unauthorized("AUTHORIZATION_HEADER_ERROR", message));
    }
    let text = |name: header::HeaderName| {
        headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default())
    };
    let no_key = "without an API key (muster key add)";
    let host = text(header::HOST).map(without_port).or(authority);
    if !host.is_some_and(is_home) {
        return Err(forbidden("FORBIDDEN", format!("{no_key} Host must be localhost or a loopback address")));
    }
    if text(header::ORIGIN).is_some_and(|origin| !is_home_page(origin)) {
        return Err(forbidden("FORBIDDEN", format!("{no_key} Origin must be a page of this machine")));
    }
    if headers.contains_key("forwarded") || headers.contains_key("x-forwarded-for") {
        return Err(forbidden("FORBIDDEN", format!("{no_key} nothing is answered through a proxy")));
    }
    Ok(())
}

fn is_home_page(origin: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| is_home(without_port(rest)))
}

/// `name`, `1.2.3.4` or `[::1]` of what may have a port behind it.
fn without_port(authority: &str) -> &str {
    match authority.find(']') {
        Some(end) if authority.starts_with('[') => match authority.get(end + 1..) {
            Some(rest) if rest.is_empty() || is_port(rest) => authority.get(..=end).unwrap_or_default(),
            _ => "",
        },
        _ => match authority.split_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => host,
            Some(_) => "",
            None => authority,
        },
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()))
}

fn is_home(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    host == "localhost"
        || host.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for good in [
            "localhost",
            "localhost:18083",
            "LOCALHOST.:1",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:18083",
            "[::1]",
            "a.localhost:3000",
        ] {
            assert!(is_home(without_port(good)), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "::1x",
            "localhost:80@evil.example",
            "evil.example:127.0.0.1",
            "[::1]evil",
            "[::1]:x",
            "localhost:",
            "2130706433",
            "notlocalhost",
        ] {
            assert!(!is_home(without_port(bad)), "{bad}");
        }
        assert!(is_home_page("http://localhost:3000") && is_home_page("https://[::1]"));
        for bad in ["null", "http://evil.example", "http://127.0.0.1@evil.example", "file://", "http://"] {
            assert!(!is_home_page(bad), "{bad}");
        }
    }

    #[test]
    fn what_each_role_may() {
        use Role::{Administrator, Publisher, Viewer};
        for (role, method, path, allowed) in [
            (Administrator, Method::DELETE, "/api/v5/clients/a", true),
            (Viewer, Method::GET, "/api/v5/clients", true),
            (Viewer, Method::HEAD, "/api/v5/clients", true),
            (Viewer, Method::POST, "/api/v5/rule_test", false),
            (Viewer, Method::POST, "/api/v5/publish", false),
            (Viewer, Method::DELETE, "/api/v5/clients/a", false),
            (Publisher, Method::POST, "/api/v5/publish", true),
            (Publisher, Method::POST, "/api/v5/publish/bulk", true),
            (Publisher, Method::POST, "/api/v4/mqtt/publish", true),
            (Publisher, Method::GET, "/api/v5/publish", false),
            (Publisher, Method::POST, "/api/v5/publish/", false),
            (Publisher, Method::POST, "/api/v5/publish/../clients", false),
            (Publisher, Method::GET, "/api/v5/clients", false),
        ] {
            assert_eq!(may(role, &method, path), allowed, "{role:?} {method} {path}");
        }
    }

    #[test]
    fn headers_are_read_whole() {
        let key = |text: &str| match parse(text) {
            Some(Shown::Key(id, secret)) => Some(format!("{id}|{secret}")),
            Some(Shown::Token(token)) => Some(format!("token {token}")),
            None => None,
        };
        assert_eq!(key("Basic YTpiOmM="), Some("a|b:c".to_owned()));
        assert_eq!(key("basic YTo="), Some("a|".to_owned()));
        assert_eq!(key("BEARER x"), Some("token x".to_owned()));
        for bad in ["", "Basic", "Basic !", "Basic YQ==", "Digest a", "YTpiOmM="] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}
