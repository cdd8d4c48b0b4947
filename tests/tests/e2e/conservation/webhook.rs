//! A webhook: an HTTP receiver that cannot commit, so repetitions are told by `webhook-id`. It refuses poison, in a
//! batch without saying which row it was.

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use muster_test_servers::Proxy;
use muster_tests::webhook::Webhook as Receiver;
use serde_json::Value;

use super::run::conserve;
use super::target::{Arrived, Target};

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    Rows,
    Batches,
}

pub(super) struct Webhook {
    receiver: Receiver,
    way: Proxy,
    requests: Requests,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Webhook {
    pub(super) async fn new(requests: Requests) -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let rows = Arc::clone(&arrived);
        let receiver = Receiver::start_with(move |headers, body| {
            let Some(new) = accepted(headers, body) else { return StatusCode::UNPROCESSABLE_ENTITY };
            rows.lock().expect("no test panics with it").extend(new);
            StatusCode::OK
        })
        .await;
        let way = Proxy::before(receiver.address()).await;
        Self { receiver, way, requests, arrived }
    }
}

/// The rows of a request; none where one of them is poison.
fn accepted(headers: &HeaderMap, body: &Value) -> Option<Vec<Arrived>> {
    let id = headers["webhook-id"].to_str().expect("an id");
    let rows = body.as_array().map_or(std::slice::from_ref(body), Vec::as_slice);
    if rows.iter().any(|row| !row["v"].is_u64()) {
        return None;
    }
    Some(rows.iter().enumerate().map(|(at, row)| Arrived::of_json(row, format!("{id}/{at}"))).collect())
}

impl Target for Webhook {
    fn declaration(&self) -> String {
        let more = match self.requests {
            Requests::Rows => "in_flight = 4",
            Requests::Batches => "batch = 'true', batch_rows = 500, batch_wait_ms = 10",
        };
        format!("webhook WITH (url = 'http://{}/hook', timeout_ms = 1000, {more})", self.way.address())
    }

    fn destination(&self) -> String {
        "target".to_owned()
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn way(&self) -> Option<&Proxy> {
        Some(&self.way)
    }

    async fn down(&mut self, _at_once: bool) {
        self.receiver.down().await;
    }

    async fn up(&mut self) {
        self.receiver.up().await;
    }

    async fn rows(&mut self) -> Vec<Arrived> {
        self.arrived.lock().expect("no test panics with it").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_a_request_keeps_every_message() {
    conserve(Webhook::new(Requests::Rows).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_a_request_keeps_every_message() {
    conserve(Webhook::new(Requests::Batches).await).await;
}
