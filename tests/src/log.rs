//! An event log, read whole: what a test holds the rest against.

use std::path::Path;
use std::sync::Arc;

use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind};
use muster_core::journal::Journal;
use muster_core::log::{Follower, LogConfig, OpenReport, RealDisk};

/// Everything that is in a log.
#[derive(Debug)]
pub struct LogContents {
    /// What was found when it was opened.
    pub report: OpenReport,
    /// All events, oldest first.
    pub events: Vec<Arc<Event>>,
}

impl LogContents {
    /// Reads a copy of the log in `folder`.
    ///
    /// # Panics
    /// When it is damaged.
    pub async fn copy_of(folder: &Path) -> Self {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(folder).expect("the log's folder") {
            let entry = entry.expect("a file");
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
        }
        let config = LogConfig::new(copy.path());
        let opened = Journal::open(config, Arc::new(RealDisk), SystemClock::shared());
        let (journal, report) = opened.expect("the log is in order");
        let mut reader = journal.reader(journal.first_offset());
        let mut events = Vec::new();
        while let Some(batch) = reader.try_next_batch().expect("events") {
            events.extend_from_slice(batch.events());
        }
        assert_eq!(reader.position(), journal.next_offset(), "the reader saw everything");
        journal.close().await.expect("a log that can be closed");
        Self { report, events }
    }

    /// Reads the log in `folder` while a Muster may be writing to it.
    ///
    /// # Panics
    /// When it is damaged.
    pub fn of_running(folder: &Path) -> Self {
        let opened = Follower::open(folder, RealDisk::shared(), SystemClock::shared());
        let (follower, report) = opened.expect("the log is in order");
        let journal = Journal::over(follower.log().clone());
        let mut reader = journal.reader(journal.first_offset());
        let mut events = Vec::new();
        while let Some(batch) = reader.try_next_batch().expect("events") {
            events.extend_from_slice(batch.events());
        }
        Self { report, events }
    }

    /// The events of one kind.
    pub fn of(&self, kind: EventKind) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|event| &**event).filter(move |event| event.kind == kind)
    }

    /// Topic and payload of each publish.
    pub fn publishes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.of(EventKind::MessagePublish).map(|event| {
            let payload = event.body.message.as_ref().map_or(&[][..], |message| &message.payload);
            (event.topic.as_str(), payload)
        })
    }
}
