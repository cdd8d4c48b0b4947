//! Tests of the store of sessions: what is written is found again, and nobody hears of it too soon.

use super::*;

fn delivery(message: u64, stage: Stage) -> StoredDelivery {
    StoredDelivery {
        key: DeliveryKey { message, number: 1 },
        stage,
        pkid: 0,
        topic: "t".to_owned(),
        body: bytes::Bytes::from_static(b"body"),
        qos: 2,
        retain: false,
        subscription_id: Some(7),
    }
}

fn session(session: u64, gone_at_ms: Option<i64>) -> Change {
    Change::Session {
        session,
        clientid: format!("c{session}"),
        facts: "{}".to_owned(),
        gone_at_ms,
        seen_to: 0,
    }
}

async fn write(store: &SessionStore, changes: Vec<Change>) -> Ticket {
    let ticket = store.reserve().await.expect("a thread").write(changes);
    store.stored(ticket).await;
    ticket
}

#[tokio::test]
async fn what_is_written_is_found_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sessions.db");
    let (store, stored) = SessionStore::open(&path).expect("a store");
    assert!(stored.sessions.is_empty() && stored.wills.is_empty() && stored.mark.is_none());
    let subscription =
        StoredSubscription { filter: "a/#".into(), number: 1, since: 5, options: "{\"qos\":1}".into() };
    let inbound = StoredInbound { pkid: 9, message: 3, released: false };
    let will = StoredWill {
        clientid: "c1".into(),
        session: 4,
        facts: "{}".into(),
        topic: "w".into(),
        body: bytes::Bytes::from_static(b"w"),
        due_at_ms: None,
    };
    let mark = Mark { log_id: u128::MAX - 1, read_from: 17 };
    let first = vec![
        session(1, None),
        session(2, Some(50)),
        Change::Subscribed(1, subscription.clone()),
        Change::Owed(1, delivery(6, Stage::Waits)),
        Change::Owed(1, delivery(7, Stage::Waits)),
        Change::Owed(2, delivery(6, Stage::Waits)),
        Change::Inbound(1, inbound),
        Change::Will(will.clone()),
        Change::SeenTo { session: 1, offset: 8 },
        Change::Mark(mark),
    ];
    let ticket = write(&store, first).await;
    assert!(store.is_stored(ticket));
    assert_eq!(store.mark(), Some(mark));
    drop(store);
    let (store, stored) = SessionStore::open(&path).expect("a store");
    assert_eq!(stored.mark, Some(mark));
    assert_eq!(stored.wills, [will]);
    let [one, two] = &stored.sessions[..] else { panic!("{stored:?}") };
    assert_eq!((one.clientid.as_str(), one.gone_at_ms, one.seen_to), ("c1", None, 8));
    assert_eq!(one.subscriptions, [subscription]);
    assert_eq!(one.deliveries, [delivery(6, Stage::Waits), delivery(7, Stage::Waits)]);
    assert_eq!(one.inbound, [inbound]);
    assert_eq!((two.gone_at_ms, two.deliveries.len()), (Some(50), 1));

    let key = |message| DeliveryKey { message, number: 1 };
    let second = vec![
        Change::Moved { session: 1, key: key(6), stage: Stage::Released, pkid: 3 },
        Change::Settled { session: 1, key: key(7) },
        Change::InboundGone { session: 1, pkid: 9 },
        Change::Unsubscribed { session: 1, filter: "a/#".into() },
        Change::WillDue { clientid: "c1".into(), session: 4, due_at_ms: 99 },
        Change::NoWill { clientid: "c1".into(), session: 3 },
        Change::Ended { session: 2 },
    ];
    write(&store, second).await;
    drop(store);
    let (_, stored) = SessionStore::open(&path).expect("a store");
    let [one] = &stored.sessions[..] else { panic!("{stored:?}") };
    assert!(one.subscriptions.is_empty() && one.inbound.is_empty());
    let [left] = &one.deliveries[..] else { panic!("{one:?}") };
    assert_eq!((left.stage, left.pkid, left.body.len()), (Stage::Released, 3, 0));
    assert_eq!(stored.wills.first().and_then(|it| it.due_at_ms), Some(99), "another connection's will stays");
}

#[tokio::test]
async fn a_ticket_is_reached_with_all_before_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = SessionStore::open(&dir.path().join("sessions.db")).expect("a store");
    let first = store.reserve().await.expect("a thread");
    let second = store.reserve().await.expect("a thread");
    let later = second.write(vec![session(2, None)]);
    let earlier = first.write(vec![session(1, None)]);
    assert!(later < earlier, "tickets are given where rooms are filled");
    store.stored(earlier).await;
    assert!(store.is_stored(later));
}

#[test]
fn a_newer_file_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sessions.db");
    drop(SessionStore::open(&path).expect("a store"));
    let connection = Connection::open(&path).expect("a file");
    connection.pragma_update(None, "user_version", 99).expect("a version");
    let error = SessionStore::open(&path).expect_err("too new");
    assert!(error.to_string().contains("has version 99"), "{error}");
}
