//! Signs of life: while nothing else is written, an event says that the node is alive, so that after a crash it is
//! known how long it was. It must never be in anybody's way: what the log does not take now is not written.

use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use tokio_util::sync::CancellationToken;

/// Writes until `stop`. From one event in the log to the next it takes at most `every`.
pub(super) async fn beat(
    journal: Journal,
    clock: SharedClock,
    node: String,
    every: Duration,
    stop: CancellationToken,
) {
    let mut looks = tokio::time::interval(every / 2);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let next = journal.next_offset();
        // What was written since the last look says as much.
        if last == Some(next) {
            let body = proto::Event { node: node.clone(), ..proto::Event::default() };
            let timestamp_ms = clock.wall_ms();
            let event = NewEvent { timestamp_ms, kind: EventKind::NodeAlive, topic: String::new(), body };
            if let Err(error) = journal.try_append(event) {
                tracing::debug!(%error, "no sign of life was written");
            }
        }
        last = Some(journal.next_offset());
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::log::{LogConfig, RealDisk};

    use super::super::sessions;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quiet_log_shows_that_the_node_lives_and_a_busy_one_needs_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(1_000);
        let (journal, _) =
            Journal::open(LogConfig::new(dir.path()), RealDisk::shared(), clock.clone()).expect("a journal");
        let stop = CancellationToken::new();
        let every = Duration::from_secs(4);
        let task = tokio::spawn(beat(journal.clone(), clock.clone(), "n".to_owned(), every, stop.clone()));
        // Looks at 0, 2, 4, ... s; others write in between until second 10.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for second in 0..5 {
            let event = sessions::lifecycle(EventKind::NodeStarted, "n", "", 1_000 + second);
            journal.append(event).await.expect("append");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(journal.next_offset(), 5, "nobody needs a sign of life");
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(journal.next_offset(), 6);
        stop.cancel();
        task.await.expect("the task ends");
        journal.durable(5).await.expect("durable");
        assert_eq!(sessions::last_alive_ms(&journal).expect("read"), Some(61_000));
    }
}
