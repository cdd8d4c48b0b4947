//! New definitions that look back over a long log while devices come and go: what happens at the seam, with everything
//! running at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_core::event::EventKind;
use muster_core::event::proto::event::Detail;
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::tests::{lifecycle, program};
use super::{Board, Definitions, Engine};

const PATIENCE: Duration = Duration::from_secs(60);
/// Events of devices that nobody asks about, to be looked through.
const PAST: usize = 30_000;
const DEVICES: usize = 3_000;
/// Those who go for the last time when the definitions are known to be in force.
const LATE: usize = 100;

const LIMITS: &str = "storm_per_minute = 1000000, max_active = 1000000";

fn definitions() -> Definitions {
    let absence = program(&format!(
        "CREATE ALARM gone WITH ({LIMITS}, clientid = 'd-*') AS \
         ABSENCE OF \"$events/client/connected\" FOR 1s AFTER \"$events/client/disconnected\";"
    ));
    let flapping = program(&format!(
        "CREATE ALARM flaps WITH ({LIMITS}, clientid = 'd-*') AS \
         FLAPPING OF \"$events/client/disconnected\" 3 TIMES IN 1h;"
    ));
    let programs = [("gone".to_owned(), absence), ("flaps".to_owned(), flapping)].into();
    Definitions { programs, is_partial: false }
}

/// A device's last disconnect: where and when.
type Last = BTreeMap<String, (u64, i64)>;

struct World {
    journal: Journal,
    last: Last,
    /// Those who are back for good.
    back: BTreeSet<String>,
}

impl World {
    async fn see(&mut self, kind: EventKind, client: &str) {
        let at_ms = SystemClock::shared().wall_ms();
        let offset = self.journal.append(lifecycle(kind, client, at_ms)).await.expect("append").offset;
        if kind == EventKind::ClientDisconnected && client.starts_with("d-") {
            self.last.insert(client.to_owned(), (offset, at_ms));
        }
    }

    /// Its second and its third time.
    async fn flap(&mut self, n: usize) {
        let client = format!("d-{n:04}");
        self.see(EventKind::ClientDisconnected, &client).await;
        self.see(EventKind::ClientConnected, &client).await;
        self.see(EventKind::ClientDisconnected, &client).await;
    }

    /// Who was told of by `name`, in order.
    fn told(&self, name: &str) -> Vec<(String, i64)> {
        let mut told = Vec::new();
        let mut reader = self.journal.reader(self.journal.first_offset());
        while let Some(batch) = reader.try_next_batch().expect("events") {
            for event in batch.events().iter().filter(|it| it.kind == EventKind::AlarmActivated) {
                if let Some(Detail::Alarm(alarm)) = &event.body.detail
                    && alarm.name == name
                {
                    told.push((event.clientid().to_owned(), alarm.since_ms));
                }
            }
        }
        told
    }
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_back_while_devices_come_and_go_misses_nothing_and_counts_nothing_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = SystemClock::shared();
    let config = LogConfig::new(dir.path().join("log"));
    let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
    let (define, defined) = tokio::sync::watch::channel(Definitions::default());
    let board = Board::default();
    let mut world = World { journal: journal.clone(), last: Last::new(), back: BTreeSet::new() };
    for n in 0..PAST {
        world.see(EventKind::ClientDisconnected, &format!("other-{n}")).await;
    }
    for n in 0..DEVICES + LATE {
        let client = format!("d-{n:04}");
        world.see(EventKind::ClientDisconnected, &client).await;
        world.see(EventKind::ClientConnected, &client).await;
    }
    let engine =
        Engine::open(&journal, dir.path(), &clock, "n", (defined, board.clone())).expect("an engine");
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));

    let (mut before, mut amid) = (0, 0);
    for n in 0..DEVICES {
        if n == DEVICES / 4 {
            before = journal.next_offset();
            define.send_replace(definitions());
        }
        world.flap(n).await;
        amid += usize::from(n > DEVICES / 4 && board.counts().is_empty());
    }
    until("both definitions are in force", || board.counts().len() == 2).await;
    let after = journal.next_offset();
    for n in DEVICES..DEVICES + LATE {
        world.flap(n).await;
    }

    // Some return, before or after they are missed.
    for n in (0..DEVICES + LATE).step_by(10) {
        let client = format!("d-{n:04}");
        world.see(EventKind::ClientConnected, &client).await;
        world.back.insert(client);
    }

    // Each who stays away is missed once since it went for the last time.
    let away = |id: &String| !world.back.contains(id);
    let last: Vec<_> = world.last.iter().map(|(id, (_, at_ms))| (id.clone(), *at_ms)).collect();
    let last: Vec<_> = last.into_iter().filter(|(id, _)| away(id)).collect();
    let missed = |world: &World| {
        let mut told = world.told("gone");
        let is_last = |id: &String, ms: i64| world.last.get(id).is_some_and(|(_, at_ms)| *at_ms == ms);
        told.retain(|(id, since_ms)| away(id) && is_last(id, *since_ms));
        told.sort();
        told
    };
    until("all are missed", || missed(&world).len() >= last.len()).await;
    assert_eq!(missed(&world), last);
    let is_on = |id: &str| board.active().iter().any(|it| it.name == "gone" && it.clientid == id);
    until("who is back is not missed", || !world.back.iter().any(|id| is_on(id))).await;

    // There is one place in the log from which on each third time counts, and the two before it.
    let flaps = world.told("flaps");
    let raised: &BTreeSet<_> = &flaps.iter().map(|(id, _)| id).collect();
    assert_eq!(raised.len(), flaps.len(), "each once");
    let offsets = |is_raised: bool| {
        let of = world.last.iter().filter(move |(id, _)| raised.contains(id) == is_raised);
        of.map(|(_, (offset, _))| *offset).collect::<BTreeSet<_>>()
    };
    let (first, last) = (offsets(true).first().copied(), offsets(false).last().copied());
    let (first, last) = (first.expect("the late ones"), last.expect("those who were first"));
    assert!(last < first, "none is missed from the first that counts ({first}) on: {last}");
    assert!(before <= first, "{before} <= {first}");
    assert!(last < after, "it counts once the definitions are known to be in force");
    assert!(amid > 0, "some devices came and went while the definitions looked back");
    println!("{amid} devices came and went while the definitions looked back");
    stop.cancel();
    task.await.expect("it ends in order");
}
