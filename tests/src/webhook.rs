//! A webhook's receiver: keeps what it is sent, answers as told, can go away and come back on the same port.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::wait::{PATIENCE, until};

/// One request that came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as JSON.
    pub body: Value,
    /// What it was answered.
    pub status: StatusCode,
}

/// What a receiver answers, from the headers and the body.
type Judge = Box<dyn Fn(&HeaderMap, &Value) -> StatusCode + Send>;

#[derive(Default)]
struct Shared {
    requests: Vec<Request>,
    status: StatusCode,
    judge: Option<Judge>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

/// The receiver, up or down.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    // A runtime of its own: when it goes, so do the connections that clients keep open.
    runtime: Option<Runtime>,
}

impl Webhook {
    /// A receiver on a free port that answers 200.
    pub async fn start() -> Self {
        Self::start_as(Shared::default()).await
    }

    /// A receiver that answers as `judge` says, and leaves it to keep what came.
    pub async fn start_with(judge: impl Fn(&HeaderMap, &Value) -> StatusCode + Send + 'static) -> Self {
        Self::start_as(Shared { judge: Some(Box::new(judge)), ..Shared::default() }).await
    }

    async fn start_as(shared: Shared) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut webhook = Self { address, shared: Arc::new(Mutex::new(shared)), runtime: None };
        webhook.up().await;
        webhook
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where to send to.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Listens, the second time on the same port as before.
    pub async fn up(&mut self) {
        let bound = async || TcpListener::bind(self.address).await.ok();
        let listener = until("the webhook's port is free", PATIENCE, bound).await;
        self.address = listener.local_addr().expect("an address");
        let listener = listener.into_std().expect("a socket");
        let app = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&self.shared));
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, app).await.expect("a server");
        });
        self.runtime = Some(runtime);
    }

    /// Goes away: open connections break, new ones are refused.
    pub async fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let refused = async || TcpStream::connect(self.address).await.is_err().then_some(());
        until("the webhook is down", PATIENCE, refused).await;
    }

    /// From now on every request is answered with this status; what a refused one carried is kept apart.
    pub fn answer(&self, status: StatusCode) {
        self.shared.lock().expect("no test panics with it").status = status;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().expect("no test panics with it").requests.clone()
    }

    /// The rows of all requests that were answered with success, in the order in which they came.
    pub fn rows(&self) -> Vec<Value> {
        let taken = self.requests().into_iter().filter(|request| request.status.is_success());
        taken
            .flat_map(|request| if let Value::Array(rows) = request.body { rows } else { vec![request.body] })
            .collect()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn receive(State(shared): State<Arc<Mutex<Shared>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).expect("a webhook's body is JSON");
    let mut shared = shared.lock().expect("no test panics with it");
    if let Some(judge) = &shared.judge {
        return judge(&headers, &body);
    }
    let status = shared.status;
    shared.requests.push(Request { headers, body, status });
    status
}
