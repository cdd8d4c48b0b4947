//! Targets that keep no tables: Kafka, read as a consumer that sees committed records alone, and InfluxDB, whose points
//! are found by their time. It must never know what the rows should be.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use muster_test_servers::{Proxy, Server};
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use serde_json::{Value, json};

use crate::records;

/// The administrator that `tests/servers/influxdb` makes.
pub(super) const INFLUX_TOKEN: (&str, &str) = ("muster", "muster-secret");
/// Where the points are.
pub(super) const INFLUX_DATABASE: &str = "model";

/// The way to a broker, which tells its clients where to come: this listener of it sends them to the proxy.
pub(super) async fn way_to_kafka(server: &Server) -> Proxy {
    let file = server.dir().expect("a server of our own").join("listeners");
    let listeners = std::fs::read_to_string(file).expect("where it listens");
    let listener = |name: &str| {
        let address = listeners.lines().find_map(|line| line.strip_prefix(name)).expect("a listener");
        address.parse().expect("an address")
    };
    Proxy::at(listener("proxy="), listener("behind=")).await
}

/// The values of a topic; where `is_compacted`, only the last one of each key.
pub(super) fn kafka_rows(broker: SocketAddr, topic: &str, is_compacted: bool) -> Vec<Value> {
    let records = tokio::task::block_in_place(|| records::read(broker, topic));
    if !is_compacted {
        return records.into_iter().map(|(_, value)| value).collect();
    }
    records.into_iter().collect::<BTreeMap<_, _>>().into_values().collect()
}

/// All points of a measurement as objects.
pub(super) async fn influx_rows(server: SocketAddr, measurement: &str) -> Vec<Value> {
    let answer = ask_influx(server, &format!("SELECT * FROM {measurement}")).await;
    let series = &answer["results"][0]["series"][0];
    let names = series["columns"].as_array().cloned().unwrap_or_default();
    let points = series["values"].as_array().cloned().unwrap_or_default();
    let object = |point: &Value| {
        let cells = names.iter().zip(point.as_array().into_iter().flatten());
        let cells = cells.map(|(name, cell)| (name.as_str().expect("a name").to_owned(), cell.clone()));
        json!(cells.collect::<BTreeMap<_, _>>())
    };
    points.iter().map(object).collect()
}

/// A question in InfluxQL.
pub(super) async fn ask_influx(server: SocketAddr, text: &str) -> Value {
    let mut url = reqwest::Url::parse(&format!("http://{server}/query")).expect("a URL");
    url.query_pairs_mut().extend_pairs([("db", INFLUX_DATABASE), ("epoch", "ns"), ("q", text)]);
    let request = http_client().post(url).basic_auth(INFLUX_TOKEN.0, Some(INFLUX_TOKEN.1));
    let answer = soon(text, request.send()).await.expect("an answer");
    let (status, text) = (answer.status(), answer.text().await.expect("a body"));
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).expect("JSON")
}
