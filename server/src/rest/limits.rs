//! How much a request may be and how long it may take: the length of its URI, the size of its body, and the time until
//! it is answered, with the arrival of its body. It must never know what is asked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::reply::ApiError;

/// How much later than its answer a body ends that did not arrive: first the client is told, then whoever reads.
const BODY_GRACE: Duration = Duration::from_secs(1);

/// Longest path with its query.
const URI_BYTES_MAX: usize = 16 * 1_024;

/// The largest body of a path, as bodies are held against it before they are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyMax(usize);

/// Both layers that limit bodies: of those that say how large they are, and of those that do not.
pub(super) fn body(bytes: usize) -> (Extension<BodyMax>, DefaultBodyLimit) {
    (Extension(BodyMax(bytes)), DefaultBodyLimit::max(bytes))
}

/// Refuses a body that says itself that it is too large: nothing of it is read.
pub(super) fn check_body(request: &Request) -> Result<(), ApiError> {
    let max = request.extensions().get::<BodyMax>();
    match (max, declared_bytes(request.headers())) {
        (Some(BodyMax(max)), Some(declared)) if usize::try_from(declared).map_or(true, |it| it > *max) => {
            Err(too_large(format!("the body has {declared} bytes; {max} are allowed")))
        }
        _ => Ok(()),
    }
}

/// The answer to too large a body.
pub(super) fn too_large(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "EXCEED_LIMIT", message)
}

fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses what is asked for in too many words.
pub(super) async fn limit_uri(request: Request, next: Next) -> Response {
    let bytes = request.uri().path_and_query().map_or(0, |it| it.as_str().len());
    if bytes > URI_BYTES_MAX {
        let message = format!("path and query have {bytes} bytes; {URI_BYTES_MAX} are allowed");
        return ApiError::new(StatusCode::URI_TOO_LONG, "URI_TOO_LONG", message).into_response();
    }
    next.run(request).await
}

/// Ends the wait for an answer after `limit`, and with it the wait for the rest of a body. What may change something
/// and has its body goes on to its end all the same, also when the client hangs up: half of a change would be worse
/// than none.
pub(super) async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let until = Instant::now() + limit;
    let has_arrived = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let arrival = has_arrived.clone();
    let request = request.map(|body| {
        let until = Box::pin(tokio::time::sleep_until(until + BODY_GRACE));
        Body::new(Arriving { body, until, has_arrived: arrival })
    });
    let answer = next.run(request);
    let answered = if changes {
        let finished = tokio::time::timeout_at(until, tokio::spawn(answer)).await;
        finished.map(|joined| joined.unwrap_or_else(|_| interrupted()))
    } else {
        tokio::time::timeout_at(until, answer).await
    };
    answered.unwrap_or_else(|_| too_late(has_arrived.load(Ordering::Relaxed)))
}

/// Whose fault it is depends on whether all of the body had come. A body that nobody asked for counts as the client's,
/// and the connection ends with it.
fn too_late(has_arrived: bool) -> Response {
    if has_arrived {
        let message = "the request took too long";
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
            .into_response();
    }
    let message = "the body did not arrive in time (http.request_timeout)";
    let mut answer = ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message).into_response();
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn interrupted() -> Response {
    let message = "the change was interrupted; look at what there is before trying again";
    ApiError::internal(message).into_response()
}

/// A body that must be here by some time.
struct Arriving {
    body: Body,
    until: Pin<Box<Sleep>>,
    has_arrived: Arc<AtomicBool>,
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        // Asked first, or a body that drips for ever would always be ahead.
        if self.until.as_mut().poll(cx).is_ready() {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the body did not arrive in time");
            return Poll::Ready(Some(Err(late.into())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.has_arrived.store(true, Ordering::Relaxed);
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequest as _;

    use super::*;

    fn request(body: Body, headers: &[(&str, &str)], max: usize) -> Request {
        let mut request = axum::http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(BodyMax(max));
        request
    }

    #[test]
    fn a_size_that_is_too_large_is_enough() {
        for (length, is_refused) in
            [("10", false), ("11", true), ("99999999999999999999999", false), ("x", false)]
        {
            let request = request(Body::empty(), &[("content-length", length)], 10);
            assert_eq!(check_body(&request).is_err(), is_refused, "{length}");
        }
        assert!(
            check_body(&request(Body::empty(), &[], 10)).is_ok(),
            "what does not say is counted as it comes"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_in_time_ends() {
        let body = Arriving {
            body: Body::new(Never),
            until: Box::pin(tokio::time::sleep(Duration::from_secs(10))),
            has_arrived: Arc::default(),
        };
        let started = Instant::now();
        let read = Bytes::from_request(request(Body::new(body), &[], 10), &()).await;
        assert!(read.is_err() && started.elapsed() == Duration::from_secs(10));
    }

    struct Never;

    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = axum::BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
            Poll::Pending
        }
    }
}
