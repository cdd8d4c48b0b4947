//! The first command of the README.

use std::time::Duration;

use muster_tests::{Home, tools};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_devices_come_and_go_and_ends_by_itself() {
    let home = Home::new();
    let started = tokio::time::Instant::now();
    let command = &mut home.command(&["demo", "--for", "8", "--data", "demo"]);
    let output = tools::run(command).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(7), "it ran for {took:?}");
    assert!(output.contains("muster.db"), "where the database is:\n{output}");
    assert!(output.contains("disconnected") && output.contains("connected"), "the history:\n{output}");

    // What it printed can be asked again.
    let db = rusqlite::Connection::open(home.path().join("demo/muster.db")).expect("the database");
    let count = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).expect("a number") };
    let devices = count("SELECT count(*) FROM devices");
    assert!(devices >= 20, "{devices} devices");
}
