//! The oracle: publishers and subscribers keep their side of the standard while the server is killed at random moments.
//! Afterwards every message is with its subscriber: at QoS 2 once, at QoS 1 at least once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_tests::{Home, PATIENCE, long, seed, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use super::faithful::Faithful;

/// Where the server is now; none while it is down.
type Where = watch::Receiver<Option<SocketAddr>>;

/// Unacknowledged publishes of a publisher.
const WINDOW: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn at_random_moments() {
    let (kills, messages) = if long() { (40, 20_000) } else { (6, 3_000) };
    let mut random = StdRng::seed_from_u64(seed());
    let home = Home::new();
    let mut muster = home.start().await;
    let (server, place) = watch::channel(Some(muster.mqtt));
    let mut progress: Vec<Arc<AtomicU64>> = Vec::new();
    let total = 4 * messages;
    let mut tasks = Vec::new();
    for qos in [1, 2] {
        let topic = format!("numbers/{qos}");
        let mut followers = Vec::new();
        // One subscriber stays as long as it can, the other comes and goes.
        for is_restless in [false, true] {
            let mut subscriber = Faithful::new(&format!("sub-{qos}-{is_restless}"), &topic, qos, Vec::new());
            followers.push(Arc::clone(&subscriber.progress));
            let mut client = subscriber.connect(muster.mqtt, false).await.expect("a server");
            assert_eq!(client.subscribe(&topic, qos).await, qos);
            drop(client);
            let random = StdRng::seed_from_u64(random.random());
            tasks.push(tokio::spawn(subscribe(subscriber, place.clone(), messages, is_restless, random)));
        }
        let mut publisher = Faithful::new(&format!("pub-{qos}"), &topic, qos, followers.clone());
        progress.append(&mut followers);
        drop(publisher.connect(muster.mqtt, false).await.expect("a server"));
        tasks.push(tokio::spawn(publish(publisher, place.clone(), messages)));
    }
    for _ in 0..kills {
        let taken = || progress.iter().map(|it| it.load(Ordering::Relaxed)).sum::<u64>();
        let mark = taken() + random.random_range(1..2 * total / kills);
        until("more is taken", PATIENCE, async || (taken() >= mark.min(total)).then_some(())).await;
        server.send_replace(None);
        muster.kill().await;
        muster = home.start().await;
        server.send_replace(Some(muster.mqtt));
    }
    let mut twice = 0;
    for task in tasks {
        let (name, qos, taken) = task.await.expect("a client that keeps its side");
        let missing: Vec<_> = (0..messages).filter(|number| !taken.contains_key(number)).collect();
        assert!(taken.is_empty() || missing.is_empty(), "{name} misses {missing:?}");
        let doubled: Vec<_> = taken.iter().filter(|(_, times)| **times > 1).collect();
        assert!(qos == 1 || doubled.is_empty(), "{name} has twice: {doubled:?}");
        twice += doubled.len();
    }
    eprintln!("{kills} kills, {messages} messages for each of 4 subscribers, {twice} of QoS 1 came again");
    muster.stop().await;
    // The log has each QoS 2 publish once too.
    let log = home.log().await;
    let mut logged: HashMap<&[u8], usize> = HashMap::new();
    for (_, payload) in log.publishes().filter(|(topic, _)| *topic == "numbers/2") {
        *logged.entry(payload).or_default() += 1;
    }
    assert_eq!(logged.len() as u64, messages);
    assert!(logged.values().all(|times| *times == 1), "a QoS 2 publish is in the log twice");
}

type Outcome = (String, u8, HashMap<u64, usize>);

async fn publish(mut publisher: Faithful, mut place: Where, messages: u64) -> Outcome {
    while publisher.done < messages {
        let Some(broker) = there(&mut place).await else { continue };
        let Some(mut client) = publisher.connect(broker, true).await else { continue };
        // A connection that breaks is made again.
        let _broken = publisher.publish(&mut client, messages, WINDOW).await;
    }
    ("a publisher".to_owned(), 2, HashMap::new())
}

async fn subscribe(
    mut subscriber: Faithful,
    mut place: Where,
    messages: u64,
    is_restless: bool,
    mut random: StdRng,
) -> Outcome {
    let has_all = move |it: &Faithful| it.taken.len() as u64 == messages;
    while !has_all(&subscriber) {
        let Some(broker) = there(&mut place).await else { continue };
        let Some(mut client) = subscriber.connect(broker, true).await else { continue };
        let count = if is_restless { random.random_range(1..300) } else { usize::MAX };
        let _broken = subscriber.take(&mut client, count, has_all).await;
    }
    (subscriber.name(), subscriber.qos(), subscriber.taken)
}

/// Waits until there is a server.
async fn there(place: &mut Where) -> Option<SocketAddr> {
    place.wait_for(Option::is_some).await.ok().and_then(|found| *found)
}
