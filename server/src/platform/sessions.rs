//! The sessions that a crash left open: each gets its end before a listener opens, so that presence is true.

use muster_core::clock::Clock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{LogError, RecordRef};

use crate::presence::Device;

/// Why these sessions ended.
const REASON: &str = "server_restart";

/// How much of the log is read at a time in search of a sign of life.
const LOOK_OFFSETS_MAX: u64 = 8_192;

/// Appends `client.disconnected` for each of `open`, and waits until that is durable. `alive_ms` is the last moment
/// at which the log proves that the node was alive: when exactly the clients went, nobody saw.
pub(super) async fn close(
    journal: &Journal,
    node: &str,
    clock: &dyn Clock,
    open: Vec<Device>,
    alive_ms: i64,
) -> Result<usize, LogError> {
    let count = open.len();
    let mut last = None;
    for device in open {
        // No session is open yet, so that the next offset is larger than any `seq` of this client.
        let event = end_of(device, node, clock.wall_ms(), alive_ms, journal.next_offset());
        last = Some(journal.append(event).await?.offset);
    }
    if let Some(offset) = last {
        journal.durable(offset).await?;
    }
    Ok(count)
}

/// The last moment at which the log proves that the node was alive: the time of its newest record, those aside with
/// which a start ended the sessions of the run before it. That start may have been killed over it, long after. None
/// in a log without such a record.
pub(super) fn last_alive_ms(journal: &Journal) -> Result<Option<i64>, LogError> {
    let (first, mut end) = (journal.first_offset(), journal.durable_offset());
    let mut look = 1;
    while end > first {
        let from = end.saturating_sub(look).max(first);
        if let Some(at_ms) = newest_ms(journal, from, end)? {
            return Ok(Some(at_ms));
        }
        end = from;
        look = (look * 2).min(LOOK_OFFSETS_MAX);
    }
    Ok(None)
}

/// The time of the newest record in `from..end` with which no start ended a session.
fn newest_ms(journal: &Journal, from: u64, end: u64) -> Result<Option<i64>, LogError> {
    let mut reader = journal.log().reader(from);
    let mut newest = None;
    while reader.position() < end {
        let Some(batch) = reader.try_next_batch()? else { break };
        let records = batch.iter().filter(|record| record.offset() < end);
        newest = records.filter(|it| !is_end(journal, it)).last().map(|it| it.timestamp_ms()).or(newest);
    }
    Ok(newest)
}

/// Whether a start wrote this when it ended a session. What cannot be read was written by somebody who was alive.
fn is_end(journal: &Journal, it: &RecordRef<'_>) -> bool {
    if it.kind() != EventKind::ClientDisconnected.code() {
        return false;
    }
    let (log_id, offset, body) = (journal.log_id(), it.offset(), it.body_bytes());
    let event = Event::decode(log_id, offset, it.timestamp_ms(), it.kind(), it.topic(), body);
    matches!(event.map(|it| it.body.detail), Ok(Some(Detail::Disconnected(end))) if end.reason == REASON)
}

fn end_of(device: Device, node: &str, now_ms: i64, alive_ms: i64, seq: u64) -> NewEvent {
    let connected_at_ms = device.connected_at_ms.unwrap_or_default();
    let client = proto::Client {
        clientid: device.clientid,
        username: device.username,
        session: device.session,
        seq,
        peername: device.peername,
        sockname: device.sockname,
        proto_name: device.proto_name,
        proto_ver: device.proto_ver,
        attrs: device.attrs.into_iter().collect(),
        mountpoint: device.mountpoint,
    };
    let end = proto::Disconnection {
        reason: REASON.to_owned(),
        props: None,
        connected_at_ms,
        // A clock that was set back does not let a session end before it began.
        disconnected_at_ms: alive_ms.max(connected_at_ms),
    };
    let body = proto::Event {
        node: node.to_owned(),
        client: Some(client),
        detail: Some(Detail::Disconnected(end)),
        ..proto::Event::default()
    };
    NewEvent { timestamp_ms: now_ms, kind: EventKind::ClientDisconnected, topic: String::new(), body }
}

/// `node.started` and `node.stopped`.
pub(super) fn lifecycle(kind: EventKind, node: &str, reason: &str, now_ms: i64) -> NewEvent {
    let detail =
        proto::Lifecycle { version: env!("CARGO_PKG_VERSION").to_owned(), reason: reason.to_owned() };
    let body = proto::Event {
        node: node.to_owned(),
        detail: Some(Detail::Lifecycle(detail)),
        ..proto::Event::default()
    };
    NewEvent { timestamp_ms: now_ms, kind, topic: String::new(), body }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::event::Column;
    use muster_core::log::{LogConfig, RealDisk};

    use super::*;
    use crate::presence::fold;

    #[tokio::test]
    async fn an_open_session_ends_when_the_log_last_saw_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(9_000);
        let (journal, _) =
            Journal::open(LogConfig::new(dir.path()), RealDisk::shared(), clock.clone()).expect("a journal");
        assert_eq!(last_alive_ms(&journal).expect("read"), None);
        for at in [1_000, 5_000] {
            let event = lifecycle(EventKind::NodeStarted, "n", "", at);
            let offset = journal.append(event).await.expect("append").offset;
            journal.durable(offset).await.expect("durable");
        }
        assert_eq!(last_alive_ms(&journal).expect("read"), Some(5_000));

        let open = |clientid: &str, connected_at_ms| Device {
            clientid: clientid.to_owned(),
            online: true,
            session: 1,
            seq: 1,
            connected_at_ms: Some(connected_at_ms),
            ..Device::default()
        };
        let devices = vec![open("a", 2_000), open("b", 6_000)];
        assert_eq!(close(&journal, "n", &*clock, devices.clone(), 5_000).await.expect("close"), 2);
        let batch = journal.reader(2).next_batch().await.expect("read");
        let ends: Vec<_> = batch
            .events()
            .iter()
            .map(|event| {
                let column = |column| event.get(column).to_json();
                [C::Clientid, C::Reason, C::DisconnectedAt, C::Timestamp, C::Session, C::Seq]
                    .map(column)
                    .join(" ")
            })
            .collect();
        assert_eq!(ends, [r#""a" "server_restart" 5000 9000 1 2"#, r#""b" "server_restart" 6000 9000 1 3"#]);
        for (device, event) in devices.iter().zip(batch.events()) {
            assert!(fold(Some(device), event).is_some_and(|device| !device.online));
        }

        // This start is killed over it: the next one knows as well as it did when the others went.
        assert_eq!(last_alive_ms(&journal).expect("read"), Some(5_000));
        let many = (0..20_000).map(|at| open(&format!("c{at}"), 2_000)).collect();
        assert_eq!(close(&journal, "n", &*clock, many, 5_000).await.expect("close"), 20_000);
        assert_eq!(last_alive_ms(&journal).expect("read"), Some(5_000));
        let event = lifecycle(EventKind::NodeStarted, "n", "", 9_500);
        let offset = journal.append(event).await.expect("append").offset;
        journal.durable(offset).await.expect("durable");
        assert_eq!(last_alive_ms(&journal).expect("read"), Some(9_500));
    }

    use Column as C;
}
