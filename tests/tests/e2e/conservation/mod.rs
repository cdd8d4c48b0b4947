//! Conservation: whatever breaks, and whenever, each acknowledged message ends in the target or in the dead letters,
//! once; nothing else does; the books are exact; and when the faults end, things flow. One oracle ([`run`]), one small
//! file a target that says how it is reached, broken and read. A new target is such a file and a test here.

mod books;
mod outage;
mod run;
mod sqlite;
mod target;
mod webhook;

use sqlite::Sqlite;
use webhook::{Requests, Webhook};

use run::conserve;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    conserve(Sqlite::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_a_row_a_request() {
    conserve(Webhook::new(Requests::Rows).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_a_batch_a_request() {
    conserve(Webhook::new(Requests::Batches).await).await;
}
