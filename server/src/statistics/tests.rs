//! That counters are what the log says, whatever happens in between.

use muster_core::clock::SystemClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventId, EventKind, proto};
use proptest::prelude::*;

use super::*;

fn counts(data: &Path) -> Counts {
    let store = Store::open(data, 7).expect("a store");
    let (cursor, totals) = store.totals().expect("totals");
    Counts {
        store: Arc::new(Mutex::new(store)),
        totals: Arc::new(Mutex::new(totals)),
        folded: watch::channel(0).0,
        clock: SharedClockDebug(SystemClock::shared()),
        cursor,
        committed_at: Duration::ZERO,
        is_behind: false,
    }
}

fn event(offset: u64, what: (u8, u8, bool)) -> Arc<Event> {
    let (kind, small, flag) = what;
    let message = |origin: &str| proto::Message {
        qos: u32::from(small % 3),
        retain: flag,
        origin: origin.to_owned(),
        ..proto::Message::default()
    };
    let (kind, message, detail) = match kind % 9 {
        0 | 1 => (EventKind::MessagePublish, Some(message("")), None),
        2 => (EventKind::MessagePublish, Some(message("rest")), None),
        3 => (EventKind::ClientConnack, None, None),
        4 => (EventKind::ClientConnected, None, None),
        5 => {
            let reason = ["normal", "takenover", "discarded"][usize::from(small % 3)].to_owned();
            let detail = proto::Disconnection { reason, ..proto::Disconnection::default() };
            (EventKind::ClientDisconnected, None, Some(Detail::Disconnected(detail)))
        }
        6 => {
            let reason_code = if small % 2 == 0 { "success" } else { "not_authorized" }.to_owned();
            let detail = proto::Authn { reason_code, is_anonymous: flag, is_superuser: false };
            (EventKind::ClientAuthn, None, Some(Detail::Authn(detail)))
        }
        7 => {
            let result = if flag { "deny" } else { "allow" }.to_owned();
            let detail = proto::Authz { result, ..proto::Authz::default() };
            (EventKind::ClientAuthz, None, Some(Detail::Authz(detail)))
        }
        _ if flag => (EventKind::SessionSubscribed, None, None),
        _ => (EventKind::SessionUnsubscribed, None, None),
    };
    let topic = if message.is_some() { format!("t/{}", small % 4) } else { String::new() };
    let body = proto::Event { message, detail, ..proto::Event::default() };
    Arc::new(Event { offset, id: EventId::new(7, offset), timestamp_ms: 0, kind, topic, body })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Read in any pieces, committed now and then, torn off anywhere and gone on at the cursor: the same as read once.
    #[test]
    fn folded_in_pieces_over_crashes_it_is_the_same(
        whats in prop::collection::vec((0u8..9, 0u8..12, any::<bool>()), 0..120),
        pieces in prop::collection::vec((1usize..20, 0u8..4), 1..12),
    ) {
        let events: Vec<_> = (0u64..).zip(&whats).map(|(offset, what)| event(offset, *what)).collect();
        let watched = fold::Topic { from_offset: 10, received_by_qos: [0; 3] };
        let mut whole = Totals::default();
        whole.topics.insert("t/1".to_owned(), watched);
        events.iter().for_each(|event| whole.fold(event));
        whole.next_offset = events.len() as u64;

        let dir = tempfile::tempdir().expect("a folder");
        let mut counts = self::counts(dir.path());
        lock(&counts.totals).topics.insert("t/1".to_owned(), watched);
        counts.commit().expect("committed");
        let at = |counts: &Counts| usize::try_from(lock(&counts.totals).next_offset).expect("small");
        for (length, then) in pieces.into_iter().cycle().take(40) {
            let from = at(&counts);
            let to = (from + length).min(events.len());
            counts.take(&events[from..to], to as u64);
            match then {
                0 => counts.commit().expect("committed"),
                // A crash: what was not committed is gone.
                1 => counts = self::counts(dir.path()),
                _ => {}
            }
        }
        let from = at(&counts);
        counts.take(&events[from..], events.len() as u64);
        counts.commit().expect("committed");
        let again = self::counts(dir.path());
        let totals = lock(&again.totals);
        prop_assert_eq!(&*totals, &whole);
    }
}

#[test]
fn what_was_counted_of_another_log_is_forgotten() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut counts = counts(dir.path());
    counts.take(&[event(0, (0, 1, true))], 1);
    counts.commit().expect("committed");
    drop(counts);
    let (cursor, totals) = Store::open(dir.path(), 7).expect("a store").totals().expect("totals");
    assert_eq!((cursor, totals.get(Count::Published), totals.get(Count::ReceivedQos1)), (Some(1), 1, 1));
    let other = Store::open(dir.path(), 8).expect("a store").totals().expect("totals");
    assert_eq!(other, (None, Totals::default()));
}

#[test]
fn topics_are_counted_from_where_the_registry_says() {
    let watched = |from_offset| Watched { created_at_ms: 1, reset_at_ms: None, from_offset };
    let stored = |from_offset| fold::Topic { from_offset, received_by_qos: [1, 2, 3] };
    let of = |name: &str, it: fold::Topic| (name.to_owned(), it);
    let registry = BTreeMap::from([
        ("same".to_owned(), watched(5)),
        ("reset".to_owned(), watched(9)),
        ("new".to_owned(), watched(10)),
        ("foreign".to_owned(), watched(99)),
    ]);
    let kept = [of("same", stored(5)), of("reset", stored(5)), of("gone", stored(5))];
    let zero = |from_offset| fold::Topic { from_offset, received_by_qos: [0; 3] };
    assert_eq!(
        topics::reconcile(&registry, BTreeMap::from(kept), 20),
        BTreeMap::from([
            of("same", stored(5)),
            of("reset", zero(9)),
            of("new", zero(10)),
            of("foreign", zero(0))
        ])
    );
}
