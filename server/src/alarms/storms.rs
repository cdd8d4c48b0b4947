//! Storms: how many are told one by one, and whether the number that stands for the others is right, over restarts,
//! too.

use muster_core::event::EventKind;
use proptest::prelude::*;

use super::tests::{Bench, offline};

/// What the last storm was told with.
fn count(bench: &Bench) -> u64 {
    let storm = bench.told.iter().rfind(|(_, _, it)| it.kind == "storm").expect("a storm");
    let details: serde_json::Value = serde_json::from_str(&storm.2.details).expect("JSON");
    details["count"].as_u64().expect("a number")
}

fn go(bench: &mut Bench, numbers: std::ops::Range<usize>, at_ms: i64) {
    for n in numbers {
        bench.see(EventKind::ClientDisconnected, &format!("d{n:02}"), at_ms);
    }
}

fn come(bench: &mut Bench, numbers: std::ops::Range<usize>, at_ms: i64) {
    for n in numbers {
        bench.see(EventKind::ClientConnected, &format!("d{n:02}"), at_ms);
    }
}

#[test]
fn a_storm_that_grows_is_told_again_until_its_number_is_right() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 1)"));
    go(&mut bench, 0..2, 0);
    for (n, at_ms) in [(2, 150), (3, 300), (4, 450), (5, 600)] {
        go(&mut bench, n..n + 1, at_ms);
    }
    assert_eq!(bench.at(60_000), ["+d00 absence 60000"]);
    for at_ms in [60_150, 60_300, 60_450, 60_600, 60_699] {
        assert!(bench.at(at_ms).is_empty(), "more keep coming at {at_ms}");
    }
    assert_eq!(bench.at(60_700), ["+ storm 60700"], "and nobody waits for ever");
    assert_eq!(count(&bench), 5);

    go(&mut bench, 6..16, 900);
    assert!(bench.at(60_900).is_empty());
    assert_eq!(bench.at(61_000), ["+ storm 60700"], "it has doubled");
    assert_eq!(
        (count(&bench), bench.told.last().expect("told").2.message.as_str()),
        (15, "offline: 15 devices at once")
    );
    go(&mut bench, 16..17, 2_000);
    assert!(bench.at(70_999).is_empty(), "a few more can wait");
    assert_eq!(bench.at(71_000), ["+ storm 60700"]);
    assert_eq!(count(&bench), 16);
    assert!(bench.at(110_000).is_empty(), "what is right is not told again");
    come(&mut bench, 0..17, 111_000);
    let mut ends = bench.at(111_000);
    ends.sort();
    assert_eq!(ends, ["- storm 60700", "-d00 absence 60000"]);
    assert_eq!((count(&bench), bench.state.next_due_ms()), (16, None));
}

#[test]
fn what_a_minute_has_told_and_a_storm_has_counted_outlives_the_process() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 3)"));
    go(&mut bench, 0..10, 0);
    let (stored, place) = (bench.state.clone(), bench.log.len());
    assert_eq!(bench.at(60_000).len(), 3);
    bench.restart(&stored, place);
    assert!(bench.at(60_001).is_empty(), "three were told in this minute");
    assert_eq!(bench.at(60_301), ["+ storm 60301"]);
    bench.restart(&stored, place);
    let known = bench.state.summary().map(|it| (it.count, it.told_count));
    assert_eq!(known, Some((7, 7)));
    assert!(bench.at(60_400).is_empty());
    assert_eq!(bench.state.summary().map(|it| it.count), Some(7), "nobody counts twice");
}

#[test]
fn an_operator_ends_a_storm_and_whoever_was_back_is_missed_again() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 1)"));
    go(&mut bench, 0..6, 0);
    bench.at(60_000);
    assert_eq!(bench.at(60_300), ["+ storm 60300"]);
    assert_eq!((bench.state.on(None), bench.state.on(Some("d00")), bench.state.on(Some("d01"))), (2, 1, 0));
    bench.state.force(None, 61_000);
    let mut ends = bench.at(61_000);
    ends.sort();
    assert_eq!(ends, ["- storm 60300", "-d00 absence 60000"]);
    for (_, _, end) in bench.told.iter().filter(|(kind, ..)| *kind == EventKind::AlarmDeactivated) {
        assert!(end.details.contains("force_deactivated"), "{end:?}");
    }
    assert!(bench.at(600_000).is_empty(), "nobody was back");
    come(&mut bench, 1..2, 600_000);
    go(&mut bench, 1..2, 600_001);
    assert_eq!(bench.at(660_001), ["+d01 absence 660001"]);
}

const PER_MINUTE: usize = 2;
const ACTIVE_MAX: usize = 3;

proptest! {
    /// Never more than the limits say, nobody forgotten, and in the end nothing is on.
    #[test]
    fn limits_are_kept_whatever_happens(
        steps in prop::collection::vec((0..8_usize, any::<bool>(), 1..30_000_i64, 0..8_u8), 1..120),
    ) {
        let options = format!("WITH (storm_per_minute = {PER_MINUTE}, max_active = {ACTIVE_MAX})");
        let mut bench = Bench::new(&offline(&options));
        let (mut stored, mut place, mut now_ms) = (bench.state.clone(), 0, 0);
        let end = (0..8).map(|n| (n, true, 1, 1)).chain([(0, true, 120_000, 1)]);
        for (n, comes, wait_ms, what) in steps.into_iter().chain(end) {
            now_ms += wait_ms;
            bench.at(now_ms);
            match comes {
                true => come(&mut bench, n..n + 1, now_ms),
                false => go(&mut bench, n..n + 1, now_ms),
            }
            match what {
                0 => bench.restart(&stored, place),
                1 => (stored, place) = (bench.state.clone(), bench.log.len()),
                _ => {}
            }
            bench.at(now_ms);
            prop_assert!(bench.state.active().len() <= ACTIVE_MAX);
            let silent = bench.state.armed().values().filter(|it| it.due_ms <= now_ms && !it.held);
            prop_assert_eq!(silent.count(), 0, "told or counted");
        }
        prop_assert!(bench.state.is_empty(), "{:?}", bench.state);
        let own = bench.log.iter().filter(|it| it.kind == EventKind::AlarmActivated && !it.clientid().is_empty());
        let told: Vec<i64> = own.map(|it| it.timestamp_ms).collect();
        for window in told.windows(PER_MINUTE + 1) {
            prop_assert!(window[PER_MINUTE] - window[0] >= 60_000, "{told:?}");
        }
    }
}
