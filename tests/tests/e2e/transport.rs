//! Ways to connect besides plain TCP: TLS, WebSockets, both, behind a load balancer; and clients that hold a place
//! without saying anything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_tests::mqtt::{Client, Connect, Version, kind};
use muster_tests::paho::Paho;
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, PATIENCE, need, tools, until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// Clients that connect and say nothing.
const SILENT: usize = 5_000;
/// Devices behind one address that come at the same moment.
const TOGETHER: usize = 1_000;
/// Devices behind the address of the silent ones.
const NEIGHBOURS: usize = 100;

/// Who signs certificates, in a folder with what it has signed.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Writes `FILE.pem` and `FILE.key`.
    fn sign(&self, file: &str, common_name: &str) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.folder.join(format!("{file}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).expect("a file");
    }
}

const TLS: &str = "tls_certificates = 'server.pem'\ntls_key = 'server.key'\n";

/// A home with `ca.pem`, `other.pem` and a certificate of the former.
fn home(mqtt: &str) -> (Home, Authority) {
    let home = Home::new();
    home.configure(&format!("[mqtt]\n{mqtt}"));
    let authority = Authority::new(home.path(), "ca");
    Authority::new(home.path(), "other");
    authority.sign("server", "server");
    (home, authority)
}

/// One of mosquitto's clients, by TLS; `ca` names who may have signed the broker's certificate.
fn by_tls(program: &Path, broker: SocketAddr, home: &Home, ca: &str) -> tokio::process::Command {
    let mut command = tools::mosquitto(program, broker);
    command.current_dir(home.path()).args(["--cafile", ca]);
    command
}

async fn client(muster: &Muster, id: &str) -> Value {
    let path = format!("/api/v5/clients/{id}");
    until(&path, PATIENCE, async || {
        let (status, body) = muster.get(&path).await;
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart_and_strangers_are_not_trusted() {
    let (publisher, subscriber) = (need!("mosquitto_pub"), need!("mosquitto_sub"));
    let (home, _authority) = home(&format!("tls_listen = '127.0.0.1:0'\n{TLS}"));
    let mut muster = home.start().await;
    let tls = muster.at("mqtts");
    let send = |ca: &str, payload: &str| {
        let mut command = by_tls(&publisher, tls, &home, ca);
        command.args(["-q", "1", "-t", "t", "-m", payload]);
        command
    };
    let mut old = by_tls(&subscriber, tls, &home, "ca.pem");
    old.args(["-i", "old", "-q", "1", "-t", "t", "-C", "2"]).stdout(std::process::Stdio::piped());
    let old = tools::spawn(&mut old);
    let shown = client(&muster, "old").await;
    assert_eq!(shown["listener"], "ssl:default");
    until("it is subscribed", PATIENCE, async || {
        (client(&muster, "old").await["subscriptions_cnt"] == 1).then_some(())
    })
    .await;
    tools::run(&mut send("ca.pem", "first")).await;
    let (said, is_sent) = tools::try_run(&mut send("other.pem", "never")).await;
    assert!(!is_sent, "a certificate of a stranger was trusted: {said}");

    let next = Authority::new(home.path(), "next");
    next.sign("server", "server");
    until("the new certificate is served", PATIENCE, async || {
        tools::try_run(&mut send("next.pem", "second")).await.1.then_some(())
    })
    .await;
    assert!(!tools::try_run(&mut send("ca.pem", "never")).await.1, "the old certificate is still served");
    assert_eq!(tools::output(old).await, "first\nsecond\n", "the old connection stays");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_a_certificate_is_the_user_name_where_one_is_asked_for() {
    let subscriber = need!("mosquitto_sub");
    let (home, authority) = home(&format!(
        "tls_listen = '127.0.0.1:0'\n{TLS}tls_client_ca = 'ca.pem'\ntls_client_certificates = 'required'\n\
         username_from_certificate = 'cn'\n"
    ));
    authority.sign("pump", "pump-7");
    Authority::new(home.path(), "foreign").sign("foreign-pump", "pump-7");
    let mut muster = home.start().await;
    let tls = muster.at("mqtts");
    let subscribe = |id: &str, certificate: Option<&str>| {
        let mut command = by_tls(&subscriber, tls, &home, "ca.pem");
        command.args(["-i", id, "-u", "somebody-else", "-t", "t"]);
        if let Some(name) = certificate {
            command.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
        }
        command
    };
    let connected = tools::spawn(&mut subscribe("with", Some("pump")));
    assert_eq!(client(&muster, "with").await["username"], "pump-7");
    for (id, certificate) in [("without", None), ("foreign", Some("foreign-pump"))] {
        // It ends by itself only where it is not let in.
        let (said, _) = tools::try_run(subscribe(id, certificate).args(["-C", "1"])).await;
        assert_eq!(muster.get(&format!("/api/v5/clients/{id}")).await.0, 404, "{said}");
    }
    drop(connected);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_by_websockets_plain_and_secure() {
    let python = need!("paho");
    let (home, _authority) =
        home(&format!("listen = 'none'\nws_listen = '127.0.0.1:0'\nwss_listen = '127.0.0.1:0'\n{TLS}"));
    let mut muster = Muster::start(home.command(&["run", "--http", "127.0.0.1:0"])).await;
    let ca = home.path().join("ca.pem").display().to_string();
    let (plain, secure) = (muster.at("ws"), muster.at("wss"));
    let ways = [
        ("ws:default", plain, json!({"transport": "websockets", "path": "/mqtt"})),
        ("wss:default", secure, json!({"transport": "websockets", "path": "/mqtt", "ca": ca})),
    ];
    let large = "x".repeat(200_000);
    for (listener, address, mut options) in ways {
        options["clientid"] = json!(listener);
        let (mut paho, connected) = Paho::connect(&python, address, options).await;
        assert_eq!(connected["code"], 0);
        assert_eq!(client(&muster, listener).await["listener"], listener);
        paho.order(json!({"do": "subscribe", "topics": ["t"], "qos": 1})).await;
        paho.event("subscribed").await;
        for payload in ["small", &large] {
            paho.order(json!({"do": "publish", "topic": "t", "payload": payload, "qos": 1})).await;
            assert_eq!(paho.event("message").await["payload"], payload);
        }
        let shown = muster.json(&format!("/api/v5/listeners/{listener}")).await;
        assert_eq!((&shown["status"]["running"], &shown["current_connections"]), (&json!(true), &json!(1)));
        paho.disconnect().await;
    }
    let ids: Vec<_> = muster.json("/api/v5/listeners").await.as_array().expect("a list").clone();
    assert_eq!(ids.iter().map(|it| &it["type"]).collect::<Vec<_>>(), ["ws", "wss"]);
    assert_eq!(muster.get("/api/v5/listeners/tcp:default").await.0, 404);
    muster.stop().await;
}

/// A header of the PROXY protocol, version 2, for a client at 203.0.113.7:4242.
fn announced(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12, 203, 0, 113, 7, 198, 51, 100, 1]);
    header.extend([4242_u16.to_be_bytes(), 1883_u16.to_be_bytes()].concat());
    header
}

/// Says `before` and CONNECT; the connection and the code of the CONNACK, none where there is no answer.
async fn greet(muster: &Muster, before: &[u8], client_id: &str) -> (Client, Option<u8>) {
    let mut client = Client::open(muster.mqtt, Version::V5).await.expect("a connection");
    let connect = Connect::new(Version::V5, client_id).encode();
    client.send(&[before, &connect].concat()).await.expect("a connection");
    let answer = soon("an answer or an end", client.receive()).await;
    let code = answer.ok().flatten().map(|connack| connack.body[1]);
    (client, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_address_that_it_says_is_shown_and_banned() {
    let (home, _) = home("proxy_protocol = true\nallow_anonymous = true\n");
    let muster = home.start().await;
    let (_client, code) = greet(&muster, &announced(1), "far").await;
    assert_eq!(code, Some(0));
    let shown = client(&muster, "far").await;
    assert_eq!((&shown["ip_address"], &shown["peerport"]), (&json!("203.0.113.7"), &json!(4242)));
    let (_client, code) = greet(&muster, &announced(0), "balancer").await;
    assert_eq!(code, Some(0));
    assert_eq!(client(&muster, "balancer").await["ip_address"], "127.0.0.1");
    let (_client, code) = greet(&muster, b"PROXY TCP6 2001:db8::7 ::1 4242 1883\r\n", "text").await;
    assert_eq!(code, Some(0));
    assert_eq!(client(&muster, "text").await["ip_address"], "2001:db8::7");
    for wrong in [&b""[..], b"PROXY TCP4 nowhere 1.2.3.4 1 2\r\n", &announced(2)] {
        assert_eq!(greet(&muster, wrong, "wrong").await.1, None, "{wrong:?}");
    }
    let ban = json!({"as": "peerhost", "who": "203.0.113.7"});
    assert_eq!(muster.send("POST", "/api/v5/banned", ban).await.0, 200);
    assert_eq!(greet(&muster, &announced(1), "far-again").await.1, Some(0x8A));
    assert_eq!(greet(&muster, &announced(0), "balancer-again").await.1, Some(0));
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_silent_connections_leave_room_for_those_who_speak() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a limit that is allowed");
    // Nobody leaves by himself.
    let (home, _) = home("connect_timeout = '10m'\n");
    let muster = home.start().await;
    let broker = muster.mqtt;
    let silent_from = move |last: u8| async move {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("an address of loopback");
        soon("a connection", socket.connect(broker)).await.expect("a connection")
    };
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(silent_from(2).await);
    }
    let mut good = JoinSet::new();
    for number in 0..TOGETHER + NEIGHBOURS {
        let last = if number < TOGETHER { 3 } else { 2 };
        good.spawn(async move {
            let started = tokio::time::Instant::now();
            let stream = silent_from(last).await;
            let mut client = Client::over(stream, Version::V4).expect("a connection");
            let connect = Connect::new(Version::V4, &format!("good-{number}")).encode();
            client.send(&connect).await.expect("a connection");
            assert_eq!(client.expect(kind::CONNACK).await.body[1], 0);
            client.publish("t", b"here", 1, false).await;
            (client, started.elapsed())
        });
    }
    let good = soon("every good device is served", good.join_all()).await;
    let mut took: Vec<_> = good.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    eprintln!("connect and publish beside {SILENT} silent: p50 {:?}, p99 {:?}", took[550], took[1_089]);
    until("the silent have no more than their share", PATIENCE, async || {
        let listener = muster.json("/api/v5/listeners/tcp:default").await;
        let current = listener["current_connections"].as_u64().expect("a number");
        let good = (TOGETHER + NEIGHBOURS) as u64;
        assert!(current >= good, "{listener}");
        (current <= good + 1_024).then_some(())
    })
    .await;
    drop((good, silent));
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_stopped_takes_nobody_and_keeps_who_is_there() {
    let home = Home::new();
    let muster = home.start().await;
    let mut here = Client::connect(muster.mqtt, Version::V5, "here").await;
    let change = async |what: &str| {
        let (status, shown) =
            muster.send("POST", &format!("/api/v5/listeners/tcp:default/{what}"), Value::Null).await;
        assert_eq!(status, 200, "{what}: {shown}");
        shown["status"]["running"].clone()
    };
    for _ in 0..2 {
        assert_eq!(change("stop").await, false);
        assert!(Client::open(muster.mqtt, Version::V5).await.is_err(), "the port is still open");
        here.publish("t", b"still here", 1, false).await;
        for what in ["start", "start", "restart"] {
            assert_eq!(change(what).await, true);
        }
        Client::connect(muster.mqtt, Version::V5, "new").await;
    }
    let (status, _) = muster.send("POST", "/api/v5/listeners/ssl:default/start", Value::Null).await;
    assert_eq!(status, 404);
    muster.stop().await;
}

/// Sends one byte after the other, with pauses, until the broker has closed the connection; what it said before.
async fn dribble(mut client: Client, bytes: &[u8]) -> Vec<u8> {
    let mut pauses = tokio::time::interval(Duration::from_millis(100));
    let mut bytes = bytes.iter().cycle();
    let dribbled = async {
        loop {
            tokio::select! {
                received = client.receive() => match received {
                    Ok(Some(packet)) => return vec![packet.kind(), packet.reason()],
                    Ok(None) | Err(_) => return Vec::new(),
                },
                _ = pauses.tick() => {
                    let byte = bytes.next().copied().expect("it goes round");
                    if client.send(&[byte]).await.is_err() {
                        return Vec::new();
                    }
                }
            }
        }
    };
    soon("the broker ends it", dribbled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_byte_now_and_then_is_ended_before_and_after_connect() {
    let (home, _) = home(&format!("connect_timeout = '1s'\ntls_listen = '127.0.0.1:0'\n{TLS}"));
    let mut muster = home.start().await;
    let mut long = Connect::new(Version::V5, &"x".repeat(1_000)).encode();
    for address in [muster.mqtt, muster.at("mqtts")] {
        if address != muster.mqtt {
            // The record of a TLS handshake that goes on and on.
            long = [&[0x16, 3, 1, 0x10, 0, 1, 0, 0x0F, 0xFC][..], &[3; 4_000]].concat();
        }
        let client = Client::open(address, Version::V5).await.expect("a connection");
        assert_eq!(dribble(client, &long).await, b"", "nobody is told anything");
    }
    let mut connect = Connect::new(Version::V5, "slow");
    connect.keep_alive = 1;
    let (client, _, code) = Client::greet(muster.mqtt, &connect).await.expect("CONNACK");
    assert_eq!(code, 0);
    // A publish of 100,000 bytes, none of which is ever the last.
    let publish = [&[0x30, 0xA0, 0x8D, 0x06, 0, 1, b't', 0][..], &[b'x'; 1_000]].concat();
    assert_eq!(dribble(client, &publish).await, [kind::DISCONNECT, 0x8D], "keep alive timeout");
    muster.stop().await;
}
