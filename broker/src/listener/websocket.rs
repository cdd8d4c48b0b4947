//! MQTT over WebSockets: the request that opens one, and then bytes in binary frames, whose borders mean nothing. It
//! must never know a packet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What the standard calls MQTT among protocols.
const PROTOCOL: &str = "mqtt";

/// What is read at once; every connection holds as much.
const READ_BYTES: usize = 4 << 10;

/// Largest frame that we send.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// What a message may have beyond the largest packet: several small packets, or its header.
const MESSAGE_BYTES_SPARE: usize = 64 << 10;

/// Answers the request and gives the bytes inside.
pub(super) async fn accept<S>(
    socket: S,
    path: &str,
    packet_bytes_max: usize,
) -> Result<WebSocket<S>, Box<Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message_bytes_max = packet_bytes_max.saturating_add(MESSAGE_BYTES_SPARE);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let accepted =
        tokio_tungstenite::accept_hdr_async_with_config(socket, Answer { path }, Some(config)).await;
    Ok(WebSocket { inner: accepted.map_err(Box::new)?, left: Bytes::new() })
}

/// Answers the request for a WebSocket.
struct Answer<'a> {
    path: &'a str,
}

impl Callback for Answer<'_> {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        if request.uri().path() != self.path {
            return Err(refusal(StatusCode::NOT_FOUND));
        }
        let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let mut offered = offered.filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(','));
        if !offered.any(|it| it.trim() == PROTOCOL) {
            return Err(refusal(StatusCode::BAD_REQUEST));
        }
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        Ok(response)
    }
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(None);
    *refusal.status_mut() = status;
    refusal.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refusal
}

/// The bytes in the binary frames of a WebSocket.
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// Of the last message, what nobody has read yet.
    left: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, left } = self.get_mut();
        while left.is_empty() {
            match ready!(Pin::new(&mut *inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => *left = bytes,
                // The library answers a ping by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "MQTT comes in binary frames");
                    return Poll::Ready(Err(error));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(left.get(..count).unwrap_or_default());
        left.advance(count);
        if left.is_empty() {
            // A quiet client holds no message.
            *left = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().inner;
        ready!(Pin::new(&mut *inner).poll_ready(cx)).map_err(broken)?;
        let frame = buf.get(..buf.len().min(FRAME_BYTES_MAX)).unwrap_or_default();
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        Pin::new(inner).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
