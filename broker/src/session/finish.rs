//! The end of a connection, in this order: the event, the will, the session's fate, and only then the socket, so that
//! a client that is slow to listen delays nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use muster_core::event::EventKind;
use muster_core::event::proto::Disconnection;
use muster_core::event::proto::event::Detail;
use muster_core::log::LogError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::Actor;
use super::deliver::Drop;
use super::offline::Stay;
use super::online::{Connection, End};
use crate::clients::KickReason;
use crate::codec::{DecodeError, Will, encode, reason};
use crate::listener::Socket;

/// How long a client may take to read its DISCONNECT.
const LINGER: Duration = Duration::from_secs(1);

impl Connection {
    /// What stays of the session, if it outlives its connection and nobody has taken it.
    pub(super) async fn finish(mut self: Box<Self>, end: End) -> Option<Box<Stay>> {
        if matches!(end, End::Shutdown) {
            self.flush_acks().await;
        }
        let (reason, code) = words(&end);
        if let Some(code) = code {
            self.send(|out, version| encode::disconnect(out, version, code));
        }
        let props = Self::disconnect_props(&end);
        let Self { mut actor, reader, writer, out, will, .. } = *self;
        actor.hub.tasks.spawn(close(reader.into_source(), writer, out));
        let hub = Arc::clone(&actor.hub);
        {
            // While the log may have the goodbye and the store the will, a start looks for the goodbye in the log.
            let _under_way = actor.left_will.then(|| hub.keeper.begin());
            actor.record_end(reason, props).await;
            if will.is_none() {
                actor.forget_will().await;
            }
        }
        actor.settle(end, will).await
    }

    /// Acknowledges what is durable or about to be.
    async fn flush_acks(&mut self) {
        let journal = self.actor.hub.journal.clone();
        while !self.pending_acks.is_empty() {
            let durable = super::publish::first_durable(&journal, &self.pending_acks).await;
            self.acknowledge(durable);
        }
    }
}

impl Actor {
    async fn record_end(&mut self, reason: &str, props: Option<muster_core::event::proto::Properties>) {
        let connected_at_ms = self.facts.fixed.connected_at_ms;
        // A clock that was set back does not let a session end before it began.
        let now_ms = self.recorder.wall_ms().max(connected_at_ms).max(1);
        self.facts.disconnected_at_ms.store(now_ms, Ordering::Relaxed);
        self.hub.clients.connected.fetch_sub(1, Ordering::Relaxed);
        let detail = Detail::Disconnected(Disconnection {
            reason: reason.to_owned(),
            props,
            connected_at_ms,
            disconnected_at_ms: now_ms,
        });
        loop {
            let detail = Some(detail.clone());
            match self.recorder.append(EventKind::ClientDisconnected, "", None, detail).await {
                Ok(_) => return,
                // Presence must be true: this event waits for room.
                Err(LogError::DiskFull { .. }) => {
                    if self.hub.journal.log().writable().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(clientid = self.clientid(), %error, "the end of a connection is not recorded");
                    return;
                }
            }
        }
    }

    /// Decides about will and session.
    async fn settle(mut self, end: End, will: Option<Will>) -> Option<Box<Stay>> {
        let outlives = self.session.expiry_seconds > 0;
        match end {
            End::TakenOver { clean, reply } => {
                let keep = outlives && !clean;
                let is_due = |it: &Will| !keep || it.delay().is_zero();
                if let Some(will) = will.filter(is_due) {
                    self.publish_will(will).await;
                }
                self.forget_will().await;
                self.hand_over(keep, reply).await;
                None
            }
            End::Kicked { reply, .. } => {
                if let Some(will) = will {
                    self.publish_will(will).await;
                }
                self.forget_will().await;
                self.end().await;
                // Who asked may have gone.
                let _ = reply.send(());
                None
            }
            // A server that stops says nothing about its devices: their wills are not published.
            End::Shutdown => {
                self.forget_will().await;
                self.suspend().await;
                None
            }
            _ => self.leave(will).await,
        }
    }

    /// The client has gone: the session stays, or ends with the connection.
    async fn leave(mut self, will: Option<Will>) -> Option<Box<Stay>> {
        let lifetime = Duration::from_secs(u64::from(self.session.expiry_seconds));
        let delay = will.as_ref().map(Will::delay).unwrap_or_default();
        if lifetime.is_zero() || delay.is_zero() {
            if let Some(will) = will {
                self.publish_will(will).await;
            }
            self.forget_will().await;
            if lifetime.is_zero() {
                self.end().await;
                return None;
            }
            return Some(self.stay(None, lifetime).await);
        }
        self.will_is_due(delay).await;
        let now = Instant::now();
        Some(self.stay(will.map(|will| (will, now + delay)), lifetime).await)
    }

    async fn stay(mut self, will: Option<(Will, Instant)>, lifetime: Duration) -> Box<Stay> {
        for delivery in self.session.outbox.drain_qos0() {
            self.dropped(&delivery, Drop::Qos0).await;
        }
        self.answers = None;
        // Nobody waits for it.
        let _ticket = self.hub.keeper.write(Vec::from_iter(self.memory())).await;
        Box::new(Stay { actor: self, will, ends_at: Instant::now() + lifetime })
    }
}

/// The reason in the event, and the code in DISCONNECT where the server ends the connection.
fn words(end: &End) -> (&'static str, Option<u8>) {
    match end {
        End::Client(disconnect) => match disconnect.reason {
            reason::SUCCESS => ("normal", None),
            reason::DISCONNECT_WITH_WILL => ("disconnect_with_will_message", None),
            code => (reason::name(code), None),
        },
        End::Closed => ("tcp_closed", None),
        End::KeepAlive => ("keepalive_timeout", Some(reason::KEEP_ALIVE_TIMEOUT)),
        End::Decode(error) => {
            let reason = match error {
                DecodeError::TooLarge { .. } => "packet_too_large",
                _ => "protocol_error",
            };
            (reason, Some(error.reason()))
        }
        End::Refused { code, reason } => (reason, Some(*code)),
        End::TakenOver { clean: true, .. } => ("discarded", Some(reason::SESSION_TAKEN_OVER)),
        End::TakenOver { clean: false, .. } => ("takenover", Some(reason::SESSION_TAKEN_OVER)),
        End::Kicked { why: KickReason::Kicked, .. } => ("kicked", Some(reason::ADMINISTRATIVE_ACTION)),
        // DISCONNECT has no code for it, CONNACK alone has.
        End::Kicked { why: KickReason::Banned, .. } => ("banned", Some(reason::ADMINISTRATIVE_ACTION)),
        End::Expired => ("expired", Some(reason::MAXIMUM_CONNECT_TIME)),
        End::Shutdown => ("server_shutting_down", Some(reason::SERVER_SHUTTING_DOWN)),
    }
}

/// Writes what is left and closes. What the client still sends is read and thrown away for a moment: closing a socket
/// with unread bytes would take back what was just written.
pub(crate) async fn close(mut reader: ReadHalf<Socket>, mut writer: WriteHalf<Socket>, out: BytesMut) {
    let closing = async {
        writer.write_all(&out).await?;
        writer.shutdown().await?;
        let mut scratch = [0; 512];
        while reader.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The client has gone, or does not listen: both are an end.
    drop(timeout(LINGER, closing).await);
}
