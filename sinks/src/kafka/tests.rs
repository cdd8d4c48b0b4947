//! Options, records and checkpoints; what needs a broker is tested in `tests/kafka.rs`.

use std::collections::BTreeMap;

use muster_core::clock::ManualClock;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::deliver::are_known;
use super::encode::topic_error;
use super::memory::Remembered;
use crate::database::Databases;
use crate::registry::{SinkEnv, SinkSpec, build};
use crate::sink::{Checkpoint, Cursor, PipelineId, Totals};

fn refusal(options: &[(&str, &str)], target: Option<&str>) -> String {
    let env =
        SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: ManualClock::at(0) };
    let mut given = BTreeMap::from([("brokers".to_owned(), "localhost:9092".to_owned())]);
    given.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let spec = SinkSpec { kind: "kafka", name: "k", target, rule: "rule", options: &given };
    build(&spec, &env).map_or_else(|error| error.in_words(), |_| String::new())
}

#[test]
fn good_options_are_taken() {
    assert_eq!(refusal(&[], None), "");
    assert_eq!(refusal(&[("topic", "t.${a.b}"), ("key", "${k}"), ("compression", "zstd")], None), "");
    assert_eq!(refusal(&[("delivery", "at_least_once"), ("acks", "1")], Some("telemetry")), "");
    assert_eq!(refusal(&[("librdkafka.batch.size", "500000")], None), "");
}

/// Options, a target, and words of the refusal.
type Refused<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str);

#[test]
fn what_is_wrong_is_said_and_no_secret_with_it() {
    let cases: &[Refused<'_>] = &[
        (&[("brokers", "http://x/")], None, "`brokers`"),
        (&[("acks", "1")], None, "must be `all`"),
        (&[("topic", "x")], Some("y"), "without `.y`"),
        (&[("topic", "a b")], None, "has a ` `"),
        (&[("topic", "${")], None, "without its `}`"),
        (&[("partitions", "0")], None, "`partitions`"),
        (&[("password", "hush")], None, "`security_protocol`"),
        (&[("security_protocol", "sasl_plaintext")], None, "`sasl_mechanism`"),
        (&[("ca_file", "x.pem")], None, "`ssl`"),
        (&[("librdkafka.enable.idempotence", "false")], None, "`delivery` rests on it"),
        (&[("librdkafka.acks", "0")], None, "the option `acks` sets it"),
        (&[("librdkafka.nonsense", "hush")], None, "is no property of librdkafka"),
        (&[("librdkafka.batch.size", "hush")], None, "does not take"),
    ];
    for (options, target, words) in cases {
        let said = refusal(options, *target);
        assert!(said.contains(words), "{options:?}: {said}");
        assert!(!said.contains("hush"), "{said}");
    }
}

#[test]
fn checkpoints_are_read_as_they_were_written() {
    let pipeline = PipelineId::new("rule", "kafka", "t");
    let checkpoint = Checkpoint {
        log_id: u128::MAX - 5,
        cursor: Cursor { offset: u64::MAX, row: 7 },
        totals: Totals { matched: 3, delivered: 2, dead: 1 },
    };
    for remembered in [
        Remembered { epoch: 1, writer: 0, checkpoint: None },
        Remembered { epoch: 9, writer: u64::MAX - 1, checkpoint: Some(checkpoint) },
    ] {
        let written = remembered.encode(&pipeline);
        assert_eq!(Remembered::decode(written.as_bytes()), Some(remembered), "{written}");
    }
    assert_eq!(Remembered::decode(b"{}"), None);
}

#[test]
fn names_of_topics_are_kafkas() {
    for name in ["a", "A.b_c-9", &"x".repeat(249)] {
        assert_eq!(topic_error(name.as_bytes()), None, "{name}");
    }
    for name in ["", ".", "..", "a/b", "ä", &"x".repeat(250)] {
        assert!(topic_error(name.as_bytes()).is_some(), "{name}");
    }
}

#[test]
fn who_is_to_blame_is_known_of_one_alone_and_of_those_that_are_named() {
    let (bad, other, away) = (Code::InvalidRecord, Code::InvalidDifferentRecord, Code::RequestTimedOut);
    for (codes, known) in [
        (&[bad][..], true),
        (&[bad, away], true),
        (&[bad, bad], false),
        (&[bad, other, bad], true),
        // Nobody to blame: tried again later, and not at once.
        (&[other, other], false),
        (&[away], false),
        (&[], false),
    ] {
        let failed: Vec<_> = codes.iter().copied().enumerate().collect();
        assert_eq!(are_known(&failed), known, "{codes:?}");
    }
}
