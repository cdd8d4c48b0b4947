//! The fold itself: a device and an event in, a device out. Pure, so that it can be tested against any order of
//! events. It must never know where devices are kept.

use std::collections::BTreeMap;

use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Client, Connection, Disconnection};
use muster_core::event::{Event, EventKind, EventKinds};

/// The events that the fold looks at.
pub const KINDS: EventKinds =
    EventKinds::NONE.with(EventKind::ClientConnected).with(EventKind::ClientDisconnected);

/// What is known of a device: the row of the table `devices`, whose columns have the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its client id.
    pub clientid: String,
    /// Whether it is connected.
    pub online: bool,
    /// Since when `online` holds, milliseconds since 1970.
    pub since_ms: i64,
    /// The last sign of presence: when it came or, if it is gone, when it went.
    pub last_seen_ms: i64,
    /// Why it went the last time.
    pub reason: Option<String>,
    /// When it came the last time.
    pub connected_at_ms: Option<i64>,
    /// When it went the last time.
    pub disconnected_at_ms: Option<i64>,
    /// Its latest session.
    pub session: u64,
    /// The latest event that counted.
    pub seq: u64,
    /// How often it came.
    pub connects: u64,
    /// How often it went.
    pub disconnects: u64,
    /// The user name of the latest session.
    pub username: Option<String>,
    /// The address from which it came.
    pub peername: String,
    /// The address that it reached.
    pub sockname: String,
    /// The protocol's name.
    pub proto_name: String,
    /// The protocol's version.
    pub proto_ver: u32,
    /// Keep-alive in seconds.
    pub keepalive_seconds: u32,
    /// Whether it asked for a clean session.
    pub clean_start: bool,
    /// How long its session is kept, in seconds.
    pub expiry_interval_seconds: u64,
    /// Where its topics hang, if anywhere.
    pub mountpoint: Option<String>,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
    /// Its number, in the order in which devices were first seen; 0 before it is stored.
    pub number: u64,
    /// The longest time that it was away between two sessions, in milliseconds.
    pub longest_outage_ms: i64,
    /// Until when it counts as flapping; 0 if it never did.
    pub flapping_until_ms: i64,
    /// When it went the last times, oldest first; as many as make it flapping.
    pub went_ms: Vec<i64>,
}

/// So many ends within [`FLAPPING_WINDOW_MS`] make a device flapping.
pub const FLAPPING_DISCONNECTS: usize = 5;

/// The window for [`FLAPPING_DISCONNECTS`], and how long a device counts as flapping after the last of them.
pub const FLAPPING_WINDOW_MS: i64 = 600_000;

/// The device after the event; none when the event changes nothing: it is of another kind, was seen before, or is
/// overtaken by a newer one. Events of one client carry a growing `seq`, and what is not newer than the device's own
/// is never looked at again: that is the guard that no late or repeated write gets past.
pub fn fold(known: Option<&Device>, event: &Event) -> Option<Device> {
    let client = event.body.client.as_ref()?;
    if known.is_some_and(|device| client.seq <= device.seq || client.session < device.session) {
        return None;
    }
    match (event.kind, &event.body.detail) {
        (EventKind::ClientConnected, Some(Detail::Connected(it))) => came(known, event, client, it),
        (EventKind::ClientDisconnected, Some(Detail::Disconnected(it))) => went(known, event, client, it),
        _ => None,
    }
}

fn came(known: Option<&Device>, event: &Event, client: &Client, it: &Connection) -> Option<Device> {
    // A session begins once.
    if known.is_some_and(|device| device.session == client.session) {
        return None;
    }
    let at = if it.connected_at_ms > 0 { it.connected_at_ms } else { event.timestamp_ms };
    let mut device = known.cloned().unwrap_or_default();
    about(&mut device, client);
    let gone_ms = known.filter(|it| !it.online).and_then(|it| it.disconnected_at_ms);
    let outage_ms = gone_ms.map_or(0, |gone_ms| at.saturating_sub(gone_ms));
    device.longest_outage_ms = device.longest_outage_ms.max(outage_ms);
    device.online = true;
    device.since_ms = at;
    device.last_seen_ms = at;
    device.connected_at_ms = Some(at);
    device.connects += 1;
    device.keepalive_seconds = it.keepalive_seconds;
    device.clean_start = it.clean_start;
    device.expiry_interval_seconds = it.expiry_interval_seconds;
    Some(device)
}

fn went(known: Option<&Device>, event: &Event, client: &Client, it: &Disconnection) -> Option<Device> {
    // A session ends once. One whose beginning is not known (retention may have taken it) may still end.
    if known.is_some_and(|device| device.session == client.session && !device.online) {
        return None;
    }
    let at = if it.disconnected_at_ms > 0 { it.disconnected_at_ms } else { event.timestamp_ms };
    let mut device = known.cloned().unwrap_or_default();
    about(&mut device, client);
    device.online = false;
    device.since_ms = at;
    device.last_seen_ms = at;
    device.disconnected_at_ms = Some(at);
    device.connected_at_ms =
        (it.connected_at_ms > 0).then_some(it.connected_at_ms).or(device.connected_at_ms);
    device.disconnects += 1;
    device.reason = Some(it.reason.clone());
    device.went_ms.push(at);
    let surplus = device.went_ms.len().saturating_sub(FLAPPING_DISCONNECTS);
    device.went_ms.drain(..surplus);
    if is_flapping(&device.went_ms) {
        device.flapping_until_ms = at.saturating_add(FLAPPING_WINDOW_MS);
    }
    Some(device)
}

/// Whether these are ends enough within the window, in whatever order: a clock may have been stepped between them.
fn is_flapping(went_ms: &[i64]) -> bool {
    let (Some(first), Some(last)) = (went_ms.iter().min(), went_ms.iter().max()) else { return false };
    went_ms.len() == FLAPPING_DISCONNECTS && last.saturating_sub(*first) <= FLAPPING_WINDOW_MS
}

fn about(device: &mut Device, client: &Client) {
    device.clientid.clone_from(&client.clientid);
    device.session = client.session;
    device.seq = client.seq;
    device.username.clone_from(&client.username);
    device.peername.clone_from(&client.peername);
    device.sockname.clone_from(&client.sockname);
    device.proto_name.clone_from(&client.proto_name);
    device.proto_ver = client.proto_ver;
    device.mountpoint.clone_from(&client.mountpoint);
    device.attrs = client.attrs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
}

#[cfg(test)]
pub(super) mod tests {
    use muster_core::event::{NewEvent, proto};
    use proptest::prelude::*;

    use super::*;

    pub(in crate::presence) fn connected(clientid: &str, offset: u64, session: u64, seq: u64) -> Event {
        let detail = Detail::Connected(Connection {
            connected_at_ms: 1_000 + i64::try_from(seq).expect("small"),
            keepalive_seconds: 60,
            ..Connection::default()
        });
        event(EventKind::ClientConnected, clientid, offset, session, seq, detail)
    }

    pub(in crate::presence) fn disconnected(
        clientid: &str,
        offset: u64,
        session: u64,
        seq: u64,
        reason: &str,
    ) -> Event {
        let detail = Detail::Disconnected(Disconnection {
            reason: reason.to_owned(),
            disconnected_at_ms: 1_000 + i64::try_from(seq).expect("small"),
            ..Disconnection::default()
        });
        event(EventKind::ClientDisconnected, clientid, offset, session, seq, detail)
    }

    fn event(kind: EventKind, clientid: &str, offset: u64, session: u64, seq: u64, detail: Detail) -> Event {
        let client = Client {
            clientid: clientid.to_owned(),
            username: Some("u".to_owned()),
            session,
            seq,
            peername: "127.0.0.1:5000".to_owned(),
            proto_name: "MQTT".to_owned(),
            proto_ver: 5,
            ..Client::default()
        };
        let body = proto::Event {
            node: "n".to_owned(),
            client: Some(client),
            detail: Some(detail),
            ..proto::Event::default()
        };
        let timestamp_ms = 1_000 + i64::try_from(seq).expect("small");
        NewEvent { timestamp_ms, kind, topic: String::new(), body }.at(7, offset)
    }

    fn fold_all<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Device> {
        events.into_iter().fold(None, |known, event| fold(known.as_ref(), event).or(known))
    }

    #[test]
    fn a_device_comes_and_goes() {
        let came = fold_all(&[connected("d", 10, 10, 10)]).expect("a device");
        assert!(came.online);
        assert_eq!((came.connects, came.disconnects, came.since_ms), (1, 0, 1_010));
        let gone = fold(Some(&came), &disconnected("d", 12, 10, 12, "tcp_closed")).expect("a change");
        assert!(!gone.online);
        assert_eq!(gone.reason.as_deref(), Some("tcp_closed"));
        assert_eq!((gone.connected_at_ms, gone.disconnected_at_ms), (Some(1_010), Some(1_012)));
        assert_eq!((gone.connects, gone.disconnects, gone.last_seen_ms), (1, 1, 1_012));
    }

    #[test]
    fn the_end_of_an_old_session_does_not_end_the_new_one() {
        let now = fold_all(&[connected("d", 10, 10, 10), connected("d", 20, 20, 20)]).expect("a device");
        assert_eq!(fold(Some(&now), &disconnected("d", 30, 10, 30, "takenover")), None);
    }

    #[test]
    fn ends_on_both_sides_of_a_step_of_the_clock_are_not_close() {
        let minutes = |all: &[i64]| all.iter().map(|it| it * 60_000).collect::<Vec<_>>();
        assert!(is_flapping(&minutes(&[100, 102, 104, 106, 110])));
        assert!(is_flapping(&minutes(&[100, 102, 96, 97, 98])), "a small step changes nothing");
        assert!(!is_flapping(&minutes(&[100, 102, 104, 106, 111])));
        assert!(!is_flapping(&minutes(&[100, 220, 340, 460, 5])), "they took hours");
        assert!(!is_flapping(&minutes(&[100, 101, 102, 103])));
        assert!(!is_flapping(&[]));
    }

    #[test]
    fn a_restart_ends_the_session_that_was_open() {
        let open = fold_all(&[connected("d", 10, 10, 10)]).expect("a device");
        let gone = fold(Some(&open), &disconnected("d", 99, 10, 99, "server_restart")).expect("a change");
        assert!(!gone.online);
        assert_eq!((gone.session, gone.seq), (10, 99));
    }

    #[test]
    fn an_end_whose_beginning_is_forgotten_still_makes_a_row() {
        let gone = fold_all(&[disconnected("d", 12, 10, 12, "normal")]).expect("a device");
        assert!(!gone.online);
        assert_eq!((gone.connects, gone.disconnects), (0, 1));
    }

    /// The true history of one client: sessions in order, each with a beginning and, but for the last, an end.
    fn history() -> impl Strategy<Value = Vec<Event>> {
        (prop::collection::vec((1u64..5, 1u64..5), 1..8), any::<bool>()).prop_map(|(sessions, last_open)| {
            let mut events = Vec::new();
            let mut offset = 0;
            let count = sessions.len();
            for (at, (pause, length)) in sessions.into_iter().enumerate() {
                offset += pause;
                let session = offset;
                events.push(connected("d", offset, session, session));
                offset += length;
                if at + 1 < count || !last_open {
                    events.push(disconnected("d", offset, session, offset, "normal"));
                }
            }
            events
        })
    }

    proptest! {
        /// In order, every event counts, and states alternate.
        #[test]
        fn states_alternate(events in history()) {
            let mut device: Option<Device> = None;
            for event in &events {
                let next = fold(device.as_ref(), event);
                prop_assert!(next.is_some(), "{:?} was ignored", event.kind);
                let next = next.expect("just checked");
                prop_assert_ne!(next.online, device.as_ref().is_some_and(|device| device.online));
                prop_assert_eq!(next.connects - next.disconnects, u64::from(next.online));
                device = Some(next);
            }
        }

        /// Whatever is repeated or comes late, wherever: the device ends as the newest event left it, and on the way
        /// its `seq` never goes back.
        #[test]
        fn nothing_late_or_repeated_turns_a_device_back(
            events in history(),
            again in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let straight = fold_all(&events).expect("at least one event");
            let mut noisy = events.clone();
            for (what, to) in &again {
                let repeated = what.get(&events).clone();
                // Late means after its own place: what is repeated there has been seen already.
                let own = noisy.iter().position(|event| event.offset == repeated.offset).unwrap_or_default();
                let place = own + 1 + to.index(noisy.len() - own);
                noisy.insert(place, repeated);
            }
            let mut seq = 0;
            let mut device: Option<Device> = None;
            for event in &noisy {
                if let Some(next) = fold(device.as_ref(), event) {
                    prop_assert!(next.seq > seq);
                    seq = next.seq;
                    device = Some(next);
                }
            }
            prop_assert_eq!(device.expect("a device"), straight);
        }

        /// In any order at all: what the newest event says about state, session and reason stands.
        #[test]
        fn in_any_order_the_newest_event_decides(
            events in history().prop_flat_map(|events| Just(events).prop_shuffle()),
        ) {
            let newest = events.iter().max_by_key(|event| event.seq()).expect("at least one event");
            let device = fold_all(&events).expect("a device");
            prop_assert_eq!(device.seq, newest.seq());
            prop_assert_eq!(device.session, newest.session());
            prop_assert_eq!(device.online, newest.kind == EventKind::ClientConnected);
        }
    }
}
