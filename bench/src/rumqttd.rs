//! Bare rumqttd, a broker in Rust that is a crate: what it does on its own, in memory.

use std::collections::HashMap;
use std::net::SocketAddr;

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Runs until the process ends.
pub(crate) fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "bench".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let router = RouterConfig {
        max_connections: 20_000,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let v4 = Some(HashMap::from([("1".to_owned(), server)]));
    Broker::new(Config { id: 0, router, v4, ..Config::default() }).start()?;
    Ok(())
}
