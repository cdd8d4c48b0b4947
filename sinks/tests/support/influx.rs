//! A database of its own on the shared InfluxDB, and what is in it. It reads by InfluxQL, so that nothing of the sink
//! is used to look at what the sink wrote.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use muster_test_servers::Server;
use serde_json::{Map, Value};

/// The administrator that `tests/servers/influxdb` makes.
pub const USER: &str = "muster";
pub const PASSWORD: &str = "muster-secret";
/// The same for API v2 of InfluxDB 1.8.
pub const TOKEN: &str = "muster:muster-secret";

/// One database; its name is nobody else's.
#[derive(Clone)]
pub struct Database {
    pub name: String,
    address: SocketAddr,
    /// Kept for as long as it is needed.
    _server: Option<Arc<Server>>,
    http: reqwest::Client,
}

/// A point: its columns by name, tags among them, and its `name` (the measurement) where no column is called so.
pub type Point = Map<String, Value>;

impl Database {
    /// None where the server cannot be had.
    pub async fn new() -> Option<Self> {
        let database = Self::absent()?;
        database.query(&format!("CREATE DATABASE \"{}\"", database.name)).await;
        Some(database)
    }

    /// One that is not there yet.
    pub fn absent() -> Option<Self> {
        Self::absent_on("influxdb")
    }

    /// One that is not there yet, on another kind of server.
    pub fn absent_on(kind: &'static str) -> Option<Self> {
        let server = Server::shared(kind)?;
        Some(Self { _server: Some(server.clone()), ..Self::at(server.address()) })
    }

    /// One that is not there yet, on a server that the caller keeps.
    pub fn at(address: SocketAddr) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        drop(rustls::crypto::ring::default_provider().install_default());
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { name, address, _server: None, http }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The options of a sink by API v2.
    pub fn v2(&self) -> Vec<(&'static str, String)> {
        vec![("url", self.url()), ("bucket", self.name.clone()), ("token", TOKEN.into())]
    }

    /// The options of a sink by API v1.
    pub fn v1(&self) -> Vec<(&'static str, String)> {
        vec![
            ("url", self.url()),
            ("api", "v1".into()),
            ("database", self.name.clone()),
            ("username", USER.into()),
            ("password", PASSWORD.into()),
        ]
    }

    /// The answer to a statement.
    pub async fn query(&self, query: &str) -> Value {
        let mut url = reqwest::Url::parse(&format!("{}/query", self.url())).unwrap();
        url.query_pairs_mut().extend_pairs([("db", self.name.as_str()), ("epoch", "ns"), ("q", query)]);
        let request = self.http.post(url).basic_auth(USER, Some(PASSWORD));
        let answer = request.send().await.unwrap().text().await.unwrap();
        let json: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert!(!answer.contains("\"error\""), "{query}: {answer}");
        json
    }

    /// The points of a query, in order of time within each series.
    pub async fn points(&self, query: &str) -> Vec<Point> {
        let json = self.query(query).await;
        let series = json.pointer("/results/0/series").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut points = Vec::new();
        for one in &series {
            let names: Vec<_> =
                one["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
            for values in one.get("values").and_then(Value::as_array).into_iter().flatten() {
                let columns =
                    names.iter().zip(values.as_array().unwrap()).filter(|(_, value)| !value.is_null());
                let mut point: Point =
                    columns.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                for (tag, value) in one.get("tags").and_then(Value::as_object).into_iter().flatten() {
                    point.insert(tag.clone(), value.clone());
                }
                point.entry("name").or_insert_with(|| one.get("name").cloned().unwrap_or_default());
                points.push(point);
            }
        }
        points
    }

    /// How many points there are with the field.
    pub async fn count(&self, measurement: &str, field: &str) -> u64 {
        let query = format!("SELECT count(\"{field}\") AS n FROM \"{measurement}\"");
        self.points(&query).await.first().map_or(0, |point| point["n"].as_u64().unwrap())
    }

    /// Writes lines past the sink.
    pub async fn put(&self, lines: &str) {
        let url = format!("{}/write?db={}", self.url(), self.name);
        let request = self.http.post(url).basic_auth(USER, Some(PASSWORD)).body(lines.to_owned());
        assert_eq!(request.send().await.unwrap().status(), 204);
    }
}
