//! The oracle's run: publishers that never rest, a target that comes and goes, a Muster that is killed, all of it
//! chosen by one seed; then silence, and the question whether everything is where it belongs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Connect, Progress, VERSIONS, Version};
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, long, seed, until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::{Findings, Sent, dead_letters, message, name, payload};
use super::target::{Fault, Target};
use crate::common::pipelines;

/// Clients that publish at the same time; one more sends the last message.
const PUBLISHERS: usize = 16;
/// Most messages that one of them has unacknowledged.
const WINDOW_MAX: usize = 20;
/// Most batches of the rule that are on their way at a time; how many may be, changes while it runs.
const LANES_MAX: u32 = 4;
/// How long a fault lasts at most after the round's messages are sent.
const FAULT_MAX: Duration = Duration::from_millis(1_000);
/// A failed target is tried again this soon, so that a run has time for many faults.
const RETRIES: [&str; 2] = ["--set", "delivery.retry_wait_max=300ms"];

/// How much happens.
#[derive(Debug, Clone, Copy)]
struct Form {
    events: u64,
    rounds: u64,
    /// At least.
    kills: u64,
    /// How long it may take to deliver what is left when the faults have ended.
    catch_up_max: Duration,
}

impl Form {
    fn of_this_run() -> Self {
        if long() {
            Self { events: 100_000, rounds: 50, kills: 20, catch_up_max: Duration::from_secs(600) }
        } else {
            Self { events: 3_000, rounds: 6, kills: 3, catch_up_max: Duration::from_secs(120) }
        }
    }
}

/// What happens in a round, at counts of acknowledged messages and after times that chance has chosen.
#[derive(Debug)]
struct Round {
    fault: Fault,
    fault_at: u32,
    lasts: Duration,
    kill: Option<Kill>,
}

/// When Muster is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// At so many acks.
    Publishing(u32),
    /// So long after all was sent, while the target is as the fault has left it.
    Broken(Duration),
    /// So long after the target has come back.
    CatchingUp(Duration),
}

impl Round {
    fn choose(random: &mut StdRng, events: u32, kill: bool) -> Self {
        let delay = Duration::from_millis(random.random_range(1..20));
        let faults = [
            Fault::None,
            Fault::Cut,
            Fault::Delay(delay),
            Fault::Hold,
            Fault::Close,
            Fault::Stop,
            Fault::Kill,
        ];
        let soon = |random: &mut StdRng| Duration::from_millis(random.random_range(0..300));
        let acks = |random: &mut StdRng| random.random_range(0..events.max(1));
        let when = match random.random_range(0..3) {
            0 => Kill::Publishing(acks(random)),
            1 => Kill::Broken(soon(random)),
            _ => Kill::CatchingUp(soon(random)),
        };
        Self {
            fault: *faults.choose(random).expect("there are some"),
            fault_at: acks(random),
            lasts: FAULT_MAX.mul_f64(random.random()),
            kill: kill.then_some(when),
        }
    }
}

/// Runs the oracle against a target.
///
/// # Panics
/// When a promise is broken; the output holds the seed.
pub(super) async fn conserve(mut target: impl Target) {
    let (form, seed) = (Form::of_this_run(), seed());
    let mut random = StdRng::seed_from_u64(seed);
    let home = Home::with_rules(&rules(&target, random.random_range(1..=LANES_MAX)));
    let mut muster = home.start_with(&RETRIES).await;
    let mut sent = Sent::new(PUBLISHERS + 1);
    let mut kills = 0;
    let started = Instant::now();
    for left in (1..=form.rounds).rev() {
        if random.random_bool(0.25) {
            // While it runs, and while rows of the lanes before are on their way.
            home.write_rules("rules.sql", &rules(&target, random.random_range(1..=LANES_MAX)));
        }
        let events = form.events.saturating_sub(sent.count()) / left;
        let kill = form.kills.saturating_sub(kills) >= left || random.random_bool(0.4);
        let round = Round::choose(&mut random, u32::try_from(events).expect("few"), kill);
        eprintln!("{left} rounds left, {} sent, {} acknowledged: {round:?}", sent.count(), sent.acked());
        muster = play(round, &home, muster, &mut target, &mut sent, (&mut random, events)).await;
        kills += u64::from(kill);
        // Whatever happens: matched = delivered + dead + pending.
        pipelines(&muster).await;
    }

    let faults_end = Instant::now();
    let mut last = Client::connect(muster.mqtt, Version::V5, &name(PUBLISHERS)).await;
    last.publish(&topic(PUBLISHERS), payload(PUBLISHERS, 0).as_bytes(), 1, false).await;
    sent.note(PUBLISHERS, Progress { sent: 1, acked: 1 });
    last.disconnect().await;
    let pipeline = until("everything is delivered", form.catch_up_max, async || {
        let it = crate::common::pipeline(&muster, "oracle", "target").await;
        (it["pending"] == 0 && it["lag_events"] == 0).then_some(it)
    })
    .await;
    let caught_up = faults_end.elapsed();
    let dead = dead_letters(&muster).await;
    muster.stop().await;
    let rows = target.rows().await;
    let logged = home.log().await.publishes().map(message).collect::<Vec<_>>();
    println!(
        "conservation: seed {seed}, {} sent, {} acknowledged, {} rows read, {} dead letters, {kills} kills, \
         {:.1} s, the last {:.1} s of them without faults",
        sent.count(),
        sent.acked(),
        rows.len(),
        dead.len(),
        started.elapsed().as_secs_f64(),
        caught_up.as_secs_f64()
    );
    Findings { sent, logged, rows, ordered: target.keeps_order(), dead, pipeline }.check();
}

fn rules(target: &impl Target, lanes: u32) -> String {
    let (declaration, into, value) = (target.declaration(), target.destination(), target.value());
    format!(
        "CREATE SINK target TYPE {declaration};\n\
         CREATE RULE oracle INTO {into} WITH (start = 'earliest', lanes = {lanes}) AS\n\
         SELECT clientid AS client, payload.n AS n, {value} AS v FROM \"oracle/+/up\";\n"
    )
}

fn topic(client: usize) -> String {
    format!("oracle/{}/up", name(client))
}

/// One round; gives the Muster that runs after it.
async fn play(
    round: Round,
    home: &Home,
    muster: Muster,
    target: &mut impl Target,
    sent: &mut Sent,
    (random, events): (&mut StdRng, u64),
) -> Muster {
    let again = async |muster: Muster| {
        muster.kill().await;
        home.start_with(&RETRIES).await
    };
    let mut publishers = Publishers::start(&muster, sent, random, events);
    let Round { fault, fault_at, lasts, kill } = round;
    let mut muster = Some(muster);
    match kill {
        Some(Kill::Publishing(kill_at)) if kill_at < fault_at => {
            publishers.until_acked(kill_at).await;
            muster.take().expect("it runs").kill().await;
            publishers.join(sent).await;
            fault.begin(target).await;
        }
        Some(Kill::Publishing(kill_at)) => {
            publishers.until_acked(fault_at).await;
            fault.begin(target).await;
            publishers.until_acked(kill_at).await;
            muster.take().expect("it runs").kill().await;
            publishers.join(sent).await;
        }
        _ => {
            publishers.until_acked(fault_at).await;
            fault.begin(target).await;
            publishers.join(sent).await;
        }
    }
    let mut muster = match muster {
        Some(muster) => muster,
        None => home.start_with(&RETRIES).await,
    };
    if let Some(Kill::Broken(after)) = kill {
        tokio::time::sleep(after).await;
        muster = again(muster).await;
    }
    tokio::time::sleep(lasts).await;
    fault.end(target).await;
    if let Some(Kill::CatchingUp(after)) = kill {
        tokio::time::sleep(after).await;
        muster = again(muster).await;
    }
    muster
}

/// The clients of one round.
struct Publishers {
    tasks: JoinSet<(usize, Progress)>,
    /// One permit an ack, so that whoever waits for so many is woken by the last of them.
    acks: Arc<Semaphore>,
}

impl Publishers {
    fn start(muster: &Muster, sent: &Sent, random: &mut StdRng, events: u64) -> Self {
        let (mut tasks, acks, broker) = (JoinSet::new(), Arc::new(Semaphore::new(0)), muster.mqtt);
        let (each, more) = (events / PUBLISHERS as u64, events % PUBLISHERS as u64);
        for client in 0..PUBLISHERS {
            let first = sent.next(client);
            let numbers = first..first + each + u64::from((client as u64) < more);
            let (acks, window) = (Arc::clone(&acks), random.random_range(1..=WINDOW_MAX));
            tasks.spawn(async move {
                let connect = Connect::new(VERSIONS[client % 2], &name(client));
                // Muster may be killed at any moment, also while somebody connects.
                let Ok((mut publisher, _, 0)) = Client::greet(broker, &connect).await else {
                    return (client, Progress::default());
                };
                let payloads = numbers.map(|n| Bytes::from(payload(client, n)));
                let count = &mut |_| acks.add_permits(1);
                (client, publisher.publish_timed(&topic(client), payloads, window, count).await)
            });
        }
        Self { tasks, acks }
    }

    /// Waits until so many messages are acknowledged.
    async fn until_acked(&self, count: u32) {
        // The permits are given back, so that each wait counts from the round's beginning.
        drop(soon(&format!("{count} acks"), self.acks.acquire_many(count)).await.expect("it stays open"));
    }

    /// Waits until they have sent everything, or have lost their connections.
    async fn join(&mut self, sent: &mut Sent) {
        while let Some(done) = self.tasks.join_next().await {
            let (client, progress) = done.expect("a publisher");
            sent.note(client, progress);
        }
    }
}
