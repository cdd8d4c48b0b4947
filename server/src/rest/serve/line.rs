//! One connection and its patience: what it is doing, until when that may take, and whether another needs its seat. A
//! connection that waits, sends the head of a request too slowly, or takes its answer too slowly, ends. It must never
//! know what is asked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::seats::Seat;

/// What a request may take longer than it may: then even its refusal did not come out.
const SERVING_GRACE: Duration = Duration::from_secs(5);

/// How long each thing may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) request: Duration,
}

/// Nothing has arrived of the next request.
const WAITING: u8 = 0;
/// A part of its head has.
const HEARING: u8 = 1;
/// It is answered.
const SERVING: u8 = 2;

/// A connection.
pub(super) struct Line {
    seat: Seat,
    patience: Patience,
    doing: AtomicU8,
    until: watch::Sender<Instant>,
}

impl Line {
    pub(super) fn new(seat: Seat, patience: Patience) -> Self {
        let until = watch::Sender::new(Instant::now() + patience.header);
        Self { seat, patience, doing: AtomicU8::new(WAITING), until }
    }

    /// Resolves when there is no reason to keep it.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.seat.lost() => {}
            () = self.out_of_patience() => {}
        }
    }

    async fn out_of_patience(&self) {
        let mut until = self.until.subscribe();
        loop {
            let at = *until.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                _ = until.changed() => {}
            }
        }
    }

    /// Whether it has a request that is not answered.
    pub(super) fn is_serving(&self) -> bool {
        self.doing.load(Ordering::Relaxed) == SERVING
    }

    /// The first request may come.
    pub(super) fn greeted(&self) {
        self.for_another(self.patience.header);
    }

    /// A whole head has arrived.
    pub(super) fn asked(&self) {
        self.doing.store(SERVING, Ordering::Relaxed);
        self.seat.work();
        self.for_another(self.patience.request + SERVING_GRACE);
    }

    /// The answer was given to the system, or was given up.
    fn answered(&self) {
        self.doing.store(WAITING, Ordering::Relaxed);
        self.seat.wait();
        self.for_another(self.patience.idle);
    }

    fn heard(&self) {
        let swapped = self.doing.compare_exchange(WAITING, HEARING, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_ok() {
            self.for_another(self.patience.header);
        }
    }

    /// Whoever takes an answer piece by piece may, as long as pieces go.
    fn told(&self) {
        if self.doing.load(Ordering::Relaxed) != HEARING {
            let later = Instant::now() + self.patience.idle;
            self.until.send_if_modified(|until| {
                let is_later = later > *until;
                *until = later.max(*until);
                is_later
            });
        }
    }

    fn for_another(&self, time: Duration) {
        self.until.send_replace(Instant::now() + time);
    }
}

/// A stream that tells its line what moves.
pub(super) struct Overheard<S> {
    pub(super) stream: S,
    pub(super) line: Arc<Line>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.line.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Overheard<S> {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.line.told();
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer; when it is gone, the line waits for the next request.
pub(super) struct Answer {
    body: axum::body::Body,
    line: Arc<Line>,
}

impl Answer {
    pub(super) fn new(body: axum::body::Body, line: Arc<Line>) -> Self {
        Self { body, line }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.line.answered();
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
