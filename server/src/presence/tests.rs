//! The fold beside a plain model, over histories whose clock steps, in batches of any size.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Client, Connection, Disconnection};
use muster_core::event::{Event, EventKind, NewEvent, proto};
use proptest::prelude::*;

use super::moment::{BUCKET_MS_MIN, fork};
use super::store::open_reader;
use super::*;

/// A session of the model.
#[derive(Debug, Clone)]
struct Lasted {
    clientid: String,
    came: i64,
    went: Option<i64>,
}

fn event(kind: EventKind, clientid: &str, offset: u64, session: u64, at: i64, came: i64) -> Event {
    let client = Client { clientid: clientid.to_owned(), session, seq: offset, ..Client::default() };
    let detail = match kind {
        EventKind::ClientConnected => {
            Detail::Connected(Connection { connected_at_ms: at, ..Connection::default() })
        }
        _ => Detail::Disconnected(Disconnection {
            reason: "normal".to_owned(),
            connected_at_ms: came,
            disconnected_at_ms: at,
            ..Disconnection::default()
        }),
    };
    let body = proto::Event { client: Some(client), detail: Some(detail), ..proto::Event::default() };
    NewEvent { timestamp_ms: at, kind, topic: String::new(), body }.at(7, offset)
}

/// What happens: which device, after how long (a clock may step back), and whether it is an end without a beginning.
fn lives() -> impl Strategy<Value = (Vec<Event>, Vec<Lasted>)> {
    let step = prop_oneof![8 => 0i64..90_000, 1 => -200_000i64..0, 1 => 0i64..40_000_000];
    prop::collection::vec((0usize..5, step, 0u8..10), 1..80).prop_map(|steps| {
        let mut now = 1_700_000_000_000;
        let (mut events, mut sessions) = (Vec::new(), Vec::<Lasted>::new());
        let mut open = BTreeMap::<usize, (u64, usize)>::new();
        for (offset, (device, step, dice)) in (1..).zip(steps) {
            now += step;
            let clientid = format!("d{device}");
            match open.remove(&device) {
                Some((session, at)) => {
                    let came = sessions[at].came;
                    let went = now.max(came);
                    sessions[at].went = Some(went);
                    events.push(event(EventKind::ClientDisconnected, &clientid, offset, session, went, came));
                }
                None if dice == 0 => {
                    // Retention has taken its beginning.
                    sessions.push(Lasted { clientid: clientid.clone(), came: now - 5, went: Some(now) });
                    events.push(event(
                        EventKind::ClientDisconnected,
                        &clientid,
                        offset,
                        offset,
                        now,
                        now - 5,
                    ));
                }
                None => {
                    open.insert(device, (offset, sessions.len()));
                    sessions.push(Lasted { clientid: clientid.clone(), came: now, went: None });
                    events.push(event(EventKind::ClientConnected, &clientid, offset, offset, now, now));
                }
            }
        }
        (events, sessions)
    })
}

fn folded(path: &Path, events: &[Event], batches: &[usize]) {
    let mut store = Store::open(path, 7).unwrap();
    let mut rest = events;
    let mut sizes = batches.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (batch, after) = rest.split_at(size);
        store.apply(batch, batch[batch.len() - 1].offset + 1).unwrap();
        rest = after;
    }
}

/// Every row of every table of the fold.
pub(super) fn dump(path: &Path) -> Vec<String> {
    let db = open_reader(path).unwrap();
    let mut rows = Vec::new();
    for table in [
        "devices",
        "_muster_alarms",
        "_muster_sessions",
        "_muster_minutes",
        "_muster_device_events",
        "_muster_history",
        "_muster_alarm_history",
        "_muster_alarm_silences",
    ] {
        let mut statement = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let lines = statement
            .query_map([], |row| {
                (0..columns).map(|at| Ok(format!("{:?}", row.get_ref(at)?))).collect::<Result<Vec<_>, _>>()
            })
            .unwrap();
        rows.extend(lines.map(|line| format!("{table}: {}", line.unwrap().join(" "))));
    }
    rows.sort();
    rows
}

fn here(sessions: &[Lasted], at: i64) -> BTreeSet<String> {
    let is_here = |it: &&Lasted| it.came <= at && it.went.is_none_or(|went| went > at);
    sessions.iter().filter(is_here).map(|it| it.clientid.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn whoever_was_here_at_a_moment_is_found(
        (events, sessions) in lives(),
        moments in prop::collection::vec((any::<prop::sample::Index>(), -2i64..3), 12),
        batches in prop::collection::vec(1usize..20, 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.db");
        folded(&path, &events, &batches);
        for (which, beside) in moments {
            let at = which.get(&events).timestamp_ms + beside;
            let found = present(&path, at, 0, 100).unwrap();
            let expected = here(&sessions, at);
            prop_assert_eq!(found.count as usize, expected.len());
            let names: BTreeSet<_> = found.page.into_iter().map(|(_, clientid)| clientid).collect();
            prop_assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_timeline_adds_up((events, sessions) in lives(), minutes in 1i64..90) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.db");
        folded(&path, &events, &[7]);
        let bucket = minutes * BUCKET_MS_MIN;
        let first = sessions.iter().map(|it| it.came).min().unwrap().div_euclid(bucket) * bucket;
        let buckets = timeline(&path, first, first + 200 * bucket, bucket).unwrap();
        prop_assert_eq!(buckets.len(), 200);
        for it in buckets {
            let end = it.from_ms + bucket;
            let within = |at: i64| (it.from_ms..end).contains(&at);
            let came = sessions.iter().filter(|it| within(it.came)).count() as i64;
            let went = sessions.iter().filter(|it| it.went.is_some_and(within)).count() as i64;
            let open = |it: &&Lasted| it.came < end && it.went.is_none_or(|went| went >= end);
            let online = sessions.iter().filter(open).count() as i64;
            prop_assert_eq!((it.connects, it.disconnects, it.online), (came, went, online));
        }
    }

    /// However the events come in batches, again or not, the rows are the same.
    #[test]
    fn batches_leave_no_trace(
        (events, _) in lives(),
        batches in prop::collection::vec(1usize..30, 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one.db"), dir.path().join("other.db"));
        folded(&one, &events, &[1]);
        folded(&other, &events, &batches);
        prop_assert_eq!(dump(&one), dump(&other));
        // What was folded is not folded again; what is forgotten is.
        let mut store = Store::open(&other, 7).unwrap();
        store.apply(&events, 1_000).unwrap();
        prop_assert_eq!(dump(&one), dump(&other));
        store.forget().unwrap();
        prop_assert_eq!(dump(&other).len(), 0);
        drop(store);
        folded(&other, &events, &batches);
        prop_assert_eq!(dump(&one), dump(&other));
    }

    #[test]
    fn a_fork_lies_between_the_ends(came in any::<i64>(), lasted in 0i64..i64::MAX) {
        let went = came.saturating_add(lasted);
        prop_assert!((came..=went).contains(&fork(came, went)));
    }
}

#[test]
fn a_device_s_history_is_told_backwards_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("muster.db");
    let mut events = Vec::new();
    for session in 0..6u64 {
        let came = 1_000_000 + i64::try_from(session).unwrap() * 10_000;
        events.push(event(EventKind::ClientConnected, "d", session * 2 + 1, session * 2 + 1, came, came));
        let went = came + 4_000;
        events.push(event(EventKind::ClientDisconnected, "d", session * 2 + 2, session * 2 + 1, went, came));
    }
    folded(&path, &events, &[5]);
    let now_ms = 1_060_000;
    let wanted = Wanted { limit: 10, now_ms, flapping: Some(true), ..Wanted::default() };
    let (devices, total) = list(&path, &wanted).unwrap();
    assert_eq!((total, devices[0].longest_outage_ms, devices[0].number), (1, 6_000, 1));
    assert_eq!(last_day(&path, &devices, now_ms).unwrap(), [(6, 6)]);
    assert_eq!(last_day(&path, &devices, 1_025_000).unwrap(), [(3, 3)], "what is yet to come is not counted");
    assert_eq!(last_day(&path, &devices, 1_030_000 + 86_400_000).unwrap(), [(2, 3)]);
    let later = Wanted { now_ms: now_ms + FLAPPING_WINDOW_MS, ..wanted };
    assert_eq!(list(&path, &later).unwrap().1, 0, "it is quiet again");

    let all = history(&path, 1, &Part { limit: 100, ..Part::default() }).unwrap();
    assert_eq!(all.len(), 12);
    assert!(all.windows(2).all(|pair| pair[0].offset > pair[1].offset));
    assert_eq!((all[0].kind.as_str(), all[0].duration_ms), ("client.disconnected", Some(4_000)));
    let mut part = Part { limit: 5, kinds: vec!["client.connected".to_owned()], ..Part::default() };
    let first = history(&path, 1, &part).unwrap();
    part.before = first[4].offset;
    let rest = history(&path, 1, &part).unwrap();
    let offsets: Vec<_> = first.iter().chain(&rest).map(|it| it.offset.unwrap()).collect();
    assert_eq!(offsets, [11, 9, 7, 5, 3, 1]);
    let some = Part { from_ms: Some(1_010_000), to_ms: Some(1_020_000), limit: 9, ..Part::default() };
    assert_eq!(history(&path, 1, &some).unwrap().len(), 2);
}

#[test]
fn pages_go_on_where_they_ended_in_every_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("muster.db");
    let events: Vec<_> = (1..=30u64)
        .map(|at| {
            let came = 5_000 + i64::try_from(at % 4).unwrap();
            event(EventKind::ClientConnected, &format!("d{at:02}"), at, at, came, came)
        })
        .collect();
    folded(&path, &events, &[30]);
    for (sort, name) in Sort::ALL {
        for descending in [false, true] {
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let wanted = Wanted { sort, descending, after, limit: 7, ..Wanted::default() };
                let (page, total) = list(&path, &wanted).unwrap();
                assert_eq!(total, 30);
                let Some(last) = page.last() else { break };
                let token = Place::behind(last, sort).to_token();
                after = Place::from_token(&token, sort);
                assert!(after.is_some() && Place::from_token("x", sort).is_none());
                seen.extend(page.into_iter().map(|it| (it.since_ms, it.clientid)));
            }
            assert_eq!(seen.len(), 30, "{name}");
            let distinct: BTreeSet<_> = seen.iter().cloned().collect();
            assert_eq!(distinct.len(), 30, "{name}");
            if sort == Sort::Since {
                let mut sorted: Vec<_> = distinct.into_iter().collect();
                if descending {
                    sorted.reverse();
                }
                assert_eq!(seen, sorted);
            }
        }
    }
}

const DAY_MS: i64 = 86_400_000;

/// A device that comes and goes so often, from a moment on, in steps of so many milliseconds.
fn restless(clientid: &str, first: u64, from: i64, step: i64, events: u64) -> Vec<Event> {
    let time = |at: u64| from + step * i64::try_from(at).unwrap();
    let one = |at: u64| match at % 2 {
        0 => event(EventKind::ClientConnected, clientid, first + at, first + at, time(at), time(at)),
        _ => {
            let kind = EventKind::ClientDisconnected;
            event(kind, clientid, first + at, first + at - 1, time(at), time(at - 1))
        }
    };
    (0..events).map(one).collect()
}

#[test]
fn history_that_is_too_old_is_removed_once_a_day_and_a_clock_that_is_wrong_for_a_moment_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("muster.db");
    let at = |days: i64| (20_000 + days) * DAY_MS;
    let mut events = vec![
        event(EventKind::ClientConnected, "old", 1, 1, at(0), at(0)),
        event(EventKind::ClientDisconnected, "old", 2, 1, at(1), at(0)),
        event(EventKind::ClientConnected, "open", 3, 3, at(1), at(1)),
    ];
    events.extend(restless("new", 4, at(1), DAY_MS / 60, 150));
    // The clock shows 2099 while all come again, and then the time.
    events.extend(restless("strange", 200, at(27_000), 1, 1_000));
    events.extend(restless("new", 2_000, at(5), 1, 10));
    folded(&path, &events, &[7]);
    assert_eq!(present(&path, at(0) + 1, 0, 9).unwrap().count, 1, "nothing is forgotten");

    folded(&path, &restless("new", 3_000, at(HISTORY_DAYS_MAX + 3), DAY_MS / 60, 110), &[2]);
    assert_eq!(present(&path, at(0) + 1, 0, 9).unwrap().count, 0, "that is forgotten");
    assert_eq!(present(&path, at(2), 0, 9).unwrap().count, 1, "an open session is not");
    let (devices, _) = list(&path, &Wanted { limit: 9, ..Wanted::default() }).unwrap();
    assert_eq!(devices.len(), 4, "the device is still known");
}

/// A clock that shows one era after the other, each for as long as it likes.
fn eras() -> impl Strategy<Value = Vec<Event>> {
    let step = prop_oneof![Just(1i64), Just(DAY_MS / 80), Just(DAY_MS * 2)];
    prop::collection::vec((0usize..4, step, 1u64..150), 1..5).prop_map(|visits| {
        let (mut events, mut now) = (Vec::new(), 0);
        for (era, step, count) in visits {
            let first = events.len() as u64 + 1;
            let from = [19_000, 19_410, 20_000, 47_000][era] * DAY_MS + now;
            events.extend(restless(&format!("d{first}"), first, from, step, count));
            now += step * i64::try_from(count).unwrap();
        }
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is removed on the way, and however the events come in batches, the rows are the same.
    #[test]
    fn what_is_removed_follows_from_the_events_alone(
        events in eras(),
        batches in prop::collection::vec(1usize..200, 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one.db"), dir.path().join("other.db"));
        folded(&one, &events, &[1]);
        folded(&other, &events, &batches);
        prop_assert_eq!(dump(&one), dump(&other));
        Store::open(&other, 7).unwrap().forget().unwrap();
        folded(&other, &events, &[1_000]);
        prop_assert_eq!(dump(&one), dump(&other));
    }
}
