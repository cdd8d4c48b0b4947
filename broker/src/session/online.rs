//! A session with its connection: one task that reads, writes, and minds the clock. Nothing that it waits for keeps it
//! from the rest.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use muster_core::event::proto;
use muster_core::log::LogError;
use muster_core::sessions::Ticket;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::publish::{PendingAck, first_durable};
use super::send::{Later, first_stored};
use super::{Actor, Session, offline};
use crate::access::Action;
use crate::authz::DenyAction;
use crate::clients::{Control, KickReason};
use crate::codec::{DecodeError, Disconnect, Frame, Packet, Version, Will, decode, encode, reason};
use crate::frame::{FrameReader, ReadError};
use crate::inbox::Arrived;
use crate::listener::Socket;

/// Longest wait in one piece for credentials to expire: the wall clock may be set meanwhile.
const LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// Packets of a client that are taken one after another, if they were read together: what they have to say to it goes
/// out in one write.
const TURN_PACKETS_MAX: usize = 64;

/// Messages to a client that are taken one after another, if they are there already, for the same reason.
const TURN_MESSAGES_MAX: usize = 64;

/// A client's connection with its session.
pub(crate) struct Connection {
    pub(crate) actor: Actor,
    pub(crate) version: Version,
    pub(crate) reader: FrameReader<ReadHalf<Socket>>,
    pub(crate) writer: WriteHalf<Socket>,
    /// What is written may wait in the socket until it is flushed.
    is_buffered: bool,
    /// Something may wait there now.
    is_unflushed: bool,
    /// Packets that are not written yet.
    pub(crate) out: BytesMut,
    /// The client takes nothing any more. What it said before it went, a goodbye perhaps, is still read.
    is_deaf: bool,
    pub(crate) will: Option<Will>,
    /// One and a half times what the client promised; none where it promised nothing.
    pub(crate) silence_max: Option<Duration>,
    pub(crate) heard_at: Instant,
    /// Most unacknowledged messages towards the client.
    pub(crate) inflight_max: usize,
    /// Largest packet that the client takes.
    pub(crate) packet_bytes_max: usize,
    pub(super) aliases: HashMap<u16, String>,
    pub(super) pending_acks: VecDeque<PendingAck>,
    /// Identifiers under which an earlier connection sent messages and this one has not.
    pub(super) unsent: VecDeque<u16>,
    /// What waits for the store, in the order in which it will be stored.
    pub(super) pending_stored: VecDeque<(Ticket, Later)>,
}

/// What a connection is made of when it begins.
pub(crate) struct Parts {
    pub(crate) actor: Actor,
    pub(crate) version: Version,
    pub(crate) reader: FrameReader<ReadHalf<Socket>>,
    pub(crate) writer: WriteHalf<Socket>,
    pub(crate) is_buffered: bool,
    pub(crate) out: BytesMut,
    pub(crate) will: Option<Will>,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) inflight_max: usize,
    pub(crate) packet_bytes_max: usize,
}

/// Why a connection ends.
pub(crate) enum End {
    /// The client said goodbye.
    Client(Box<Disconnect>),
    /// The client went without a word.
    Closed,
    /// The client was silent for too long.
    KeepAlive,
    /// What came is no packet, or not one that may come now.
    Decode(DecodeError),
    /// The client did what it may not; with the code for it and the reason in the event.
    Refused { code: u8, reason: &'static str },
    /// Another connection of the client takes its place.
    TakenOver { clean: bool, reply: oneshot::Sender<Option<Box<Session>>> },
    /// An operator ended it.
    Kicked { why: KickReason, reply: oneshot::Sender<()> },
    /// What the client came in with is worth nothing any more.
    Expired,
    /// The server stops.
    Shutdown,
}

enum Step {
    Frame(Result<Frame, ReadError>),
    Arrived(Arrived),
    Stored,
    Durable(Result<(), LogError>),
    Written(std::io::Result<usize>),
    Control(Option<Control>),
    Silence,
    Expiry,
}

/// Serves the client until the connection ends, and does then what the standard wants of an end.
pub(crate) async fn run(parts: Box<Parts>) {
    let mut connection = Box::new(Connection::new(*parts));
    let end = Box::pin(connection.serve()).await;
    // What the connection needed is given back before the session waits for its client.
    let stays = Box::pin(connection.finish(end)).await;
    if let Some(stay) = stays {
        offline::run(stay).await;
    }
}

impl Connection {
    fn new(parts: Parts) -> Self {
        let Parts { actor, version, reader, writer, out, will, keep_alive_seconds, .. } = parts;
        Self {
            actor,
            version,
            reader,
            writer,
            is_buffered: parts.is_buffered,
            is_unflushed: false,
            out,
            is_deaf: false,
            will,
            silence_max: silence_max(keep_alive_seconds),
            heard_at: Instant::now(),
            inflight_max: parts.inflight_max,
            packet_bytes_max: parts.packet_bytes_max,
            aliases: HashMap::new(),
            pending_acks: VecDeque::new(),
            unsent: VecDeque::new(),
            pending_stored: VecDeque::new(),
        }
    }

    async fn serve(&mut self) -> End {
        let mut expiry = self.lifetime().map(|left| Box::pin(sleep_until(Instant::now() + left)));
        let mut silence = self.silence_max.map(|max| Box::pin(sleep_until(self.heard_at + max)));
        Box::pin(self.resend()).await;
        loop {
            if self.is_deaf {
                self.out.clear();
            } else if self.may_pump() {
                Box::pin(self.pump()).await;
            }
            let step = self.step(silence.as_mut(), expiry.as_mut()).await;
            // Whatever is large lives only while it happens, so that a quiet client costs little.
            let done = match step {
                Step::Frame(frame) => Box::pin(self.on_frames(frame)).await,
                Step::Arrived(arrived) => {
                    Box::pin(self.on_arrived(arrived)).await;
                    Ok(())
                }
                Step::Stored => {
                    Box::pin(self.on_stored()).await;
                    Ok(())
                }
                Step::Durable(durable) => {
                    self.acknowledge(durable);
                    Ok(())
                }
                Step::Written(written) => {
                    self.on_written(written);
                    Ok(())
                }
                Step::Control(control) => {
                    let max = self.silence_max;
                    let done = Box::pin(self.on_control(control)).await;
                    if self.silence_max != max {
                        silence = self.silence_max.map(|max| Box::pin(sleep_until(self.heard_at + max)));
                    }
                    done
                }
                Step::Silence => self.on_silence(silence.as_mut()),
                Step::Expiry => self.on_expiry(expiry.as_mut()),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Waits for the next thing to do.
    async fn step(
        &mut self,
        silence: Option<&mut Pin<Box<Sleep>>>,
        expiry: Option<&mut Pin<Box<Sleep>>>,
    ) -> Step {
        let may_read = self.may_read();
        let must_write = self.is_unflushed || !self.out.is_empty();
        let Self { actor, reader, writer, out, pending_acks, pending_stored, .. } = self;
        let Actor { control, session, hub, .. } = actor;
        tokio::select! {
            frame = reader.next(), if may_read => Step::Frame(frame),
            arrived = session.mailbox.next() => Step::Arrived(arrived),
            () = first_stored(hub, pending_stored) => Step::Stored,
            durable = first_durable(&hub.journal, pending_acks) => Step::Durable(durable),
            written = write(writer, out), if must_write => Step::Written(written),
            control = control.recv() => Step::Control(control.map(|it| *it)),
            () = until(silence) => Step::Silence,
            () = until(expiry) => Step::Expiry,
        }
    }

    /// A client that does not take its answers is not asked for more.
    fn may_read(&self) -> bool {
        !self.is_window_full() && self.out.len() < self.actor.hub.config.limits.write_bytes_max
    }

    /// Takes a packet, and those that were read with it.
    async fn on_frames(&mut self, first: Result<Frame, ReadError>) -> Result<(), End> {
        self.on_frame(first).await?;
        for _ in 1..TURN_PACKETS_MAX {
            if !self.may_read() {
                break;
            }
            let Some(next) = self.reader.buffered() else { break };
            // Whoever says very much lets others have their turn.
            tokio::task::coop::consume_budget().await;
            self.on_frame(next).await?;
        }
        Ok(())
    }

    /// Takes a message, and those that have arrived by then.
    async fn on_arrived(&mut self, first: Arrived) {
        self.actor.arrived(first).await;
        for _ in 1..TURN_MESSAGES_MAX {
            // Whoever is sent very much lets others have their turn.
            tokio::task::coop::consume_budget().await;
            // Before the next needs room in the queue.
            if !self.is_deaf && self.may_pump() {
                self.pump().await;
            }
            let Some(next) = self.actor.session.mailbox.try_next() else { break };
            self.actor.arrived(next).await;
        }
    }

    async fn on_frame(&mut self, frame: Result<Frame, ReadError>) -> Result<(), End> {
        let frame = match frame {
            Ok(frame) => frame,
            Err(ReadError::Decode(error)) => return Err(End::Decode(error)),
            Err(ReadError::Closed | ReadError::Io(_)) => return Err(End::Closed),
        };
        self.heard_at = Instant::now();
        let bytes = self.reader.take_received_bytes();
        for counters in [&self.actor.hub.counters.bytes_received, &self.actor.facts.bytes_received] {
            counters.add(bytes);
        }
        self.actor.hub.counters.packet_received(frame.first);
        self.actor.facts.packets_received.add(1);
        match decode(frame, self.version).map_err(End::Decode)? {
            Packet::Publish(publish) => self.on_publish(publish).await,
            Packet::PubAck(ack) => {
                self.on_puback(ack).await;
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.on_pubrec(ack).await;
                Ok(())
            }
            Packet::PubRel(ack) => {
                self.on_pubrel(ack.pkid).await;
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.actor.session.outbox.completed(ack.pkid);
                self.count_window();
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(unsubscribe).await,
            Packet::PingReq => {
                self.send(|out, _| encode::pingresp(out));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(disconnect)),
            Packet::Connect(_) => Err(End::Decode(DecodeError::Protocol("a second CONNECT"))),
            Packet::Auth => Err(End::Decode(DecodeError::Protocol("AUTH without an authentication method"))),
        }
    }

    fn on_written(&mut self, written: std::io::Result<usize>) {
        if self.out.is_empty() && matches!(written, Ok(0)) {
            self.is_unflushed = false;
            return;
        }
        let Ok(count @ 1..) = written else {
            // The end is found by reading.
            self.is_deaf = true;
            self.is_unflushed = false;
            return;
        };
        self.is_unflushed = self.is_buffered;
        self.actor.hub.counters.bytes_sent.add(count as u64);
        self.actor.facts.bytes_sent.add(count as u64);
        if self.out.is_empty() {
            // An idle client holds no buffer.
            self.out = BytesMut::new();
        }
    }

    async fn on_control(&mut self, control: Option<Control>) -> Result<(), End> {
        match control {
            Some(Control::TakeOver { clean, reply }) => Err(End::TakenOver { clean, reply }),
            Some(Control::Kick { why, reply }) => Err(End::Kicked { why, reply }),
            // Who asked may have gone, here and below.
            Some(Control::Subscribe { subscriptions, done }) => {
                let _ = done.send(self.actor.proxy_subscribe(subscriptions).await);
                Ok(())
            }
            Some(Control::KeepAlive { seconds, done }) => {
                self.silence_max = silence_max(seconds);
                // The new time counts from now: the client knows nothing of it yet.
                self.heard_at = Instant::now();
                self.actor.facts.keepalive_seconds.store(seconds, Ordering::Relaxed);
                let _ = done.send(true);
                Ok(())
            }
            Some(Control::Unsubscribe { filters, done }) => {
                let _ = done.send(self.actor.proxy_unsubscribe(filters).await);
                Ok(())
            }
            Some(Control::Answers { forget, reply }) => {
                let _ = reply.send(self.actor.remembered_answers(forget));
                Ok(())
            }
            Some(Control::Held { query, reply }) => {
                let _ = reply.send(self.actor.session.outbox.held(&query));
                Ok(())
            }
            Some(Control::Shutdown) | None => Err(End::Shutdown),
        }
    }

    fn on_silence(&mut self, silence: Option<&mut Pin<Box<Sleep>>>) -> Result<(), End> {
        let (Some(max), Some(silence)) = (self.silence_max, silence) else { return Ok(()) };
        let deadline = self.heard_at + max;
        // While the server itself does not read, silence is not the client's fault.
        if deadline <= Instant::now() && !self.is_window_full() {
            return Err(End::KeepAlive);
        }
        silence.as_mut().reset(deadline.max(Instant::now() + Duration::from_millis(100)));
        Ok(())
    }

    /// How long the credentials are still good for, by the wall clock.
    fn lifetime(&self) -> Option<Duration> {
        let expires_at_ms = self.actor.subject.identity.expires_at_ms?;
        let left_ms = expires_at_ms.saturating_sub(self.actor.recorder.wall_ms());
        Some(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(LIFETIME_MAX))
    }

    fn on_expiry(&mut self, expiry: Option<&mut Pin<Box<Sleep>>>) -> Result<(), End> {
        let (Some(left), Some(expiry)) = (self.lifetime(), expiry) else { return Ok(()) };
        if left.is_zero() {
            return Err(End::Expired);
        }
        // The wall clock was set back, or the time is further off than one wait may be.
        expiry.as_mut().reset(Instant::now() + left);
        Ok(())
    }

    fn on_disconnect(&mut self, disconnect: Disconnect) -> End {
        let asked = disconnect.props.as_ref().and_then(|props| props.session_expiry_interval);
        if let Some(seconds) = asked {
            if self.actor.session.expiry_seconds == 0 && seconds > 0 {
                return End::Decode(DecodeError::Protocol("a session expiry where CONNECT had none"));
            }
            let max = self.actor.hub.config.limits.session_expiry_seconds_max;
            self.actor.session.expiry_seconds = seconds.min(max);
        }
        if disconnect.reason == reason::SUCCESS {
            self.will = None;
        }
        End::Client(Box::new(disconnect))
    }

    /// Appends a packet to what is to be written.
    pub(super) fn send(&mut self, write: impl FnOnce(&mut BytesMut, Version)) {
        let at = self.out.len();
        write(&mut self.out, self.version);
        self.count_sent(at);
    }

    /// Whether the client may do this; an end where the operator wants one for those who may not.
    pub(super) async fn authorize(&mut self, action: Action, topic: &str) -> Result<bool, End> {
        let allow = self.actor.authorize(action, topic).await;
        if !allow && self.actor.hub.authorizer.deny_action() == DenyAction::Disconnect {
            return Err(End::Refused { code: reason::NOT_AUTHORIZED, reason: "not_authorized" });
        }
        Ok(allow)
    }

    /// Counts the packet that begins at `at`; what a version has no packet for writes nothing.
    pub(super) fn count_sent(&self, at: usize) {
        if let Some(first) = self.out.get(at) {
            self.actor.hub.counters.packet_sent(*first);
            self.actor.facts.packets_sent.add(1);
        }
    }

    pub(super) fn disconnect_props(end: &End) -> Option<proto::Properties> {
        match end {
            End::Client(disconnect) => disconnect.props.clone(),
            _ => None,
        }
    }
}

/// One and a half times what the client promised; none where it promised nothing.
fn silence_max(keep_alive_seconds: u16) -> Option<Duration> {
    let max = Duration::from_millis(u64::from(keep_alive_seconds) * 1_500);
    (!max.is_zero()).then_some(max)
}

/// Writes some of what is there, or has what was written leave the socket where nothing is.
async fn write(writer: &mut WriteHalf<Socket>, out: &mut BytesMut) -> std::io::Result<usize> {
    if out.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write_buf(out).await }
}

async fn until(silence: Option<&mut Pin<Box<Sleep>>>) {
    match silence {
        Some(silence) => silence.await,
        None => std::future::pending().await,
    }
}
