//! Disks that really are full: a small tmpfs where the machine allows to mount one, and the limit on the size of a
//! file (`RLIMIT_FSIZE`) everywhere. Appends are refused, nothing that was acknowledged is lost, and the log goes on by
//! itself when there is room again. A disk that fails is told of in one sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use muster_core::clock::{ManualClock, SystemClock};
use muster_core::log::{Log, LogConfig, LogErrorKind, NewRecord, RealDisk};
use support::now;
use support::sim_disk::{Faults, SimDisk};

const DIR: &str = "MUSTER_FULL_TEST_DIR";

fn open(dir: &Path) -> Log {
    let config = LogConfig { segment_bytes_max: 16 * 1024 * 1024, ..LogConfig::new(dir) };
    Log::open(config, RealDisk::shared(), SystemClock::shared()).unwrap().0
}

fn record(n: u64) -> NewRecord {
    NewRecord { timestamp_ms: 1, kind: 1, topic: "full".into(), body: format!("{n:01000}").into() }
}

/// Appends until there is no room, calls `make_room`, appends on; the log must hold all that was acknowledged.
async fn fill_and_go_on(dir: &Path, make_room: impl AsyncFnOnce()) {
    let log = open(dir);
    let mut next = 0;
    let refused = loop {
        let offset = log.append(record(next)).await.unwrap();
        assert_eq!(offset, next);
        next += 1;
        assert!(next < 100_000, "the disk never fills");
        if let Err(error) = log.durable(offset).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), LogErrorKind::DiskFull, "{refused}");
    assert_eq!(log.append(record(next)).await.unwrap_err().kind(), LogErrorKind::DiskFull);
    assert_eq!(log.durable_offset(), next - 1, "what was acknowledged stays, what was not is not shown");
    assert_holds(&log, next - 1);

    let writable = tokio::spawn({
        let log = log.clone();
        async move { log.writable().await }
    });
    make_room().await;
    writable.await.unwrap().unwrap();
    log.durable(next - 1).await.expect("what was refused an acknowledgement is written after all");
    for n in next..next + 50 {
        let offset = log.append(record(n)).await.unwrap();
        assert_eq!(offset, n, "no gap");
        log.durable(offset).await.unwrap();
    }
    log.close().await.unwrap();
    assert_holds(&open(dir), next + 50);
}

fn assert_holds(log: &Log, end: u64) {
    let mut reader = log.reader(0);
    let mut at = 0;
    while let Some(batch) = reader.try_next_batch().unwrap() {
        for found in batch.iter() {
            assert_eq!((found.offset(), found.body()), (at, &*record(at).body));
            at += 1;
        }
    }
    assert_eq!(at, end);
}

/// A mounted tmpfs of one megabyte; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "muster-test"]).arg(at);
        let done = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        done.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().unwrap();
    }
}

#[tokio::test]
async fn a_small_filesystem_that_fills_up() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path()) else {
        eprintln!("skipped: this machine does not allow to mount a tmpfs");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 300_000]).unwrap();
    fill_and_go_on(&disk.0.join("log"), async || std::fs::remove_file(&ballast).unwrap()).await;
}

/// The process whose files may not grow beyond 256 KiB, until it raises its limit.
#[tokio::test]
#[ignore = "only as a child of the test below"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    fill_and_go_on(dir.as_ref(), async || {
        let pid = std::process::id().to_string();
        let raised = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &pid]).status();
        assert!(raised.unwrap().success());
    })
    .await;
}

#[test]
fn a_limit_on_the_size_of_files() {
    if Command::new("prlimit").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no prlimit");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    // The signal that comes with the limit would end the process.
    let script = "trap '' XFSZ; ulimit -S -f 512; exec \"$0\" child --exact --ignored --nocapture";
    let output = Command::new("sh").args(["-c", script]).arg(test).env(DIR, dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn a_sync_that_fails_is_told_in_one_sentence_with_its_cause() {
    let disk = SimDisk::new(1);
    let config = LogConfig::new("/sim");
    let (log, mut writer, _) = Log::open_stepwise(config, disk.shared(), ManualClock::at(0)).unwrap();
    let offset = log.try_append(&record(0)).unwrap();
    disk.set_faults(Faults { sync_in: Some(0), ..Faults::default() });
    assert!(writer.step());
    let waited = now(log.durable(offset)).unwrap().unwrap_err();
    for error in [waited, log.check().unwrap_err(), log.try_append(&record(1)).unwrap_err()] {
        let expected = "the log takes nothing more until muster is started again on a sound disk, \
                        because it could not sync /sim/00000000000000000000.seg";
        assert_eq!((error.kind(), error.to_string().as_str()), (LogErrorKind::ReadOnly, expected));
        let cause = error.source().expect("what the system said").to_string();
        assert!(cause.contains("os error 5"), "{cause}");
    }
}
