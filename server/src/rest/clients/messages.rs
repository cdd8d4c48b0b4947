//! Messages that are held for a client: those that wait for their turn, and those that it has not acknowledged. They
//! are read in pages by position, since they come and go while they are read.

use axum::Json;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_broker::{Held, HeldMessage, HeldPage, HeldQuery};
use serde_json::{Value, json};

use crate::rest::App;
use crate::rest::reply::{ApiError, ErrorBody, Page, Params, Path};

/// Bytes of payloads in an answer where nobody says how many.
const PAYLOAD_BYTES_DEFAULT: usize = 1 << 20;
/// Most bytes of payloads in an answer.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// What the reference calls the position before the first message.
const NOWHERE: &str = "none";

/// How payloads are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Base64,
    Plain,
    None,
}

/// Messages of a client.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = HeldMessages)]
#[expect(dead_code, reason = "describes what `shown` makes")]
struct Described {
    data: Vec<DescribedMessage>,
    meta: DescribedMeta,
}

/// A message that is held for a client.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = HeldMessage)]
#[expect(dead_code, reason = "describes what `shown` makes")]
struct DescribedMessage {
    /// 32 hexadecimal digits.
    msgid: String,
    topic: String,
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    /// Milliseconds since 1970.
    publish_at: i64,
    from_clientid: String,
    from_username: String,
    /// Its place among all that was ever held for the client's session; grows.
    inserted_at: String,
    /// Always 0; of queued messages only.
    #[schema(nullable = false)]
    mqueue_priority: Option<u8>,
    #[schema(nullable = false)]
    payload: Option<String>,
}

/// Where a page is.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = HeldMeta)]
#[expect(dead_code, reason = "describes what `shown` makes")]
struct DescribedMeta {
    /// The position of the oldest message that is there now.
    start: String,
    /// Where the next page begins.
    position: String,
}

/// Messages that wait for their turn, oldest first.
#[utoipa::path(get, path = "/clients/{clientid}/mqueue_messages", tag = "Clients",
    operation_id = "clients_mqueue_messages",
    params(("clientid" = String, Path, description = "The client's id"),
        ("position" = Option<String>, Query, description = "`meta.position` of the answer before"),
        ("limit" = Option<u64>, Query, description = "Messages in an answer", minimum = 1, maximum = 10000),
        ("payload" = Option<String>, Query, description = "`base64` (default), `plain` or `none`"),
        ("max_payload_bytes" = Option<u64>, Query, description = "Bytes of payloads in an answer", minimum = 0,
            maximum = 16777216)),
    responses((status = 200, description = "A page", body = Described), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(super) async fn queued(
    app: State<App>,
    clientid: Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    answer(app, clientid, query, Held::Queued).await
}

/// Messages that were sent and are not acknowledged, oldest first.
#[utoipa::path(get, path = "/clients/{clientid}/inflight_messages", tag = "Clients",
    operation_id = "clients_inflight_messages",
    params(("clientid" = String, Path, description = "The client's id"),
        ("position" = Option<String>, Query, description = "`meta.position` of the answer before"),
        ("limit" = Option<u64>, Query, description = "Messages in an answer", minimum = 1, maximum = 10000),
        ("payload" = Option<String>, Query, description = "`base64` (default), `plain` or `none`"),
        ("max_payload_bytes" = Option<u64>, Query, description = "Bytes of payloads in an answer", minimum = 0,
            maximum = 16777216)),
    responses((status = 200, description = "A page", body = Described), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(super) async fn inflight(
    app: State<App>,
    clientid: Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    answer(app, clientid, query, Held::Inflight).await
}

async fn answer(
    State(app): State<App>,
    Path(clientid): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    held: Held,
) -> Result<Json<Value>, ApiError> {
    let (query, payload) = read(&Params::new(query), held)?;
    let page = app.broker.held(&clientid, query).await.ok_or_else(ApiError::clientid_not_found)?;
    Ok(Json(shown(&page, query, payload)))
}

fn read(params: &Params, held: Held) -> Result<(HeldQuery, Payload), ApiError> {
    let after = params.parsed("position", place)?.unwrap_or(0);
    let limit = Page::from_params(params)?.limit;
    let payload = params.parsed("payload", |text| match text {
        "base64" => Some(Payload::Base64),
        "plain" => Some(Payload::Plain),
        "none" => Some(Payload::None),
        _ => None,
    })?;
    let bytes = params
        .parsed("max_payload_bytes", |text| text.parse().ok().filter(|bytes| *bytes <= PAYLOAD_BYTES_MAX))?;
    let payload = payload.unwrap_or(Payload::Base64);
    let payload_bytes_max = match payload {
        Payload::None => usize::MAX,
        Payload::Base64 | Payload::Plain => bytes.unwrap_or(PAYLOAD_BYTES_DEFAULT),
    };
    let count_max = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok((HeldQuery { held, after, count_max, payload_bytes_max }, payload))
}

/// A place out of a position.
fn place(text: &str) -> Option<u64> {
    match text {
        NOWHERE => Some(0),
        text => text.strip_suffix("_0").unwrap_or(text).parse().ok(),
    }
}

/// A position: a place and, in the queue, a priority.
fn position(place: u64, held: Held) -> String {
    match (place, held) {
        (0, _) => NOWHERE.to_owned(),
        (place, Held::Queued) => format!("{place}_0"),
        (place, Held::Inflight) => place.to_string(),
    }
}

fn shown(page: &HeldPage, query: HeldQuery, payload: Payload) -> Value {
    let start = page.start.unwrap_or(0);
    let last = page.messages.last().map_or(query.after, |message| message.place);
    let data: Vec<_> = page.messages.iter().map(|it| shown_message(it, query.held, payload)).collect();
    let meta = json!({"start": position(start, query.held), "position": position(last, query.held)});
    json!({"data": data, "meta": meta})
}

fn shown_message(message: &HeldMessage, held: Held, payload: Payload) -> Value {
    let info = &message.info;
    let mut shown = json!({
        "msgid": info.id.to_string(),
        "topic": info.topic,
        "qos": info.qos,
        "publish_at": info.published_at_ms,
        "from_clientid": info.from_clientid,
        // The reference says it in a word where there is none.
        "from_username": info.from_username.as_deref().unwrap_or("undefined"),
        "inserted_at": message.place.to_string(),
    });
    if held == Held::Queued {
        shown["mqueue_priority"] = 0.into();
    }
    match payload {
        Payload::Base64 => shown["payload"] = STANDARD.encode(&info.payload).into(),
        Payload::Plain => shown["payload"] = String::from_utf8_lossy(&info.payload).into(),
        Payload::None => {}
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<(HeldQuery, Payload), ApiError> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(&Params::new(pairs.collect()), Held::Queued)
    }

    #[test]
    fn what_is_asked_for() {
        let (query, payload) = asked(&[]).expect("nothing is wrong");
        assert_eq!((query.after, query.count_max, query.payload_bytes_max), (0, 100, PAYLOAD_BYTES_DEFAULT));
        assert_eq!(payload, Payload::Base64);
        let pairs = [("position", "17_0"), ("limit", "3"), ("payload", "plain"), ("max_payload_bytes", "9")];
        let (query, payload) = asked(&pairs).expect("nothing is wrong");
        assert_eq!((query.after, query.count_max, query.payload_bytes_max), (17, 3, 9));
        assert_eq!(payload, Payload::Plain);
        assert_eq!(asked(&[("position", "none")]).expect("nothing is wrong").0.after, 0);
        for (name, value) in [
            ("position", "x"),
            ("position", "-1"),
            ("limit", "0"),
            ("limit", "10001"),
            ("payload", "hex"),
            ("max_payload_bytes", "16777217"),
        ] {
            assert!(asked(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
