//! The log against a plain list, over a disk that tears, shortens, reorders, forgets, fills up and fails.
//!
//! `MUSTER_CASES=1000000` runs more cases, `MUSTER_SEED=7` the one that failed. A failing case prints its seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "model/damage.rs"]
mod damage;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::clock::ManualClock;
use muster_core::log::{
    Compress, Durability, Log, LogConfig, LogError, LogErrorKind, NewRecord, OpenReport, Packer, Record,
    Retention, WhenFull, Writer,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use support::sim_disk::{Faults, SimDisk};
use support::{env_number, now};

const CASES: u64 = 20_000;

#[test]
fn the_log_holds_what_it_acknowledged_whatever_the_disk_does() {
    if let Some(seed) = env_number("MUSTER_SEED") {
        Case::new(seed).run();
        return;
    }
    let cases = env_number("MUSTER_CASES").unwrap_or(CASES);
    let next = AtomicU64::new(0);
    let [from_index, compressed] = [AtomicU64::new(0), AtomicU64::new(0)];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= cases {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| Case::new(seed).run())) {
                        Ok(case) => {
                            from_index.fetch_add(case.from_index, Ordering::Relaxed);
                            compressed.fetch_add(case.compressed, Ordering::Relaxed);
                        }
                        Err(panic) => {
                            eprintln!("SEED={seed}: run again with MUSTER_SEED={seed}");
                            next.store(cases, Ordering::Relaxed);
                            std::panic::resume_unwind(panic);
                        }
                    };
                }
            });
        }
    });
    let (from_index, compressed) = (from_index.into_inner(), compressed.into_inner());
    assert!(compressed * 4 > cases, "{compressed} times segments were compressed");
    assert!(from_index * 4 > cases, "{from_index} logs were opened from an index of what had grown");
}

/// One history of one log.
struct Case {
    rng: SmallRng,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    config: LogConfig,
    open: Option<(Log, Writer)>,
    packer: Option<Packer>,
    /// All that was appended, by offset.
    model: Vec<NewRecord>,
    /// The first that retention has left.
    first: usize,
    /// How many of them were acknowledged.
    acked: usize,
    /// How many of them survive the loss of power.
    synced: usize,
    is_full: bool,
    /// Since the log was opened nothing kept it from writing an index.
    is_calm: bool,
    /// How often the scan of the last segment began at its index.
    from_index: u64,
    /// How often segments were compressed.
    compressed: u64,
    trace: bool,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let durability = match rng.random_range(0..6) {
            0 => Durability::Os,
            1 => Durability::Interval(Duration::from_millis(5)),
            _ => Durability::Always,
        };
        let config = LogConfig {
            durability,
            segment_bytes_max: rng.random_range(4096..9000),
            record_bytes_max: 2000,
            queue_bytes_max: 6000,
            tail_bytes_max: if rng.random() { 0 } else { 2000 },
            index_every_bytes: rng.random_range(1..4000),
            index_point_bytes: rng.random_range(1..1500),
            new_log_id: Some(rng.random()),
            ..LogConfig::new("/sim")
        };
        Self {
            disk: SimDisk::new(rng.random()),
            clock: ManualClock::at(1_000_000),
            rng,
            config,
            open: None,
            packer: None,
            model: Vec::new(),
            first: 0,
            acked: 0,
            synced: 0,
            is_full: false,
            is_calm: false,
            from_index: 0,
            compressed: 0,
            trace: env_number("MUSTER_SEED").is_some(),
        }
    }

    fn run(mut self) -> Self {
        self.reopen();
        for _ in 0..self.rng.random_range(5..60) {
            let op = self.rng.random_range(0..100);
            match op {
                0..40 => self.append(),
                40..60 => self.step(),
                60..66 => self.compress(),
                66..75 => self.read(),
                75..80 => self.stop(Stop::Crash),
                80..84 => self.stop(Stop::Kill),
                84..88 => self.stop(Stop::Close),
                88..90 => self.fill_disk(),
                90..92 => self.fail_io(),
                92..94 => self.crash_within(),
                94..96 => self.corrupt(),
                96 => self.lose_index(),
                97 => self.mix_index(),
                98 => self.retain(),
                _ => self.clock.advance(Duration::from_millis(3)),
            }
        }
        self.stop(Stop::Crash);
        self.step();
        self.read();
        self
    }

    fn say(&self, what: impl std::fmt::Display) {
        if self.trace {
            eprintln!("{what}");
        }
    }

    fn log(&self) -> &Log {
        &self.open.as_ref().unwrap().0
    }

    fn append(&mut self) {
        for _ in 0..self.rng.random_range(1..6) {
            let size = if self.rng.random_range(0..10) == 0 { 1500 } else { 120 };
            let length = self.rng.random_range(0..size);
            let body = if self.rng.random_range(0..4) == 0 {
                (0..length).map(|_| self.rng.random()).collect()
            } else {
                vec![self.rng.random(); length].into()
            };
            let record = NewRecord {
                timestamp_ms: self.rng.random_range(0..1000),
                kind: self.rng.random(),
                topic: vec![b't'; self.rng.random_range(0..20)].into(),
                body,
            };
            match self.log().try_append(&record) {
                Ok(offset) => {
                    assert_eq!(offset, self.model.len() as u64, "offsets are dense and in order");
                    self.model.push(record);
                }
                Err(error) => assert_eq!(error.kind(), LogErrorKind::QueueFull),
            }
        }
        self.say(format_args!("appended up to {}", self.model.len()));
    }

    fn step(&mut self) {
        let (log, writer) = self.open.as_mut().unwrap();
        while writer.step() {
            if log.check().is_err() {
                break;
            }
        }
        self.note_durable();
    }

    /// Takes over what the log says is durable, and holds its answers to it.
    fn note_durable(&mut self) {
        let durable = usize::try_from(self.log().durable_offset()).unwrap();
        assert!(durable >= self.acked && durable <= self.model.len());
        self.acked = durable;
        let first = usize::try_from(self.log().first_offset()).unwrap();
        assert!(first >= self.first && first <= durable);
        self.first = first;
        if self.config.durability == Durability::Always {
            self.synced = durable;
        }
        if let Some(last) = durable.checked_sub(1) {
            assert!(matches!(now(self.log().durable(last as u64)), Some(Ok(()))));
        }
        if durable < self.model.len() {
            let answer = now(self.log().durable(durable as u64));
            assert!(!matches!(answer, Some(Ok(()))), "acknowledged what is not durable");
            assert_eq!(answer.is_some(), self.log().check().is_err(), "waiters are told");
        }
        self.say(format_args!("durable up to {durable}, synced {}", self.synced));
    }

    /// Reads from somewhere, or from the beginning, to the end of what is acknowledged.
    fn read(&mut self) {
        let from =
            if self.rng.random() { self.first } else { self.rng.random_range(self.first..=self.acked) };
        self.expect_records(from, self.acked);
        let ms = self.rng.random_range(-1..1001);
        let kept = &self.model[self.first..self.acked];
        let later = kept.iter().position(|record| record.timestamp_ms >= ms);
        let expected = later.map_or(self.acked, |at| self.first + at) as u64;
        assert_eq!(self.log().offset_at_time(ms).unwrap(), expected, "by time {ms}");
    }

    fn expect_records(&self, from: usize, to: usize) {
        let mut reader = self.log().reader(from as u64);
        let mut at = from;
        while let Some(batch) = reader.try_next_batch().unwrap() {
            assert_eq!(batch.first_offset(), at as u64);
            for record in batch.iter() {
                assert_same(&record.to_record(), &self.model[at], at);
                at += 1;
            }
            assert_eq!(batch.next_offset(), at as u64);
        }
        assert_eq!(at, to, "a reader sees all that is acknowledged and no more");
    }

    fn stop(&mut self, how: Stop) {
        self.say(format_args!("{how:?}"));
        let is_bounded =
            self.is_calm && matches!(how, Stop::Kill) && self.config.durability == Durability::Always;
        let (log, mut writer) = self.open.take().unwrap();
        match how {
            Stop::Close => {
                writer.finish();
                let end = usize::try_from(log.durable_offset()).unwrap();
                let failed = log.stats().refuses == Some(LogErrorKind::ReadOnly);
                assert!(end == self.model.len() || failed || self.is_full);
                self.acked = end;
                if !failed && (end == self.model.len() || self.config.durability == Durability::Always) {
                    self.synced = end;
                }
            }
            Stop::Crash | Stop::Kill => {}
        }
        self.first = usize::try_from(log.first_offset()).unwrap();
        drop((log, writer, self.packer.take()));
        self.disk.set_capacity(None);
        self.is_full = false;
        match how {
            Stop::Crash => {
                self.disk.crash();
                // With weaker durability that is the loss window.
                self.acked = self.acked.min(self.synced);
            }
            Stop::Kill | Stop::Close => self.disk.kill(),
        }
        let report = self.reopen();
        if is_bounded {
            let LogConfig { index_every_bytes, index_point_bytes, record_bytes_max, .. } = self.config;
            let most = index_every_bytes + index_point_bytes + u64::from(record_bytes_max);
            assert!(report.scanned_bytes <= most, "{} bytes were read, not {most}", report.scanned_bytes);
        }
    }

    fn try_open(&self) -> Result<(Log, Writer, OpenReport), LogError> {
        Log::open_stepwise(self.config.clone(), self.disk.shared(), self.clock.clone())
    }

    fn reopen(&mut self) -> OpenReport {
        // What was compressed is read whatever is wanted now.
        let block_bytes = self.rng.random_range(256..3000);
        let compress = Compress { level: 1, after: Duration::ZERO, block_bytes };
        self.config.compress = self.rng.random_range(0..4).ne(&0).then_some(compress);
        let (log, writer, report) = self.try_open().expect("a log that was only torn opens");
        self.say(format_args!("{report:?}"));
        let end = usize::try_from(log.next_offset()).unwrap();
        assert!(end >= self.acked, "{} records were acknowledged, {end} are there: {report:?}", self.acked);
        assert!(end <= self.model.len(), "{end} records of {}", self.model.len());
        let first = usize::try_from(log.first_offset()).unwrap();
        assert!(first <= self.first, "what retention had left is there");
        assert_eq!(report.records, (end - first) as u64);
        assert_eq!(log.durable_offset(), end as u64);
        self.model.truncate(end);
        (self.first, self.acked, self.synced) = (first, end, end);
        self.packer = log.packer();
        self.open = Some((log, writer));
        self.expect_records(first, end);
        self.is_calm = true;
        let last = self.disk.names().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
        let is_part = report.scanned_bytes < self.disk.bytes(&last).len() as u64;
        self.from_index += u64::from(is_part && report.scanned_bytes > 0);
        report
    }

    /// Segments are compressed, and the disk may fail, fill up or lose its power in the middle: whatever it does, the
    /// log goes on.
    fn compress(&mut self) {
        self.step();
        let Some(mut packer) = self.packer.take() else { return };
        let count = Some(self.rng.random_range(0..9));
        let fault = self.rng.random_range(0..8);
        self.is_calm &= fault > 4;
        match fault {
            0 => self.disk.set_faults(Faults { write_in: count, ..Faults::default() }),
            1 => self.disk.set_faults(Faults { sync_in: count, ..Faults::default() }),
            2 => self.disk.set_faults(Faults { names_in: count, ..Faults::default() }),
            3 => self.disk.set_faults(Faults { all_in: count, ..Faults::default() }),
            4 => self.disk.set_capacity(Some(self.disk.used() + self.rng.random_range(0..3000))),
            _ => {}
        }
        while packer.step() {}
        self.packer = Some(packer);
        let stats = self.log().stats();
        self.say(format_args!(
            "fault {fault}, {} of {} compressed",
            stats.segments_compressed, stats.segments
        ));
        assert!(stats.bytes <= stats.raw_bytes && stats.refuses.is_none(), "{stats:?}");
        self.compressed += u64::from(stats.segments_compressed > 0);
        if fault == 3 {
            return self.stop(Stop::Crash);
        }
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(None);
        self.read();
        if self.rng.random_range(0..4) == 0 {
            self.clock.advance(Duration::from_secs(61));
        }
    }

    /// The disk is full for a while: appends are refused, nothing is lost, and it goes on by itself.
    fn fill_disk(&mut self) {
        let room = self.rng.random_range(0..1500);
        self.say(format_args!("disk full in {room}"));
        self.disk.set_capacity(Some(self.disk.used() + room));
        (self.is_full, self.is_calm) = (true, false);
        for _ in 0..3 {
            if self.log().check().is_ok() {
                self.append();
            }
            self.step();
            if let Err(error) = self.log().check() {
                assert_eq!(error.kind(), LogErrorKind::DiskFull);
                assert_eq!(
                    self.log().try_append(&NewRecord::default()).unwrap_err().kind(),
                    LogErrorKind::DiskFull
                );
            }
        }
        self.read();
        match self.rng.random_range(0..4) {
            0 => return self.stop(Stop::Crash),
            1 => return self.stop(Stop::Close),
            _ => {}
        }
        self.disk.set_capacity(None);
        self.is_full = false;
        self.step();
        self.log().check().expect("there is room again");
        assert_eq!(self.acked, self.model.len(), "what was refused an acknowledgement is written after all");
    }

    /// A write or a sync fails: nothing is acknowledged from then on, what was is there.
    fn fail_io(&mut self) {
        let count = Some(self.rng.random_range(0..3));
        let faults = if self.rng.random() {
            Faults { write_in: count, ..Faults::default() }
        } else {
            Faults { sync_in: count, ..Faults::default() }
        };
        self.disk.set_faults(faults);
        self.is_calm = false;
        for _ in 0..4 {
            if self.log().check().is_ok() {
                self.append();
                self.step();
            }
        }
        self.disk.set_faults(Faults::default());
        if let Err(error) = self.log().check() {
            self.say(&error);
            assert_eq!(error.kind(), LogErrorKind::ReadOnly);
            assert_eq!(
                self.log().try_append(&NewRecord::default()).unwrap_err().kind(),
                LogErrorKind::ReadOnly
            );
            let acked = self.acked;
            self.step();
            assert_eq!(self.acked, acked, "nothing is acknowledged after a failure");
            self.read();
            self.config.durability = Durability::Always;
            let how = if self.rng.random() { Stop::Crash } else { Stop::Kill };
            self.stop(how);
        }
    }

    /// The power goes in the middle of writing, rolling, closing or recovering.
    fn crash_within(&mut self) {
        let in_calls = self.rng.random_range(0..8);
        self.say(format_args!("power goes in {in_calls} calls"));
        self.append();
        self.disk.set_faults(Faults { all_in: Some(in_calls), ..Faults::default() });
        let always = self.config.durability == Durability::Always;
        if self.rng.random() {
            self.step();
        } else {
            let (log, mut writer) = self.open.take().unwrap();
            writer.finish();
            if always {
                self.acked = usize::try_from(log.durable_offset()).unwrap();
                self.synced = self.acked;
            }
            self.open = Some((log, writer));
        }
        self.first = usize::try_from(self.log().first_offset()).unwrap();
        (self.open, self.packer) = (None, None);
        self.disk.crash();
        self.acked = self.acked.min(self.synced);
        for _ in 0..self.rng.random_range(0..3) {
            let in_calls = self.rng.random_range(0..6);
            self.disk.set_faults(Faults { all_in: Some(in_calls), ..Faults::default() });
            drop(self.try_open());
            self.disk.crash();
        }
        self.reopen();
    }

    /// Old segments go, but none that is held, unless the log is at its cap and told to drop them.
    fn retain(&mut self) {
        self.step();
        let held = self.rng.random_range(self.first..=self.acked);
        let hold = self.log().hold("model", held as u64);
        let least = self.config.segment_bytes_max * 2;
        let cap = self.rng.random_range(least..least + 20_000);
        let mut retention = Retention {
            age_max: self.rng.random::<bool>().then_some(Duration::from_secs(999)),
            bytes_max: self.rng.random::<bool>().then(|| self.rng.random_range(0..20_000)),
            cap_bytes: self.rng.random::<bool>().then_some(cap),
            when_full: if self.rng.random() { WhenFull::Refuse } else { WhenFull::DropOldest },
        };
        let bytes_at_start = self.log().stats().bytes;
        self.log().set_retention(retention).unwrap();
        for _ in 0..self.rng.random_range(1..12) {
            if self.log().check().is_ok() {
                self.append();
            }
            self.step();
            let may_drop = retention.cap_bytes.is_some() && retention.when_full == WhenFull::DropOldest;
            assert!(self.first <= held || may_drop, "{} was held, {} is first", held, self.first);
            if let Err(error) = self.log().check() {
                assert_eq!(error.kind(), LogErrorKind::DiskFull);
                assert!(retention.cap_bytes.is_some() && !may_drop, "{error}");
            }
            if self.log().check().is_ok() && retention.cap_bytes.is_some() {
                let bytes = self.log().stats().bytes;
                assert!(bytes <= cap || bytes == bytes_at_start, "the cap is kept: {bytes} of {cap}");
            }
        }
        self.read();
        match self.log().reader(0).try_next_batch() {
            Ok(_) => {}
            Err(error) => assert!(error.kind() == LogErrorKind::Trimmed && self.first > 0, "{error}"),
        }
        drop(hold);
        retention.cap_bytes = None;
        self.log().set_retention(retention).unwrap();
        self.step();
        self.log().check().expect("nothing holds the log back any more");
        assert_eq!(self.acked, self.model.len());
        self.say(format_args!("retained from {}: {retention:?}", self.first));
    }
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    /// The power goes.
    Crash,
    /// The process goes.
    Kill,
    /// In order.
    Close,
}

fn assert_same(found: &Record, expected: &NewRecord, at: usize) {
    let NewRecord { timestamp_ms, kind, topic, body } = expected.clone();
    assert_eq!(*found, Record { offset: at as u64, timestamp_ms, kind, topic, body });
}
