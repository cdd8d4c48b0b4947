//! What clients are told when events cannot be written: nothing is acknowledged that is not durable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use muster_broker::Limits;
use muster_core::event::EventKind;
use muster_core::log::{Access, Disk, DiskFile, DiskLock, FileEntry, RealDisk};
use support::{Client, Connect, Harness};

const WELL: u8 = 0;
const FULL: u8 = 1;
const BROKEN: u8 = 2;

/// The real disk, until it is told to be full or broken.
#[derive(Clone)]
struct MoodyDisk {
    inner: Arc<dyn Disk>,
    mood: Arc<AtomicU8>,
}

struct MoodyFile {
    inner: Arc<dyn DiskFile>,
    mood: Arc<AtomicU8>,
}

impl MoodyDisk {
    fn new() -> Self {
        Self { inner: RealDisk::shared(), mood: Arc::default() }
    }

    fn set(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    fn wrap(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(MoodyFile { inner, mood: Arc::clone(&self.mood) })
    }
}

impl Disk for MoodyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        self.inner.list(dir)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.inner.open(path, access)?))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.inner.create(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.inner.try_lock(path)
    }
}

impl MoodyFile {
    fn check(&self) -> io::Result<()> {
        match self.mood.load(Ordering::SeqCst) {
            FULL => Err(io::ErrorKind::StorageFull.into()),
            BROKEN => Err(io::Error::other("input/output error")),
            _ => Ok(()),
        }
    }
}

impl DiskFile for MoodyFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.check()?;
        self.inner.write_all_at(bytes, at)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.inner.sync_data()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

async fn start(disk: &MoodyDisk) -> Harness {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    Harness::on_disk(dir, Arc::new(disk.clone()), Limits::default(), |_| {}).await
}

#[tokio::test]
async fn a_full_disk_refuses_publishes_and_keeps_sessions() {
    let disk = MoodyDisk::new();
    let harness = start(&disk).await;
    let mut v5 = harness.v5("v5").await;
    let mut v4 = harness.v4("v4").await;
    assert_eq!(v5.publish1(1, "t", "before").await, 0x10);
    v4.publish1(1, "t", "before").await;
    disk.set(FULL);
    // MQTT 5 is told so, in whichever stage the log notices; each publish once.
    for pkid in 2..5 {
        assert_eq!(v5.publish1(pkid, "t", "full").await, 0x97);
        v5.publish_with(0b100, pkid + 100, "t", &[], b"full").await;
        assert_eq!(v5.ack(0x50, pkid + 100).await, 0x97);
    }
    // MQTT 3.1.1 is not answered, and stays connected.
    v4.publish_with(0b010, 2, "t", &[], b"full").await;
    v4.quiet().await;
    // Nobody new is let in: it could not be recorded that they came.
    assert_eq!(Client::open(harness.addr(), Connect::v5("late")).await.code(), 0x97);
    assert_eq!(Client::open(harness.addr(), Connect::v4("late")).await.code(), 3);
    disk.set(WELL);
    harness.journal.log().writable().await.unwrap();
    assert_eq!(v5.publish1(200, "t", "after").await, 0x10);
    v4.publish1(3, "t", "after").await;
    v5.quiet().await;
    let after = harness.events().await;
    let count =
        after.iter().filter(|it| it.kind == EventKind::MessagePublish && it.payload() == "after").count();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn who_goes_while_the_disk_is_full_is_recorded_when_there_is_room() {
    let disk = MoodyDisk::new();
    let harness = start(&disk).await;
    let mut v5 = harness.v5("v5").await;
    let leaver = harness.v4("leaver").await;
    // A sync that is under way would fail, and that is another story.
    harness.journal.durable(harness.journal.next_offset() - 1).await.unwrap();
    disk.set(FULL);
    assert_eq!(v5.publish1(1, "t", "full").await, 0x97);
    leaver.disconnect().await;
    v5.quiet().await;
    disk.set(WELL);
    assert_eq!(harness.disconnected("leaver").await, "normal");
}

#[tokio::test]
async fn who_comes_back_while_the_disk_is_full_loses_no_session() {
    let disk = MoodyDisk::new();
    let harness = start(&disk).await;
    let kept = || Connect::v5("kept").resume().expiry(3_600);
    let mut client = Client::connected(harness.addr(), kept()).await;
    client.subscribe(1, &[("t", 1)]).await;
    drop(client);
    assert_eq!(harness.disconnected("kept").await, "tcp_closed");
    let mut publisher = harness.v5("p").await;
    publisher.publish1(1, "t", "owed").await;
    harness.journal.durable(harness.journal.next_offset() - 1).await.unwrap();
    disk.set(FULL);
    assert_eq!(publisher.publish1(2, "t", "full").await, 0x97);
    for _ in 0..3 {
        assert_eq!(Client::open(harness.addr(), kept()).await.code(), 0x97);
    }
    disk.set(WELL);
    harness.journal.log().writable().await.unwrap();
    let mut back = Client::connected(harness.addr(), kept()).await;
    assert!(back.session_present());
    assert_eq!(back.message().await.text(), "owed");
}

#[tokio::test]
async fn a_broken_disk_acknowledges_nothing() {
    let disk = MoodyDisk::new();
    let harness = start(&disk).await;
    let mut v5 = harness.v5("v5").await;
    let mut v4 = harness.v4("v4").await;
    disk.set(BROKEN);
    for client in [&mut v5, &mut v4] {
        for pkid in 1..4 {
            client.publish_with(0b010, pkid, "t", &[], b"lost").await;
            client.publish_with(0b100, pkid + 10, "t", &[], b"lost").await;
        }
        client.quiet().await;
    }
    let last = harness.journal.next_offset() - 1;
    assert!(harness.journal.durable(last).await.is_err());
    v5.quiet().await;
    v4.quiet().await;
    assert_eq!(Client::open(harness.addr(), Connect::v5("late")).await.code(), 0x88);
    assert_eq!(harness.broker.stats().counters.messages_acked, 0);
}
