//! The journal over a real directory.

use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::event::{EventKind, EventKinds, proto};
use crate::log::RealDisk;

fn open(dir: &Path) -> Journal {
    Journal::open(LogConfig::new(dir), RealDisk::shared(), SystemClock::shared()).unwrap().0
}

fn event(kind: EventKind, n: u64) -> NewEvent {
    let message = proto::Message { payload: n.to_string().into(), ..Default::default() };
    let body = proto::Event { node: "n@h".into(), message: Some(message), ..Default::default() };
    NewEvent { timestamp_ms: i64::try_from(n).unwrap(), kind, topic: format!("t/{n}"), body }
}

async fn fill(journal: &Journal, kinds: &[EventKind]) {
    let mut last = 0;
    for (n, kind) in kinds.iter().enumerate() {
        last = journal.append(event(*kind, n as u64)).await.unwrap().offset;
    }
    journal.durable(last).await.unwrap();
}

async fn read_all(reader: &mut EventReader, until: u64) -> Vec<Arc<crate::event::Event>> {
    let mut events = Vec::new();
    while reader.position() < until {
        let before = reader.position();
        let batch = reader.next_batch().await.unwrap();
        assert!(batch.next_offset > before && batch.next_offset == reader.position());
        events.extend_from_slice(batch.events());
    }
    events
}

const PUBLISH: EventKind = EventKind::MessagePublish;
const CONNECTED: EventKind = EventKind::ClientConnected;

#[tokio::test]
async fn events_come_back_with_offset_and_id_from_memory_and_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH; 3000]).await;
    let from_memory = read_all(&mut journal.reader(0), 3000).await;
    assert_eq!(from_memory.len(), 3000);
    for (n, found) in from_memory.iter().enumerate() {
        assert_eq!(**found, event(PUBLISH, n as u64).at(journal.log_id(), n as u64));
    }
    journal.close().await.unwrap();

    let journal = open(dir.path());
    let from_disk = read_all(&mut journal.reader(0), 3000).await;
    assert_eq!(from_memory, from_disk);
}

#[tokio::test]
async fn readers_at_the_tail_share_events() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH; 10]).await;
    let first = read_all(&mut journal.reader(0), 10).await;
    let second = read_all(&mut journal.reader(4), 10).await;
    for (a, b) in first[4..].iter().zip(&second) {
        assert!(Arc::ptr_eq(a, b));
    }
}

#[tokio::test]
async fn a_reader_of_some_kinds_passes_over_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH, CONNECTED, PUBLISH, PUBLISH]).await;
    let mut reader = journal.reader(0).with_kinds(EventKinds::NONE.with(CONNECTED));
    let events = read_all(&mut reader, 4).await;
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_reader_of_some_topics_passes_over_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH, PUBLISH, CONNECTED, PUBLISH]).await;
    let selection: Selection = Arc::new(|kind, topic| kind == CONNECTED || topic == "t/1");
    let events = read_all(&mut journal.reader(0).with_selection(selection), 4).await;
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn an_unknown_kind_is_passed_over_and_a_body_that_is_none_is_an_error_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH]).await;
    let newer = NewRecord { kind: 63, body: "?".into(), ..Default::default() };
    journal.log().append(newer).await.unwrap();
    let broken = NewRecord { kind: PUBLISH.code(), body: vec![0xff; 9].into(), ..Default::default() };
    let last = journal.log().append(broken).await.unwrap();
    journal.durable(last).await.unwrap();
    fill(&journal, &[PUBLISH]).await;
    let mut reader = journal.reader(0);
    assert_eq!(read_all(&mut reader, 2).await.len(), 1);
    let error = reader.next_batch().await.unwrap_err();
    assert_eq!(error.kind(), crate::log::LogErrorKind::Event);
    reader.seek(3);
    assert_eq!(read_all(&mut reader, 4).await[0].offset, 3);
}

#[tokio::test]
async fn a_reader_at_the_end_wakes_when_something_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut reader = journal.reader(0);
    assert!(reader.try_next_batch().unwrap().is_none());
    let waits = tokio::spawn(async move { reader.next_batch().await });
    tokio::task::yield_now().await;
    fill(&journal, &[PUBLISH]).await;
    assert_eq!(waits.await.unwrap().unwrap().events().len(), 1);
}

#[tokio::test]
async fn a_reader_ends_when_the_journal_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    fill(&journal, &[PUBLISH]).await;
    let mut reader = journal.reader(0);
    journal.close().await.unwrap();
    assert_eq!(reader.next_batch().await.unwrap().events().len(), 1);
    assert_eq!(reader.next_batch().await.unwrap_err().kind(), crate::log::LogErrorKind::Closed);
}
