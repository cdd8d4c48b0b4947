//! What happens on one connection: TLS, then requests one after the other, then an end that lets the last answer
//! arrive. It must never know who is let in.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use muster_core::tls::Tls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::line::{Answer, Line, Overheard};

/// Largest head of a request. Larger ones are answered with 431 by the library, without a body.
const HEAD_BYTES_MAX: usize = 64 * 1_024;

/// Most headers of a request. More are answered with 431.
const HEADERS_MAX: usize = 100;

/// How long what still comes is thrown away after the last answer: a connection that is closed over bytes that nobody
/// read is reset, and the answer with it.
const LINGER: Duration = Duration::from_secs(2);

/// How much of that is read at a time.
const LINGER_BYTES: usize = 16 * 1_024;

/// What every TLS connection begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// What is answered to plain HTTP where TLS is spoken.
const NOT_PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 63\r\n\r\n\
    {\"code\":\"BAD_REQUEST\",\"message\":\"HTTPS is spoken at this port\"}";

/// What every connection is served with.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) tls: Option<Tls>,
    pub(super) stop: CancellationToken,
}

impl Service {
    /// Serves one connection to its end.
    pub(super) async fn serve(self, stream: TcpStream, peer: SocketAddr, line: Line) {
        // A system that cannot hurry sends all the same.
        let _hurried = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.speak(stream, peer, line).await };
        let greeted = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = line.over() => None,
            greeted = greet(stream, tls) => greeted,
        };
        if let Some(stream) = greeted {
            line.greeted();
            self.speak(stream, peer, line).await;
        }
    }

    async fn speak<S>(self, stream: S, peer: SocketAddr, line: Line)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = Arc::new(line);
        let (inner, of_answers) = (TowerToHyperService::new(self.router), line.clone());
        let service = service_fn(move |request| answer(&inner, request, peer, of_answers.clone()));
        let mut builder = http1::Builder::new();
        // The line has a clock of its own, which knows waiting from sending slowly.
        builder.header_read_timeout(None).max_headers(HEADERS_MAX);
        builder.max_header_size(HEAD_BYTES_MAX).max_buf_size(2 * HEAD_BYTES_MAX);
        let stream = TokioIo::new(Overheard { stream, line: line.clone() });
        let mut connection = builder.serve_connection(stream, service);
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = line.over() => return,
                () = self.stop.cancelled(), if !stopping => {
                    if !line.is_serving() {
                        return;
                    }
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                // What the peer did wrong was answered, or it is not there any more.
                _ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
            }
        }
        let stream = connection.into_parts().io.into_inner().stream;
        tokio::select! {
            () = line.over() => {}
            _ = tokio::time::timeout(LINGER, part(stream)) => {}
        }
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<hyper::Response<Answer>, Infallible>> + Send>>;

fn answer(
    router: &TowerToHyperService<Router>,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    line: Arc<Line>,
) -> Answered {
    line.asked();
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    let answer = router.call(request);
    Box::pin(async move {
        let answer: Response = answer.await?;
        Ok(answer.map(|body| Answer::new(body, line)))
    })
}

/// The handshake; none where the peer speaks something else.
async fn greet(stream: TcpStream, tls: &Tls) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first != [TLS_HANDSHAKE] {
        if first[0].is_ascii_uppercase() {
            let _told = stream.try_write(NOT_PLAIN);
            let _parted = tokio::time::timeout(LINGER, part(stream)).await;
        }
        return None;
    }
    TlsAcceptor::from(tls.config()).accept(stream).await.ok()
}

/// Says that nothing more is said, and throws away what still comes.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = vec![0; LINGER_BYTES];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_is_as_long_as_it_says() {
        let text = std::str::from_utf8(NOT_PLAIN).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"].is_string());
    }
}
