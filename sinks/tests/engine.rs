//! What the delivery engine promises, one promise at a time, with a target that does as the test says. Faults that come
//! together are in `simulation.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::event::{Event, EventKinds};
use muster_core::value::Row;
use muster_sinks::delivery::{
    LetterFilter, Limits, Orders, PipelineHandle, PipelineState, Start, Stopped, Transform,
};
use muster_sinks::{Batch, Durable, ErrorKind, Outcome, PipelineId, RowOutcome, SharedRow, SinkError};
use support::bench::Bench;
use support::{ByPayload, MemoryLog, until, until_settled};

#[tokio::test(start_paused = true)]
async fn a_batch_ends_by_rows_by_bytes_and_by_time() {
    let mut bench = Bench::with_events(&["x"; 5]);
    bench.limits = Limits { batch_rows_max: 2, batch_wait: Duration::from_secs(10), ..bench.limits };
    let running = bench.run();
    until("two full batches", async || running.status().cursor == 4).await;
    assert_eq!(bench.given(), [vec![0, 1], vec![2, 3]], "the fifth row waits for others");
    until_settled(&running, 5).await;
    assert_eq!(bench.given(), [vec![4]], "but not for ever");
    running.stop(Duration::from_secs(1)).await;

    let big = "y".repeat(400);
    bench.limits = Limits { batch_rows_max: 100, batch_bytes_max: 1000, ..bench.limits };
    bench.append(&[&*big; 6]);
    let running = bench.run();
    until_settled(&running, 11).await;
    let batches: Vec<_> = bench.given().iter().map(Vec::len).collect();
    assert_eq!(batches, [3, 3], "three of some 450 bytes exceed 1000");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_many_rows_is_spread_over_batches() {
    let bench = Bench::with_events(&["x", "25", "x"]);
    let running = bench.run();
    until_settled(&running, 3).await;
    let batches: Vec<_> = bench.given().iter().map(Vec::len).collect();
    assert_eq!(batches, [10, 10, 7]);
    assert_eq!(running.status().delivered, 27);
}

#[tokio::test(start_paused = true)]
async fn a_new_pipeline_begins_where_it_is_told() {
    for (start, first) in [
        (Start::Earliest, 0),
        (Start::Latest, 8),
        (Start::Offset(3), 3),
        (Start::Offset(1 << 40), 8),
        (Start::Timestamp(1005), 5),
        (Start::Timestamp(i64::MAX), 8),
    ] {
        let mut bench = Bench::with_events(&["x"; 8]);
        bench.start = start;
        let running = bench.run();
        until("the start", async || running.status().state == PipelineState::Running).await;
        // A start that is found once holds, whatever comes between it and the first delivery.
        running.kill().await;
        bench.append(&["x"]);
        bench.start = Start::Earliest;
        let running = bench.run();
        until_settled(&running, 9).await;
        let given = bench.given().concat();
        assert_eq!(given, (first..9).collect::<Vec<_>>(), "{start:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_match_nothing_move_the_cursor_too() {
    let bench = Bench::with_events(&["noise", "none", "noise"]);
    let running = bench.run();
    until("the lag to be gone", async || running.status().lag_events == 0).await;
    until_settled(&running, 3).await;
    assert_eq!((running.status().matched, bench.given().len()), (0, 0));
    bench.append(&["noise"; 50]);
    tokio::task::yield_now().await;
    assert_eq!(running.stop(Duration::from_secs(1)).await, Stopped::InTime);
    let id = PipelineId::new("rule", "sink", "");
    let cursor = bench.store.checkpoint(&id).await.unwrap().unwrap().cursor;
    assert!(cursor.offset >= 3, "{cursor:?}");
}

#[tokio::test(start_paused = true)]
async fn what_retention_took_is_said_and_passed_over() {
    let bench = Bench::with_events(&["x"; 10]);
    let running = bench.run();
    until_settled(&running, 10).await;
    running.stop(Duration::from_secs(1)).await;
    bench.given();
    bench.append(&["x"; 10]);
    bench.log.drop_before(15);
    let running = bench.run();
    until_settled(&running, 20).await;
    assert_eq!(bench.given().concat(), (15..20).collect::<Vec<_>>());
    let notes = running.status().notes;
    assert_eq!(notes, ["events 10 to 15 were removed from the log before they were delivered"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_halts_delivery() {
    let mut bench = Bench::with_events(&["x"; 10]);
    let running = bench.run();
    until_settled(&running, 10).await;
    running.stop(Duration::from_secs(1)).await;
    bench.log = MemoryLog::default();
    bench.append(&["x"; 4]);
    let running = bench.run();
    until("the halt", async || running.status().state == PipelineState::Stalled).await;
    let status = running.status();
    let said = status.last_error.unwrap();
    assert_eq!(said, "the cursor stands at 10, but the log ends at 4: the log has lost its end");
    // Once it is there again, an operator says so.
    bench.append(&["x"; 7]);
    running.resume();
    until_settled(&running, 11).await;
    assert_eq!(running.status().delivered, 11);
}

#[tokio::test(start_paused = true)]
async fn another_log_is_begun_anew_and_the_totals_go_on() {
    let mut bench = Bench::with_events(&["x"; 10]);
    let running = bench.run();
    until_settled(&running, 10).await;
    running.stop(Duration::from_secs(1)).await;
    bench.log = MemoryLog::with_id(77);
    bench.append(&["x"; 3]);
    let running = bench.run();
    until_settled(&running, 3).await;
    let status = running.status();
    assert_eq!((status.matched, status.delivered), (13, 13), "{status:?}");
    assert!(status.notes[0].contains("another one"), "{:?}", status.notes);
}

#[tokio::test(start_paused = true)]
async fn paused_means_that_nothing_is_delivered() {
    let bench = Bench::new();
    let running = bench.run();
    until("the start", async || running.status().state == PipelineState::Running).await;
    running.pause();
    bench.append(&["x"; 30]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = running.status();
    assert_eq!((status.state, status.delivered, bench.given().len()), (PipelineState::Paused, 0, 0));
    assert_eq!((status.lag_events, status.lag_ms >= 60_000), (30, true), "{status:?}");
    running.resume();
    until_settled(&running, 30).await;
    assert_eq!((running.status().state, running.status().lag_ms), (PipelineState::Running, 0));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_answers_is_shown_and_stops_late() {
    let mut bench = Bench::with_events(&["x"]);
    bench.silent = true;
    let running = bench.run();
    until("the attempt", async || !bench.given.lock().unwrap().is_empty()).await;
    assert_eq!(running.status().state, PipelineState::Running);
    tokio::time::sleep(Duration::from_secs(61)).await;
    let status = running.status();
    assert_eq!(status.state, PipelineState::Stalled);
    assert!(status.hint.unwrap().contains("does not answer"));
    assert_eq!(running.stop(Duration::from_secs(2)).await, Stopped::Late);
    bench.silent = false;
    let running = bench.run();
    until_settled(&running, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_delivers_what_was_gathered() {
    let mut bench = Bench::with_events(&["x"; 3]);
    bench.limits.batch_wait = Duration::from_secs(3600);
    let running = bench.run();
    until("the rows", async || running.status().pending == 3).await;
    assert_eq!(running.stop(Duration::from_secs(1)).await, Stopped::InTime);
    assert_eq!(bench.given(), [vec![0, 1, 2]]);
    let id = PipelineId::new("rule", "sink", "");
    assert_eq!(bench.store.checkpoint(&id).await.unwrap().unwrap().totals.delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_breaks_its_word_is_halted() {
    type Lie = fn(&Batch) -> Outcome;
    let lies: [(Lie, &str); 3] = [
        (|_| Outcome::PerRow { rows: vec![RowOutcome::Durable], error: None }, "1 answers for 2 rows"),
        (
            |batch| Outcome::PerRow {
                rows: batch.rows().map(|_| RowOutcome::Untried).collect(),
                error: None,
            },
            "neither delivered nor refused",
        ),
        (
            |batch| {
                let mut other = batch.clone();
                other.after.cursor.offset += 1;
                Outcome::Durable(Durable::promise(&other))
            },
            "promised another batch",
        ),
    ];
    for (lie, said) in lies {
        let bench = Bench::with_events(&["x"; 2]);
        bench.answer(move |batch| Ok(lie(batch)));
        let running = bench.run();
        until("the halt", async || running.status().state == PipelineState::Stalled).await;
        let status = running.status();
        assert!(status.last_error.as_ref().unwrap().contains(said), "{status:?}");
        assert_eq!((status.delivered, status.dead, status.pending), (0, 0, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_refuses_everything_is_halted() {
    let mut bench = Bench::with_events(&["x"; 200]);
    bench.limits.dead_letters_per_minute_max = 50;
    bench.answer(|_| Err(SinkError::new(ErrorKind::RejectedBatch, "no")));
    let running = bench.run();
    until("the halt", async || running.status().state == PipelineState::Stalled).await;
    let status = running.status();
    assert!((51..=60).contains(&status.dead), "at most a batch too many: {status:?}");
    assert!(status.hint.unwrap().contains("dead letters"));
    let letters = bench.store.count_letters(LetterFilter::default()).await.unwrap();
    assert_eq!(letters, status.dead);
    bench.answer(|batch| Ok(Outcome::Durable(Durable::promise(batch))));
    running.resume();
    until_settled(&running, 200).await;
    assert_eq!(running.status().delivered + running.status().dead, 200);
}

/// A rule with a fault of ours.
struct Panics;

impl Transform for Panics {
    fn kinds(&self) -> EventKinds {
        EventKinds::ALL
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        assert!(event.offset != 1, "a fault of the test");
        ByPayload.apply(event, rows)
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_panics_costs_one_event() {
    let bench = Bench::with_events(&["x"; 3]);
    let running = bench.run_rule(Box::new(Panics));
    until_settled(&running, 3).await;
    assert_eq!(bench.given().concat(), [0, 2]);
    let letters = bench.store.letters(LetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].cursor.offset, letters[0].reason.as_str()), (1, "the rule panicked on the event"));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_by_page_and_discarded() {
    let bench = Bench::with_events(&["fail", "x", "fail", "fail"]);
    let running = bench.run();
    until_settled(&running, 4).await;
    let page = |after_id| LetterFilter { after_id, rule: Some("rule".into()), ..LetterFilter::default() };
    let first = bench.store.letters(page(None), 2).await.unwrap();
    let second = bench.store.letters(page(Some(first[1].id)), 2).await.unwrap();
    let offsets: Vec<_> = first.iter().chain(&second).map(|letter| letter.cursor.offset).collect();
    assert_eq!(offsets, [0, 2, 3]);
    let other = LetterFilter { sink: Some("other".into()), ..LetterFilter::default() };
    assert_eq!(bench.store.discard_letters(other).await.unwrap(), 0);
    let early = LetterFilter { to_ms: Some(1002), ..LetterFilter::default() };
    assert_eq!(bench.store.discard_letters(early).await.unwrap(), 1);
    assert_eq!(bench.store.count_letters(LetterFilter::default()).await.unwrap(), 2);
    assert_eq!(bench.store.letter(first[0].id).await.unwrap(), None);
    assert_eq!(running.status().dead, 3, "the books still count what was discarded");
    let known = bench.store.pipelines().await.unwrap();
    assert_eq!((known.len(), known[0].checkpoint.totals.dead), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_its_turn_while_there_is_much_to_deliver() {
    let mut bench = Bench::with_events(&["poison"]);
    let batches = Arc::new(Mutex::new(0));
    bench.limits.batch_rows_max = 1;
    bench.answer(|_| Err(SinkError::new(ErrorKind::RejectedRow, "no")));
    let running = bench.run();
    until_settled(&running, 1).await;
    let counted = batches.clone();
    bench.answer(move |batch| {
        *counted.lock().unwrap() += 1;
        Ok(Outcome::Durable(Durable::promise(batch)))
    });
    bench.append(&["x"; 500]);
    let replayed = running.replay_letters(LetterFilter::default()).await.unwrap();
    assert_eq!((replayed.delivered, replayed.still_dead), (1, 0));
    assert!(*batches.lock().unwrap() < 500, "it did not wait for the end");
    until_settled(&running, 501).await;
    let status = running.status();
    assert_eq!(
        (status.matched, status.delivered, status.dead, status.pending),
        (501, 501, 0, 0),
        "{status:?}"
    );
    assert_eq!(bench.store.count_letters(LetterFilter::default()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_corrected_rule_makes_of_a_letter_is_delivered() {
    // Three rows of the event on which the rule failed before, and then none.
    for (rows, books) in [(3, (4, 4, 0)), (0, (1, 1, 0))] {
        let bench = Bench::with_events(&["x", "fail"]);
        until_settled(&bench.run(), 2).await;
        let running = bench.run_rule(Box::new(Corrected(rows)));
        until("the start", async || running.status().state == PipelineState::Running).await;
        let replayed = running.replay_letters(LetterFilter::default()).await.unwrap();
        assert_eq!((replayed.delivered, replayed.still_dead), (1, 0), "{rows} rows");
        let status = running.status();
        assert_eq!((status.matched, status.delivered, status.dead), books, "{rows} rows: {status:?}");
    }
}

/// Makes so many rows of each event.
struct Corrected(usize);

impl Transform for Corrected {
    fn kinds(&self) -> EventKinds {
        EventKinds::ALL
    }

    fn apply(&mut self, _: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        rows.extend((0..self.0).map(|_| Row::new().into()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_seldom_matches_is_not_behind() {
    let bench = Bench::with_events(&["x"]);
    let running = bench.run();
    until_settled(&running, 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    bench.append(&["noise"]);
    until("the event to be seen", async || running.status().lag_events == 0).await;
    bench.append(&["noise"]);
    let status = running.status();
    assert_eq!(
        (status.lag_events, status.lag_ms < 1000),
        (1, true),
        "an hour without a match is no lag: {status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_kept_and_a_resume_goes_on() {
    let mut bench = Bench::with_events(&["x"; 3]);
    bench.paused = true;
    let running = bench.run();
    until("the target is opened", async || running.status().lag_events == 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((running.status().state, bench.given().len()), (PipelineState::Paused, 0));
    running.resume();
    until_settled(&running, 3).await;
    assert_eq!(bench.given().concat(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_halted_for_good_goes_on_when_it_is_resumed() {
    let bench = Bench::with_events(&["x"; 3]);
    bench.answer(|_| Err(SinkError::new(ErrorKind::Gone, "the receiver wants no more")));
    let running = bench.run();
    until("it is halted", async || running.status().state == PipelineState::Paused).await;
    bench.answer(|batch| Ok(Outcome::Durable(Durable::promise(batch))));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.status().delivered, 0);
    running.resume();
    until_settled(&running, 3).await;
}

/// Orders a reset and waits until it is carried out and everything after it is settled.
async fn reset(bench: &Bench, running: &PipelineHandle, offset: u64) {
    bench.store.order_reset(running.id(), offset).await.unwrap();
    running.reset(offset);
    until("the reset is done", async || bench.store.orders(running.id()).await.unwrap() == Orders::default())
        .await;
    until_settled(running, bench.log.len()).await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_delivers_again_and_the_books_stay_exact() {
    let bench = Bench::with_events(&["x", "fail", "x", "fail", "x"]);
    let running = bench.run();
    until_settled(&running, 5).await;
    reset(&bench, &running, 2).await;
    assert_eq!(bench.given().concat(), [0, 2, 4, 2, 4]);
    let status = running.status();
    // Offsets 2 and 4 went twice; the letter of offset 3 was made anew and counts once.
    assert_eq!((status.matched, status.delivered, status.dead), (7, 5, 2), "{status:?}");
    let letters = bench.store.letters(LetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.cursor.offset).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_passes_over_what_is_not_wanted() {
    let bench = Bench::with_events(&["x"; 4]);
    bench.answer(|_| Err(SinkError::unavailable("down")));
    let running = bench.run();
    until("an attempt has failed", async || running.status().failures > 0).await;
    bench.answer(|batch| Ok(Outcome::Durable(Durable::promise(batch))));
    drop(bench.given());
    reset(&bench, &running, 3).await;
    assert_eq!(bench.given().concat(), [3]);
    let status = running.status();
    assert_eq!((status.matched, status.delivered, status.cursor), (1, 1, 4), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_was_written_down_outlives_a_crash_and_frees_what_was_halted() {
    let bench = Bench::with_events(&["x"; 3]);
    let running = bench.run();
    until_settled(&running, 3).await;
    let id = running.id().clone();
    running.kill().await;
    bench.store.order_reset(&id, 1).await.unwrap();
    let running = bench.run();
    until_settled(&running, 3).await;
    assert_eq!(bench.given().concat(), [0, 1, 2, 1, 2]);
    assert_eq!(bench.store.orders(&id).await.unwrap(), Orders::default());
    // Halted by an error that waits for an operator: a reset is one.
    bench.answer(|_| Err(SinkError::new(ErrorKind::Fatal, "broken")));
    bench.append(&["x"]);
    until("it is halted", async || running.status().state == PipelineState::Stalled).await;
    bench.answer(|batch| Ok(Outcome::Durable(Durable::promise(batch))));
    reset(&bench, &running, 4).await;
    assert_eq!(running.status().cursor, 4);
}

#[tokio::test(start_paused = true)]
async fn while_a_reset_waits_the_log_is_held_from_there() {
    let bench = Bench::with_events(&["x"; 3]);
    let running = bench.run();
    until_settled(&running, 3).await;
    running.pause();
    running.reset(1);
    assert_eq!(running.status().cursor, 1, "retention must not pass what is wanted again");
}
