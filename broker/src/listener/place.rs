//! A connection's place: one of the sockets that may be open, and one of its listener's connections. It goes with the
//! socket, not with whoever serves it: a session that waits without a client holds none. It must never know a packet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Listener;

/// Given back when it is dropped.
pub(crate) struct Place {
    listener: Arc<Listener>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Takes a place; none where all are taken.
    pub(super) fn take(sockets: &Arc<Semaphore>, listener: &Arc<Listener>) -> Option<Self> {
        let permit = Arc::clone(sockets).try_acquire_owned().ok()?;
        listener.connections.fetch_add(1, Ordering::Relaxed);
        Some(Self { listener: Arc::clone(listener), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A TCP connection that has a place until it is closed.
pub(crate) struct Placed {
    // Before the place, so that it is closed when somebody else may take that.
    pub(super) tcp: TcpStream,
    _place: Place,
}

impl Placed {
    pub(super) fn new(tcp: TcpStream, place: Place) -> Self {
        Self { tcp, _place: place }
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, into)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
