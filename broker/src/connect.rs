//! From a socket to a session: the first packet, who it is, the takeover of an earlier connection, the events, CONNACK.

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, proto};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_core::topic;
use rand::RngCore as _;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::access::{Authn, Credentials, Identity, Subject, Visitor};
use crate::clients::{Facts, KickReason, Turn};
use crate::codec::encode::{self, ConnAck};
use crate::codec::{self, CONNECT, Connect, DecodeError, Packet, Version, reason};
use crate::frame::{FrameReader, ReadError};
use crate::hub::Hub;
use crate::inbox::Inbox;
use crate::keeper::Kept;
use crate::listener::{ArriveError, Endpoints, Knock, Socket};
use crate::record::Recorder;
use crate::session::{self, Actor, Parts, Session, Stay};
use crate::subscribers::Mailbox;

mod terms;

use terms::Terms;

/// Packet type of CONNACK.
const CONNACK: u8 = 2;

/// A socket with its halves apart.
struct Wire {
    reader: FrameReader<ReadHalf<Socket>>,
    writer: WriteHalf<Socket>,
}

/// What came first on a connection.
struct First {
    wire: Wire,
    endpoints: Endpoints,
    packet: Result<Connect, ReadError>,
}

/// Serves one connection from its first byte to its last.
pub(crate) fn serve(hub: Arc<Hub>, knock: Knock) -> impl Future<Output = ()> + Send {
    // What comes before the session is large, and given back before it begins.
    let beginning = Box::pin(async move {
        let peer = knock.peer;
        let first = Box::pin(listen(&hub, knock)).await;
        begin(hub, peer, first).await
    });
    go_on(beginning)
}

/// The same for bytes that no listener of ours has taken in.
pub(crate) fn serve_stream(
    hub: Arc<Hub>,
    socket: Socket,
    endpoints: Endpoints,
    peer: SocketAddr,
) -> impl Future<Output = ()> + Send {
    let beginning = Box::pin(async move {
        let first = first_of_stream(&hub, socket, endpoints).await;
        begin(hub, peer, first).await
    });
    go_on(beginning)
}

async fn go_on(beginning: Pin<Box<impl Future<Output = Option<Box<Parts>>>>>) {
    if let Some(parts) = beginning.await {
        session::run(parts).await;
    }
}

async fn first_of_stream(hub: &Hub, socket: Socket, endpoints: Endpoints) -> Option<First> {
    let (source, writer) = tokio::io::split(socket);
    let mut reader = FrameReader::new(source, hub.config.limits.packet_bytes_max);
    let packet = tokio::select! {
        () = hub.shutdown.cancelled() => None,
        packet = tokio::time::timeout(hub.config.limits.connect_timeout(), first_packet(&mut reader)) => packet.ok(),
    };
    packet.map(|packet| First { wire: Wire { reader, writer }, endpoints, packet })
}

/// What follows the first packet, up to a session with its connection.
async fn begin(hub: Arc<Hub>, peer: SocketAddr, first: Option<First>) -> Option<Box<Parts>> {
    let Some(First { wire, endpoints, packet }) = first else {
        hub.counters.handshakes_failed.add(1);
        return None;
    };
    match packet {
        Ok(connect) => {
            hub.counters.connects.add(1);
            hub.counters.packet_received(CONNECT << 4);
            // Its answer, whatever it says.
            hub.counters.packet_sent(CONNACK << 4);
            Box::pin(Handshake { hub, endpoints, connect }.run(wire)).await
        }
        Err(ReadError::Decode(error)) => {
            hub.counters.handshakes_failed.add(1);
            tracing::debug!(%peer, %error, "not a valid CONNECT");
            let mut out = BytesMut::new();
            if let DecodeError::Version { level } = error {
                let version = if level & 0x7F > 5 { Version::V5 } else { Version::V4 };
                encode::connack(&mut out, version, &ConnAck { code: error.reason(), ..ConnAck::default() });
            }
            session::close(wire.reader.into_source(), wire.writer, out).await;
            None
        }
        // Nothing came: there is nobody to answer to.
        Err(ReadError::Closed | ReadError::Io(_)) => {
            hub.counters.handshakes_failed.add(1);
            None
        }
    }
}

/// Waits for the first packet, as long as there is time and room; none where they end.
async fn listen(hub: &Hub, knock: Knock) -> Option<First> {
    let Knock { listener, tcp, peer, mut slot } = knock;
    let evicted = slot.eviction();
    let packet_bytes_max = hub.config.limits.packet_bytes_max;
    let first = async {
        let (socket, endpoints) = listener.arrive(tcp, peer, &mut slot).await?;
        let (source, writer) = tokio::io::split(socket);
        let mut reader = FrameReader::new(source, packet_bytes_max);
        let packet = first_packet(&mut reader).await;
        Ok::<_, ArriveError>(First { wire: Wire { reader, writer }, endpoints, packet })
    };
    let first = tokio::select! {
        () = hub.shutdown.cancelled() => return None,
        () = evicted => None,
        first = tokio::time::timeout(hub.config.limits.connect_timeout(), first) => Some(first),
    };
    match first {
        Some(Ok(Ok(first))) => return Some(first),
        Some(Ok(Err(error))) => {
            tracing::debug!(%peer, error = %chain(&error), "a connection that came to nothing")
        }
        Some(Err(_)) => tracing::debug!(%peer, "no CONNECT in time"),
        None => tracing::debug!(%peer, "too many connections without a CONNECT"),
    }
    None
}

/// What an error says, with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |it| it.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn first_packet(reader: &mut FrameReader<ReadHalf<Socket>>) -> Result<Connect, ReadError> {
    let frame = reader.next().await?;
    match codec::decode(frame, Version::V4)? {
        Packet::Connect(connect) => Ok(*connect),
        _ => Err(DecodeError::Protocol("the first packet is not CONNECT").into()),
    }
}

/// What there was of the client before.
struct Earlier {
    resumed: Option<Box<Session>>,
    /// What was known of it.
    facts: Option<Arc<Facts>>,
}

impl Earlier {
    /// Its session outlived connections.
    fn had_kept(&self) -> bool {
        self.facts.as_ref().is_some_and(|it| it.is_kept)
    }
}

struct Handshake {
    hub: Arc<Hub>,
    endpoints: Endpoints,
    connect: Connect,
}

impl Handshake {
    async fn run(mut self, wire: Wire) -> Option<Box<Parts>> {
        if self.hub.config.username_from_certificate
            && let Some(name) = &self.endpoints.cert_common_name
        {
            self.connect.username = Some(name.clone());
        }
        let assigned = match self.check() {
            Ok(assigned) => assigned,
            Err(code) => return self.refuse(wire, code, None).await,
        };
        if self.is_banned() {
            return self.refuse(wire, reason::BANNED, None).await;
        }
        let identity = match self.authenticate().await {
            Ok(identity) => identity,
            Err(code) => return self.refuse(wire, code, Some(code)).await,
        };
        // Another connection of the client may wait for room in the log; not everybody waits behind it.
        let turn = self.hub.clients.turn(&self.connect.clientid);
        let Ok(turn) = tokio::time::timeout(self.hub.config.limits.connect_timeout(), turn).await else {
            return self.refuse(wire, reason::SERVER_BUSY, None).await;
        };
        let may_begin = match self.hub.shutdown.is_cancelled() {
            true => Err(reason::SERVER_UNAVAILABLE),
            // Asked before anything is taken from an earlier connection, which would be in vain.
            false => self.hub.journal.log().check().map_err(|error| self.not_let_in(&error)),
        };
        if let Err(code) = may_begin {
            self.hub.clients.abandon(turn);
            return self.refuse(wire, code, None).await;
        }
        let facts = self.hub.clients.facts(&self.connect.clientid);
        let resumed = self.hub.clients.take_over(&turn, self.connect.clean_start).await;
        let earlier = Earlier { resumed, facts };
        self.establish(wire, turn, identity, earlier, assigned).await
    }

    /// What a client is told when the log takes no event.
    fn not_let_in(&self, error: &LogError) -> u8 {
        tracing::warn!(clientid = self.connect.clientid, %error, "a client is not let in: no event can be written");
        let full = matches!(error, LogError::DiskFull { .. });
        if full { reason::QUOTA_EXCEEDED } else { reason::SERVER_UNAVAILABLE }
    }

    /// Checks what needs nobody else; whether the client identifier was assigned here.
    fn check(&mut self) -> Result<bool, u8> {
        let Connect { version, clean_start, clientid, will, props, .. } = &mut self.connect;
        let limits = &self.hub.config.limits;
        let assigned = clientid.is_empty();
        if assigned {
            let allowed = match version {
                Version::V3 => false,
                Version::V4 => *clean_start,
                Version::V5 => true,
            };
            if !allowed {
                return Err(reason::CLIENT_IDENTIFIER_NOT_VALID);
            }
            *clientid = self.hub.new_clientid();
        }
        if clientid.len() > limits.clientid_bytes_max {
            return Err(reason::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if will.as_ref().is_some_and(|will| topic::validate_name(&will.topic).is_err()) {
            return Err(reason::TOPIC_NAME_INVALID);
        }
        if props.authentication_method.is_some() {
            return Err(reason::BAD_AUTHENTICATION_METHOD);
        }
        // Who is connected already only takes its own place again, and so does who has a session.
        let clients = &self.hub.clients;
        let no_room = clients.connected.load(Ordering::Relaxed) >= limits.connections_max;
        if no_room && !clients.is_connected(clientid) {
            return Err(reason::QUOTA_EXCEEDED);
        }
        if clients.sessions() >= limits.sessions_max && clients.facts(clientid).is_none() {
            return Err(reason::QUOTA_EXCEEDED);
        }
        Ok(assigned)
    }

    fn is_banned(&self) -> bool {
        let visitor = Visitor {
            clientid: &self.connect.clientid,
            username: self.connect.username.as_deref(),
            address: self.address(),
        };
        self.hub.doorkeeper.is_banned(&visitor)
    }

    fn address(&self) -> Option<IpAddr> {
        let address = self.endpoints.peername.parse().ok().map(|it: SocketAddr| it.ip());
        address.map(|it| it.to_canonical())
    }

    async fn authenticate(&self) -> Result<Identity, u8> {
        let credentials = Credentials {
            clientid: &self.connect.clientid,
            username: self.connect.username.as_deref(),
            password: self.connect.password.as_ref().map(|password| &password.0[..]),
            peername: &self.endpoints.peername,
            listener: self.endpoints.listener,
            proto_ver: self.connect.version.level(),
            cert_common_name: self.endpoints.cert_common_name.as_deref(),
        };
        let answer = tokio::select! {
            () = self.hub.shutdown.cancelled() => return Err(reason::SERVER_UNAVAILABLE),
            answer = self.hub.authenticator.authenticate(&credentials).get() => answer,
        };
        match answer {
            Authn::Allow(identity) => Ok(identity),
            Authn::BadCredentials => Err(reason::BAD_USERNAME_OR_PASSWORD),
            Authn::NotAuthorized => Err(reason::NOT_AUTHORIZED),
            Authn::Banned => Err(reason::BANNED),
            Authn::TooManyFailures => Err(reason::QUOTA_EXCEEDED),
            Authn::Busy => Err(reason::SERVER_BUSY),
        }
    }

    /// Answers that the client may not come in, and writes the events about it.
    async fn refuse(self, wire: Wire, code: u8, authn: Option<u8>) -> Option<Box<Parts>> {
        self.hub.counters.connects_refused.add(1);
        let mut recorder = self.recorder(&Identity::default());
        if let Some(code) = authn {
            let detail = authn_detail(reason::name(code), &Identity::default());
            recorder.note(EventKind::ClientAuthn, "", None, Some(detail)).await;
        }
        let connection = self.connection(&self.terms(), code, 0);
        recorder.note(EventKind::ClientConnack, "", None, Some(Detail::Connack(connection))).await;
        let mut out = BytesMut::new();
        encode::connack(&mut out, self.connect.version, &ConnAck { code, ..ConnAck::default() });
        session::close(wire.reader.into_source(), wire.writer, out).await;
        None
    }

    /// The client is in: events, registration, CONNACK, and what its session runs with.
    async fn establish(
        self,
        wire: Wire,
        turn: Turn,
        identity: Identity,
        earlier: Earlier,
        assigned: bool,
    ) -> Option<Box<Parts>> {
        let hub = Arc::clone(&self.hub);
        let terms = self.terms();
        let had_kept = earlier.had_kept();
        let Earlier { resumed, facts: earlier } = earlier;
        let session_present = resumed.is_some();
        let mut recorder = self.recorder(&identity);
        let connected_at_ms = recorder.wall_ms();
        let begun =
            if session_present { &hub.counters.sessions_resumed } else { &hub.counters.sessions_created };
        begun.add(1);
        let mut session = resumed.unwrap_or_else(|| {
            Box::new(hub.new_session(&self.connect.clientid, connected_at_ms, terms.expiry_seconds > 0))
        });
        let connected = match self.record(&mut recorder, &identity, &terms, connected_at_ms).await {
            Ok(offset) => offset,
            Err(error) => {
                let code = self.not_let_in(&error);
                match earlier {
                    Some(facts) if session_present => {
                        self.give_back(turn, session, facts, recorder, identity).await
                    }
                    _ => {
                        session.end(&hub).await;
                        hub.clients.abandon(turn);
                    }
                }
                return self.refuse(wire, code, None).await;
            }
        };
        session.expiry_seconds = terms.expiry_seconds;
        let facts = Arc::new(self.facts(&recorder, &session, &terms, connected_at_ms));
        let (registration, control) = hub.clients.register(&turn, Arc::clone(&facts));
        hub.clients.connected.fetch_add(1, Ordering::Relaxed);
        drop(turn);
        // Asked again: who was shut out meanwhile was not yet among those who are told so.
        if self.is_banned() {
            hub.clients.begin_kick(&self.connect.clientid, KickReason::Banned).await;
        }
        if hub.shutdown.is_cancelled() {
            hub.clients.shut_down_one(&self.connect.clientid).await;
        }
        let subject = Box::new(self.subject(identity));
        let answers = None;
        let left_will = self.connect.will.is_some();
        let actor =
            Actor { hub, recorder, facts, subject, answers, control, registration, session, left_will };
        actor.publish_subscriptions();
        actor.rejoin();
        self.remember(&actor, had_kept, connected).await;
        let out = self.connack(&terms, session_present, assigned);
        let Terms { keep_alive_seconds, inflight_max, packet_bytes_max, .. } = terms;
        let Wire { reader, writer } = wire;
        let Connect { version, will, .. } = self.connect;
        let parts = Parts {
            actor,
            version,
            reader,
            writer,
            is_buffered: self.endpoints.is_buffered,
            out,
            will,
            keep_alive_seconds,
            inflight_max,
            packet_bytes_max,
        };
        Some(Box::new(parts))
    }

    /// The client is not let in: its session waits for it as before, with all that it is owed.
    async fn give_back(
        &self,
        turn: Turn,
        session: Box<Session>,
        facts: Arc<Facts>,
        recorder: Recorder,
        identity: Identity,
    ) {
        let hub = Arc::clone(&self.hub);
        let (registration, control) = hub.clients.register(&turn, Arc::clone(&facts));
        drop(turn);
        if hub.shutdown.is_cancelled() {
            hub.clients.shut_down_one(&self.connect.clientid).await;
        }
        let ends_at = Instant::now() + Duration::from_secs(u64::from(session.expiry_seconds));
        let (subject, answers, left_will) = (Box::new(self.subject(identity)), None, false);
        let actor =
            Actor { hub, recorder, facts, subject, answers, control, registration, session, left_will };
        actor.rejoin();
        let hub = Arc::clone(&actor.hub);
        hub.tasks.spawn(session::wait_offline(Box::new(Stay { actor, will: None, ends_at })));
    }

    /// Stores what must outlive the process: the session if it outlives its connection, and the will. The client is
    /// not told that it is in before that, nor before an earlier session of it that it did not want is forgotten, nor
    /// before the log is sure of the event that it came, at `connected`.
    async fn remember(&self, actor: &Actor, had_kept: bool, connected: u64) {
        let hub = &actor.hub;
        let will = self.connect.will.as_ref().map(|will| actor.will(will));
        let changes: Vec<_> = actor.memory().into_iter().chain(will).collect();
        let ticket = match changes.is_empty() && !had_kept {
            true => None,
            false => hub.keeper.write(changes).await,
        };
        let stored = async {
            if let Some(ticket) = ticket {
                hub.keeper.stored(ticket).await;
            }
        };
        let sure = async { tokio::join!(stored, durable(&hub.journal, connected)) };
        hub.shutdown.run_until_cancelled(sure).await;
    }

    fn subject(&self, identity: Identity) -> Subject {
        Subject {
            clientid: self.connect.clientid.clone(),
            username: self.connect.username.clone(),
            address: self.address(),
            listener: self.endpoints.listener.to_owned(),
            cert_common_name: self.endpoints.cert_common_name.clone(),
            rules: Subject::rules_of(&identity),
            identity: Arc::new(identity),
        }
    }

    async fn record(
        &self,
        recorder: &mut Recorder,
        identity: &Identity,
        terms: &Terms,
        connected_at_ms: i64,
    ) -> Result<u64, LogError> {
        let authn = authn_detail(reason::name(reason::SUCCESS), identity);
        recorder.append(EventKind::ClientAuthn, "", None, Some(authn)).await?;
        let connection = self.connection(terms, reason::SUCCESS, connected_at_ms);
        let connack = Detail::Connack(connection.clone());
        recorder.append(EventKind::ClientConnack, "", None, Some(connack)).await?;
        let connected = Detail::Connected(proto::Connection { reason_code: String::new(), ..connection });
        let appended = recorder.append(EventKind::ClientConnected, "", None, Some(connected)).await?;
        Ok(appended.offset)
    }
}

impl Hub {
    /// An identifier for a client that brings none.
    fn new_clientid(&self) -> String {
        let mut random = self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        format!("auto-{:016x}{:016x}", random.next_u64(), random.next_u64())
    }

    fn new_session(&self, clientid: &str, created_at_ms: i64, outlives: bool) -> Session {
        let id = self.session_ids.fetch_add(1, Ordering::Relaxed);
        // What is owed to it from now on is in its ledger.
        let mailbox = if outlives {
            Mailbox::Kept(Kept::new(&self.keeper, id, clientid, self.journal.next_offset()))
        } else {
            Mailbox::Passing(Inbox::new(id, clientid))
        };
        Session::new(created_at_ms, &self.config.limits, mailbox)
    }
}

/// Waits until an event is durable; on a full disk until there is room again.
async fn durable(journal: &Journal, offset: u64) {
    loop {
        match journal.durable(offset).await {
            Ok(()) => return,
            Err(LogError::DiskFull { .. }) if journal.log().writable().await.is_ok() => {}
            // A log that has failed acknowledges nothing any more; the process is about to end.
            Err(_) => pending().await,
        }
    }
}

fn authn_detail(reason_code: &str, identity: &Identity) -> Detail {
    Detail::Authn(proto::Authn {
        reason_code: reason_code.to_owned(),
        is_anonymous: identity.is_anonymous,
        is_superuser: identity.is_superuser,
    })
}
