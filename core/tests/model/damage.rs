//! Files that change behind the log's back.

use muster_core::log::{Log, LogErrorKind, SEGMENT_HEADER_BYTES};
use rand::Rng as _;

use super::support::segment::{group_of_last, records_from};
use super::{Case, Stop, assert_same};

impl Case {
    pub(super) fn lose_index(&mut self) {
        self.stop(Stop::Close);
        let indexes: Vec<_> = self.disk.names().into_iter().filter(|name| name.ends_with(".index")).collect();
        if indexes.is_empty() {
            return;
        }
        self.is_calm = false;
        let name = &indexes[self.rng.random_range(0..indexes.len())];
        match self.rng.random_range(0..3) {
            0 => self.disk.delete(name),
            1 => self.disk.put(name, &vec![0; self.disk.bytes(name).len()]),
            _ => {
                let (bad, _) = self.flipped(name);
                self.disk.put(name, &bad);
            }
        }
        self.stop(Stop::Kill);
    }

    /// Index and segment are not of the same moment, as in a copy that was made while the log grew.
    pub(super) fn mix_index(&mut self) {
        let last = |case: &Self| case.disk.names().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
        self.step();
        let segment = last(self);
        let index = segment.replace(".seg", ".index");
        let (old_segment, acked) = (self.disk.bytes(&segment), self.acked);
        let old_index = self.disk.names().contains(&index).then(|| self.disk.bytes(&index));
        for _ in 0..self.rng.random_range(1..6) {
            self.append();
            self.step();
        }
        (self.open, self.packer) = (None, None);
        self.disk.kill();
        let is_last = last(self) == segment;
        self.say(format_args!("mix {index}, still the last: {is_last}"));
        match old_index {
            Some(old) if self.rng.random() => self.disk.put(&index, &old),
            _ if is_last => {
                let length = self.rng.random_range(SEGMENT_HEADER_BYTES..=old_segment.len());
                let lost = records_from(&old_segment, length);
                self.disk.put(&segment, &old_segment[..length]);
                (self.acked, self.synced) = (acked - lost, acked - lost);
                self.model.truncate(self.acked);
            }
            _ => {}
        }
        self.reopen();
    }

    /// A bit of a segment changes on the disk: the log refuses, or its readers do; never is anything wrong shown, and
    /// once the bit is back nothing is missing.
    pub(super) fn corrupt(&mut self) {
        self.step();
        let cleanly = self.rng.random();
        let (log, mut writer) = self.open.take().unwrap();
        if cleanly {
            writer.finish();
            self.acked = usize::try_from(log.durable_offset()).unwrap();
            self.first = usize::try_from(log.first_offset()).unwrap();
        }
        drop((log, writer, self.packer.take()));
        self.disk.kill();
        let names = self.disk.names();
        let in_both = |name: &String| name.ends_with(".zst") && names.contains(&name.replace(".zst", ".seg"));
        if names.iter().any(in_both) {
            // One of the two is enough.
            self.reopen();
            return;
        }
        let is_segment = |name: &String| name.ends_with(".seg") || name.ends_with(".zst");
        let segments: Vec<_> = names.into_iter().filter(is_segment).collect();
        let name = segments[self.rng.random_range(0..segments.len())].clone();
        let whole = self.disk.bytes(&name);
        let (bad, byte) = self.flipped(&name);
        self.say(format_args!("flip {name} at {byte}, clean {cleanly}"));
        let last_group = group_of_last(&whole);
        self.disk.put(&name, &bad);
        match self.try_open() {
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, LogErrorKind::Corrupt | LogErrorKind::NewerVersion), "{error}");
                self.disk.kill();
                assert_eq!(self.disk.bytes(&name), bad, "a refused log is left as it is");
            }
            Ok((log, writer, report)) if report.torn_tail.is_some() => {
                let torn = report.torn_tail.unwrap();
                assert!(!cleanly, "after a clean stop nothing is torn");
                assert!(torn.byte >= last_group, "damage at {byte} before the last group is not a torn tail");
                assert_eq!(Some(name), segments.last().cloned());
                self.acked = usize::try_from(torn.offset).unwrap();
                drop((log, writer));
                self.disk.kill();
                self.reopen();
                return;
            }
            Ok((log, writer, _)) => {
                self.expect_refused(&log);
                drop((log, writer));
                self.disk.kill();
            }
        }
        self.disk.put(&name, &whole);
        self.reopen();
    }

    fn expect_refused(&self, log: &Log) {
        let mut reader = log.reader(self.first as u64);
        let mut at = self.first;
        loop {
            match reader.try_next_batch() {
                Ok(Some(batch)) => {
                    for record in batch.iter() {
                        assert_same(&record.to_record(), &self.model[at], at);
                        at += 1;
                    }
                }
                Ok(None) => panic!("a flipped bit was not seen"),
                Err(error) => return assert_eq!(error.kind(), LogErrorKind::Corrupt, "{error}"),
            }
        }
    }

    fn flipped(&mut self, name: &str) -> (Vec<u8>, usize) {
        let mut bytes = self.disk.bytes(name);
        let byte = self.rng.random_range(0..bytes.len());
        bytes[byte] ^= 1 << self.rng.random_range(0..8);
        (bytes, byte)
    }
}
