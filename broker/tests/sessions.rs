//! What outlives a connection: takeover, persistent sessions, wills, shutdown, and the order of events in each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use std::sync::Arc;

use muster_broker::{Action, Answer, Authenticator, Authn, Authorizer, Authz, Credentials, Limits, Request};
use muster_core::clock::ManualClock;
use muster_core::event::{Column, EventKind};
use support::{Client, Connect, Harness, reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Breaks the connection without a DISCONNECT.
async fn drop_connection(mut client: Client) {
    client.stream.shutdown().await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn a_takeover_ends_the_old_connection_before_the_new_one_begins() {
    let harness = Harness::start().await;
    let mut first = Client::connected(harness.addr(), Connect::v5("c").expiry(100)).await;
    let second = Client::connected(harness.addr(), Connect::v5("c").expiry(100).resume()).await;
    assert_eq!(first.disconnected().await, 0x8E);
    assert!(second.session_present());
    let third = harness.v5("c").await;
    assert!(!third.session_present());
    third.disconnect().await;
    harness.event(|it| it.kind == EventKind::ClientDisconnected && reason(it) == "normal").await;
    let events = harness.events().await;
    let presence = events
        .iter()
        .filter(|it| matches!(it.kind, EventKind::ClientConnected | EventKind::ClientDisconnected));
    let told: Vec<_> = presence.clone().map(|it| format!("{} {}", it.kind.name(), reason(it))).collect();
    assert_eq!(
        told,
        [
            "client.connected ",
            "client.disconnected takenover",
            "client.connected ",
            "client.disconnected discarded",
            "client.connected ",
            "client.disconnected normal"
        ]
    );
    let seqs: Vec<_> = events.iter().map(|it| it.seq()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
}

/// Presence and alarms count with the length of a connection.
#[tokio::test]
async fn a_connection_never_ends_before_it_began() {
    let clock = ManualClock::at(5_000);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let harness = Harness::in_dir(dir, Limits::default(), |it| it.clock = clock.clone()).await;
    let client = harness.v5("c").await;
    clock.step_wall(1_000);
    client.disconnect().await;
    let end = harness.event_of(EventKind::ClientDisconnected, "c").await;
    let column = |column| end.get(column).to_json();
    assert_eq!(
        [Column::ConnectedAt, Column::DisconnectedAt, Column::Timestamp].map(column),
        ["5000", "5000", "1000"]
    );
}

/// Devices whose bytes come by no listener are devices as all others.
#[tokio::test]
async fn a_device_in_this_process_is_served() {
    let harness = Harness::start().await;
    let (mut device, stream) = tokio::io::duplex(1_024);
    harness.broker.serve(stream, ([10, 0, 0, 1], 7).into());
    device.write_all(&Connect::v4("inside").bytes()).await.unwrap();
    let mut connack = [0; 4];
    device.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    drop(device);
    assert_eq!(harness.disconnected("inside").await, "tcp_closed");
    let peers: Vec<_> = harness.events().await.iter().map(|it| it.get(Column::Peername).to_json()).collect();
    assert!(peers.iter().all(|peer| peer == "\"10.0.0.1:7\""), "{peers:?}");
}

#[tokio::test]
async fn many_connections_of_one_client_leave_one() {
    let harness = Harness::start().await;
    let addr = harness.addr();
    let clients: Vec<_> = (0..20)
        .map(|at| {
            tokio::spawn(async move {
                let connect = Connect::v5("one").expiry(60);
                let connect = if at % 2 == 0 { connect } else { connect.resume() };
                Client::connected(addr, connect).await
            })
        })
        .collect();
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.unwrap());
    }
    assert_eq!(harness.broker.stats().connections, 1);
    let events = harness.events().await;
    let mut online = false;
    for event in &events {
        match event.kind {
            EventKind::ClientConnected => assert!(!std::mem::replace(&mut online, true)),
            EventKind::ClientDisconnected => assert!(std::mem::replace(&mut online, false)),
            _ => {}
        }
    }
    assert!(online);
    assert_eq!(harness.broker.clients().len(), 1);
}

#[tokio::test]
async fn a_persistent_session_keeps_subscriptions_and_messages() {
    let harness = Harness::start().await;
    harness.want_all();
    let mut away = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    assert!(!away.session_present());
    away.subscribe(1, &[("t/+", 2)]).await;
    drop_connection(away).await;
    assert_eq!(harness.disconnected("away").await, "tcp_closed");
    assert!(!harness.broker.client("away").unwrap().connected);
    let mut publisher = harness.v5("p").await;
    publisher.publish1(1, "t/1", "one").await;
    publisher.publish0("t/0", "zero").await;
    publisher.publish2(2, "t/2", "two").await;
    let dropped = harness.event_of(EventKind::DeliveryDropped, "away").await;
    assert_eq!((reason(&dropped).as_str(), dropped.topic.as_str()), ("qos0_msg", "t/0"));

    let mut back = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    assert!(back.session_present());
    let one = back.message().await;
    let two = back.message().await;
    assert_eq!((one.text().as_str(), one.qos, one.dup), ("one", 1, false));
    assert_eq!((two.text().as_str(), two.qos, two.dup), ("two", 2, false));
    // Neither is acknowledged: both come again, in order, marked.
    back.send_ack(0x50, two.pkid).await;
    assert_eq!(back.ack(0x62, two.pkid).await, 0);
    drop_connection(back).await;
    let mut again = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    let repeated = again.message().await;
    assert_eq!((repeated.text().as_str(), repeated.dup, repeated.pkid), ("one", true, one.pkid));
    assert_eq!(again.ack(0x62, two.pkid).await, 0);
    again.send_ack(0x40, one.pkid).await;
    again.send_ack(0x70, two.pkid).await;
    again.quiet().await;
    let acked = harness.event_of(EventKind::MessageAcked, "away").await;
    assert_eq!(acked.get(Column::FromClientid), "p".into());
    drop_connection(again).await;

    let clean = harness.v4("away").await;
    assert!(!clean.session_present());
    assert_eq!(harness.broker.client_subscriptions("away").unwrap(), []);
}

/// What a kill at this moment would leave: nobody tidies up.
fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn identifiers_of_an_earlier_session_are_not_taken_for_those_of_a_new_one_after_a_kill() {
    let killed = Harness::start().await;
    let mut first = killed.v5("c").await;
    first.publish2(1, "t", "earlier").await;
    first.disconnect().await;
    // A session that is kept, made a moment before the kill.
    let _second = Client::connected(killed.addr(), Connect::v5("c").expiry(3_600)).await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    copy_folder(killed.dir.path(), dir.path());
    let harness = Harness::in_dir(dir, Limits::default(), |_| {}).await;
    let mut back = Client::connected(harness.addr(), Connect::v5("c").resume().expiry(3_600)).await;
    assert!(back.session_present());
    back.publish2(1, "t", "new").await;
    let published = harness.events().await;
    let payloads: Vec<_> =
        published.iter().filter(|it| it.kind == EventKind::MessagePublish).map(|it| it.payload()).collect();
    assert_eq!(payloads, ["earlier", "new"]);
}

#[tokio::test]
async fn a_session_ends_with_its_expiry() {
    let harness = Harness::start().await;
    let mut client = Client::connected(harness.addr(), Connect::v5("c").expiry(1)).await;
    client.subscribe(1, &[("t", 1)]).await;
    drop_connection(client).await;
    harness.disconnected("c").await;
    assert_eq!(harness.broker.stats().sessions, 1);
    // The will of a second client, with the same delay, says when a second is over.
    let mut watcher = harness.v5("w").await;
    watcher.subscribe(1, &[("will", 1)]).await;
    let delayed = Connect::v5("d").expiry(60).will(&[24, 0, 0, 0, 2], "will", "gone", 0, false);
    drop_connection(Client::connected(harness.addr(), delayed).await).await;
    assert_eq!(watcher.message().await.text(), "gone");
    assert!(harness.broker.client("c").is_none());
    let back = Client::connected(harness.addr(), Connect::v5("c").expiry(1).resume()).await;
    assert!(!back.session_present());
}

#[tokio::test]
async fn a_disconnect_may_change_the_expiry_but_not_from_zero() {
    let harness = Harness::start().await;
    let mut client = Client::connected(harness.addr(), Connect::v5("c").expiry(100)).await;
    client.send(&[0xE0, 7, 0, 5, 17, 0, 0, 0, 0]).await;
    client.closed().await;
    harness.disconnected("c").await;
    assert!(!Client::connected(harness.addr(), Connect::v5("c").resume()).await.session_present());
    let mut client = harness.v5("z").await;
    client.send(&[0xE0, 7, 0, 5, 17, 0, 0, 0, 9]).await;
    assert_eq!(client.disconnected().await, 0x82);
}

#[tokio::test]
async fn the_queue_of_who_is_away_has_a_limit_and_the_oldest_goes() {
    let harness = Harness::with(Limits { queue_messages_max: 3, ..Limits::default() }).await;
    harness.want_all();
    let mut away = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    away.subscribe(1, &[("t", 1)]).await;
    drop_connection(away).await;
    harness.disconnected("away").await;
    let mut publisher = harness.v4("p").await;
    for at in 1..=5u16 {
        publisher.publish1(at, "t", &at.to_string()).await;
    }
    let second = harness.event(|it| it.kind == EventKind::DeliveryDropped && it.payload() == "2").await;
    assert_eq!(reason(&second), "queue_full");
    let mut back = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    for expected in ["3", "4", "5"] {
        let message = back.message().await;
        assert_eq!(message.text(), expected);
        back.send_ack(0x40, message.pkid).await;
    }
    back.quiet().await;
    assert_eq!(harness.broker.stats().counters.deliveries_dropped_queue_full, 2);
}

#[tokio::test]
async fn wills_are_published_when_and_only_when_they_should() {
    let harness = Harness::start().await;
    let mut watcher = harness.v5("w").await;
    // Retain as published.
    watcher.subscribe(1, &[("will/#", 2 | 0b1000)]).await;
    let will = |clientid: &str, level: u8| {
        let connect = Connect { level, ..Connect::v4(clientid) };
        connect.will(&[3, 0, 1, b'c'], &format!("will/{clientid}"), clientid, 1, true)
    };
    let expect = async |watcher: &mut Client, clientid: &str| {
        let message = watcher.message().await;
        assert_eq!((message.text().as_str(), message.qos, message.retain), (clientid, 1, true));
        watcher.send_ack(0x40, message.pkid).await;
    };
    // A goodbye: none.
    Client::connected(harness.addr(), will("bye", 4)).await.disconnect().await;
    // The connection breaks.
    drop_connection(Client::connected(harness.addr(), will("broken", 4)).await).await;
    expect(&mut watcher, "broken").await;
    // DISCONNECT with 0x04.
    let mut client = Client::connected(harness.addr(), will("asked", 5)).await;
    client.send(&[0xE0, 1, 4]).await;
    client.closed().await;
    expect(&mut watcher, "asked").await;
    assert_eq!(harness.disconnected("asked").await, "disconnect_with_will_message");
    // A protocol error.
    let mut client = Client::connected(harness.addr(), will("wrong", 5)).await;
    client.send(&[0x20, 2, 0, 0]).await;
    expect(&mut watcher, "wrong").await;
    // A takeover.
    let _old = Client::connected(harness.addr(), will("taken", 4)).await;
    let new = harness.v4("taken").await;
    expect(&mut watcher, "taken").await;
    new.disconnect().await;
    // Silence.
    let _silent = Client::connected(harness.addr(), will("silent", 4).keep_alive(1)).await;
    expect(&mut watcher, "silent").await;
    // A kick.
    let _kicked = Client::connected(harness.addr(), will("kicked", 4)).await;
    assert!(harness.broker.kick("kicked").await);
    expect(&mut watcher, "kicked").await;
    watcher.quiet().await;
    let event = harness.event(|it| it.kind == EventKind::MessagePublish && it.clientid() == "broken").await;
    assert_eq!(event.body.message.as_ref().unwrap().origin, "will");
    let gone = harness.event_of(EventKind::ClientDisconnected, "broken").await;
    assert!(gone.offset < event.offset && gone.seq() < event.seq());
}

#[tokio::test]
async fn a_delayed_will_is_not_published_when_the_client_is_back_in_time() {
    let harness = Harness::start().await;
    let mut watcher = harness.v5("w").await;
    watcher.subscribe(1, &[("will/#", 0)]).await;
    let delayed = |clientid: &str| {
        Connect::v5(clientid).expiry(60).will(&[24, 0, 0, 0, 60], &format!("will/{clientid}"), "x", 0, false)
    };
    drop_connection(Client::connected(harness.addr(), delayed("back")).await).await;
    harness.disconnected("back").await;
    let back = Client::connected(harness.addr(), delayed("back").resume()).await;
    assert!(back.session_present());
    // A takeover that resumes cancels it too, one that wants a new session does not.
    let again = Client::connected(harness.addr(), delayed("back").resume()).await;
    assert!(again.session_present());
    watcher.quiet().await;
    let _fresh = harness.v5("back").await;
    assert_eq!(watcher.message().await.topic, "will/back");
    // A session that ends with the connection does not wait.
    let at_once = Connect::v5("once").will(&[24, 0, 0, 0, 60], "will/once", "x", 0, false);
    drop_connection(Client::connected(harness.addr(), at_once).await).await;
    assert_eq!(watcher.message().await.topic, "will/once");
}

#[tokio::test]
async fn a_kick_ends_connection_and_session() {
    let harness = Harness::start().await;
    let mut client = Client::connected(harness.addr(), Connect::v5("c").expiry(100)).await;
    assert!(harness.broker.kick("c").await);
    assert_eq!(client.disconnected().await, 0x98);
    assert_eq!(harness.disconnected("c").await, "kicked");
    assert!(harness.broker.client("c").is_none());
    assert!(!harness.broker.kick("c").await);
    // Also a session without a connection.
    let client = Client::connected(harness.addr(), Connect::v5("c").expiry(100)).await;
    client.disconnect().await;
    assert!(harness.broker.kick("c").await);
    assert!(harness.broker.client("c").is_none());
}

#[tokio::test]
async fn a_shutdown_says_so_to_every_client_and_to_the_log() {
    let harness = Harness::start().await;
    let mut v5 = harness.v5("v5").await;
    let mut v4 = harness.v4("v4").await;
    let away = Client::connected(harness.addr(), Connect::v4("away").resume()).await;
    away.disconnect().await;
    v5.publish_with(0b010, 1, "t", &[], b"last").await;
    harness.event(|it| it.payload() == "last").await;
    harness.broker.shutdown().await;
    assert_eq!(v5.ack(0x40, 1).await, 0x10);
    assert_eq!(v5.disconnected().await, 0x8B);
    v4.closed().await;
    let told: Vec<_> = harness
        .events()
        .await
        .iter()
        .filter(|it| it.kind == EventKind::ClientDisconnected)
        .map(|it| (it.clientid().to_owned(), reason(it)))
        .collect();
    assert_eq!(told.len(), 3);
    for clientid in ["v4", "v5"] {
        assert!(told.contains(&(clientid.to_owned(), "server_shutting_down".to_owned())), "{told:?}");
    }
    assert_eq!(harness.broker.stats().connections, 0);
    assert_eq!(harness.broker.stats().sessions, 0);
}

struct Rules;

impl Authenticator for Rules {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Answer<'a, Authn> {
        Answer::Now(match (credentials.username, credentials.password) {
            (Some("ann"), Some(b"secret")) => Authn::Allow(Default::default()),
            (Some("bob"), _) => Authn::NotAuthorized,
            (Some("eve"), _) => Authn::Banned,
            _ => Authn::BadCredentials,
        })
    }
}

impl Authorizer for Rules {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a, Authz> {
        Answer::Later(Box::pin(async move {
            tokio::task::yield_now().await;
            let allow = match request.action {
                Action::Publish { .. } => !request.topic.starts_with("deny/"),
                Action::Subscribe { .. } => request.topic != "deny/#",
            };
            Authz { allow, source: "file" }
        }))
    }
}

#[tokio::test]
async fn who_may_not_come_in_is_told_and_recorded() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let harness = Harness::in_dir(dir, Limits::default(), |it| {
        it.authenticator = Arc::new(Rules);
        it.authorizer = Arc::new(Rules);
    })
    .await;
    for (username, v5, v4, name) in [
        ("nobody", 0x86, 4, "bad_username_or_password"),
        ("bob", 0x87, 5, "not_authorized"),
        ("eve", 0x8A, 5, "banned"),
    ] {
        let mut client = Client::open(harness.addr(), Connect::v5(username).login(username, b"x")).await;
        assert_eq!(client.code(), v5);
        client.closed().await;
        let client = Client::open(harness.addr(), Connect::v4(username).login(username, b"x")).await;
        assert_eq!(client.code(), v4);
        let authn = harness.event_of(EventKind::ClientAuthn, username).await;
        assert_eq!(authn.get(Column::ReasonCode), name.into());
        let connack = harness.event_of(EventKind::ClientConnack, username).await;
        assert_eq!(connack.get(Column::ReasonCode), name.into());
        assert_eq!(authn.seq() + 1, connack.seq());
    }
    let login = |connect: Connect| connect.login("ann", b"secret");
    let mut v5 = Client::connected(harness.addr(), login(Connect::v5("v5"))).await;
    assert_eq!(v5.publish1(1, "deny/x", "x").await, 0x87);
    v5.publish_with(0b100, 2, "deny/x", &[], b"").await;
    assert_eq!(v5.ack(0x50, 2).await, 0x87);
    v5.publish0("deny/x", "x").await;
    assert_eq!(v5.subscribe(3, &[("deny/#", 1), ("t", 0)]).await, [0x87, 0]);
    let mut v4 = Client::connected(harness.addr(), login(Connect::v4("v4"))).await;
    v4.publish1(1, "deny/x", "x").await;
    assert_eq!(v4.subscribe(3, &[("deny/#", 1)]).await, [0x80]);
    let will = login(Connect::v4("will")).will(&[], "deny/will", "x", 0, false);
    drop_connection(Client::connected(harness.addr(), will).await).await;
    let denied = harness.event_of(EventKind::ClientAuthz, "will").await;
    assert_eq!(denied.topic, "deny/will");
    assert_eq!(denied.get(Column::Result), "deny".into());
    assert_eq!(denied.get(Column::AuthzSource), "file".into());
    let events = harness.events().await;
    assert!(events.iter().all(|it| it.kind != EventKind::MessagePublish), "a denied publish was published");
    assert_eq!(events.iter().filter(|it| it.kind == EventKind::ClientAuthz).count(), 7);
    assert_eq!(harness.broker.stats().counters.authorizations_denied, 7);
}
