//! Many sessions at once: they are back before the server listens, with what waits for each.

use std::sync::Arc;

use muster_tests::mqtt::{Client, Version};
use muster_tests::{Home, PATIENCE, long, until};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{connect, kept, publish, take};

/// Clients that connect at a time.
const CONNECTS_MAX: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_are_back_after_a_kill() {
    let sessions: usize = if long() { 50_000 } else { 2_000 };
    let home = Home::new();
    let muster = home.start().await;
    let room = Arc::new(Semaphore::new(CONNECTS_MAX));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..sessions {
        let (broker, room) = (muster.mqtt, Arc::clone(&room));
        tasks.spawn(async move {
            let _turn = room.acquire().await.expect("room");
            let connection = kept(Version::V4, &format!("device-{number}"));
            let (mut client, _, code) = Client::greet(broker, &connection).await.expect("an answer");
            assert_eq!(code, 0);
            assert_eq!(client.subscribe(&format!("to/{number}"), 1).await, 1);
            assert_eq!(client.subscribe("to/all", 1).await, 1);
            client.disconnect().await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a device");
    }
    let connected = begun.elapsed();
    until("all are known to be away", PATIENCE, async || {
        (muster.json("/api/v5/stats").await[0]["connections.count"] == 0).then_some(())
    })
    .await;
    publish(&muster, "to/all", &["one", "two"], 1).await;
    muster.kill().await;
    let begun = Instant::now();
    let muster = home.start().await;
    let started = begun.elapsed();
    assert_eq!(muster.json("/api/v5/stats").await[0]["sessions.count"], sessions);
    let some = [0, sessions / 2, sessions - 1];
    for number in some {
        let (mut client, present) = connect(&muster, &kept(Version::V4, &format!("device-{number}"))).await;
        assert!(present);
        assert_eq!(take(&mut client, Version::V4).await, "one");
        assert_eq!(take(&mut client, Version::V4).await, "two");
        publish(&muster, &format!("to/{number}"), &["own"], 1).await;
        assert_eq!(take(&mut client, Version::V4).await, "own");
    }
    eprintln!(
        "{sessions} sessions: made in {connected:?}; {} messages owed; listening again {started:?} after the kill; {} MiB",
        sessions * 2,
        muster.memory_bytes() >> 20
    );
    muster.stop().await;
}
