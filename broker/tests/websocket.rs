//! MQTT over WebSockets byte by byte: where frames and packets begin and end, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong"
)]

mod support;

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use muster_broker::{BrokerConfig, Limits, ListenerConfig, ListenerKind};
use muster_core::log::RealDisk;
use support::{Harness, PATIENCE};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

const PACKET_BYTES_MAX: usize = 1 << 10;

async fn harness() -> Harness {
    let listener = ListenerConfig::tcp(([127, 0, 0, 1], 0).into());
    let listeners = vec![ListenerConfig { kind: ListenerKind::Ws, ..listener }];
    let limits = Limits { packet_bytes_max: PACKET_BYTES_MAX, ..Limits::default() };
    let config = BrokerConfig { listeners, limits, ..BrokerConfig::default() };
    Harness::with_config(Arc::new(tempfile::tempdir().unwrap()), RealDisk::shared(), config, |_| {}).await
}

async fn open(
    harness: &Harness,
    path: &str,
    protocol: Option<&'static str>,
) -> Result<WebSocketStream<TcpStream>, Error> {
    let tcp = TcpStream::connect(harness.addr()).await.unwrap();
    let mut request = format!("ws://{}{path}", harness.addr()).into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    }
    let (socket, response) = tokio_tungstenite::client_async(request, tcp).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    Ok(socket)
}

async fn connected(harness: &Harness) -> WebSocketStream<TcpStream> {
    let mut socket = open(harness, "/mqtt", Some("mqtt")).await.unwrap();
    socket.send(Message::binary(CONNECT)).await.unwrap();
    assert_eq!(answer(&mut socket).await, [0x20, 2, 0, 0]);
    socket
}

/// A CONNECT of MQTT 3.1.1 with a clean session, for `ws`.
const CONNECT: &[u8] = b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02ws";
const PING: &[u8] = b"\xC0\0";
const PONG: &[u8] = b"\xD0\0";

/// The bytes of the next binary frame; empty where the connection ends instead.
async fn answer(socket: &mut WebSocketStream<TcpStream>) -> Vec<u8> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("an answer in time") {
            Some(Ok(Message::Binary(bytes))) => return bytes.to_vec(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Vec::new(),
            Some(Ok(other)) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_that_is_none_of_ours_is_refused() {
    let harness = harness().await;
    for (path, protocol, status) in [
        ("/", Some("mqtt"), 404),
        ("/mqtt/more", Some("mqtt"), 404),
        ("/mqtt", Some("chat, mqttv3.1"), 400),
        ("/mqtt", None, 400),
    ] {
        match open(&harness, path, protocol).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status, "{path} {protocol:?}"),
            other => panic!("{path} {protocol:?}: {:?}", other.map(drop)),
        }
    }
    open(&harness, "/mqtt?token=x", Some("chat, mqtt")).await.unwrap();
}

#[tokio::test]
async fn packets_and_frames_need_not_begin_and_end_together() {
    let harness = harness().await;
    let mut socket = open(&harness, "/mqtt", Some("mqtt")).await.unwrap();
    for byte in CONNECT {
        socket.send(Message::binary(vec![*byte])).await.unwrap();
    }
    assert_eq!(answer(&mut socket).await, [0x20, 2, 0, 0]);
    socket.send(Message::binary([PING, PING, &PING[..1]].concat())).await.unwrap();
    socket.send(Message::binary(PING[1..].to_vec())).await.unwrap();
    socket.send(Message::binary(Vec::new())).await.unwrap();
    let mut pongs = Vec::new();
    while pongs.len() < 3 * PONG.len() {
        let more = answer(&mut socket).await;
        assert!(!more.is_empty(), "closed after {pongs:?}");
        pongs.extend(more);
    }
    assert_eq!(pongs, PONG.repeat(3));
}

#[tokio::test]
async fn a_ping_of_the_websocket_is_answered_and_a_text_ends_it() {
    let harness = harness().await;
    let mut socket = connected(&harness).await;
    socket.send(Message::Ping("here?".into())).await.unwrap();
    let pong = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong("here?".into()));
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(answer(&mut socket).await, b"");
}

#[tokio::test]
async fn a_message_that_is_larger_than_any_packet_ends_it() {
    let harness = harness().await;
    let mut socket = connected(&harness).await;
    let packets = PING.repeat((PACKET_BYTES_MAX + (64 << 10)) / PING.len() + 1);
    // The broker may hang up while it is still being sent.
    drop(socket.send(Message::binary(packets)).await);
    assert_eq!(answer(&mut socket).await, b"");
}

#[tokio::test]
async fn a_close_of_the_websocket_is_an_end_without_goodbye() {
    let harness = harness().await;
    let mut socket = connected(&harness).await;
    socket.close(None).await.unwrap();
    assert_eq!(answer(&mut socket).await, b"");
    let gone = async {
        while harness.broker.client("ws").is_some() || harness.broker.listeners()[0].current_connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the client and its connection go");
}
