//! Connections of attackers: those that say little, those that say too much, and far too many of them.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, PATIENCE, until};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::security_rest::{Key, add};

/// How often something drips.
const DRIP_EVERY: Duration = Duration::from_millis(200);

fn head(method: &str, path: &str, key: Option<&Key>, rest: &str) -> String {
    let key = key.map_or_else(String::new, |Key { key, secret }| {
        format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{key}:{secret}")))
    });
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{key}{rest}\r\n"
    )
}

async fn connect(address: SocketAddr) -> TcpStream {
    soon("a connection", TcpStream::connect(address)).await.expect("a connection")
}

/// All that comes until the server ends the connection.
async fn rest_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _end = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of the answer and what of its body came with it.
async fn first_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.windows(4).any(|it| it == b"\r\n\r\n") {
        let read = soon("an answer", stream.read_buf(&mut answer)).await.expect("an answer");
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// Sends a byte now and then until the server ends the connection; what it said, and after how long.
async fn drip(mut stream: TcpStream) -> (String, Duration) {
    let started = Instant::now();
    let mut drips = tokio::time::interval(DRIP_EVERY);
    let mut said = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut said) => if !matches!(read, Ok(1..)) { break },
            _ = drips.tick() => {
                if stream.write_all(b"x").await.is_err() {
                    break;
                }
            }
        }
        assert!(started.elapsed() < PATIENCE, "it drips for ever");
    }
    (String::from_utf8_lossy(&said).into_owned(), started.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_drip_are_ended_and_hold_up_nobody() {
    const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
    let home = Home::new();
    let ops = add(&home, "ops", "administrator").await;
    let settings = ["http.header_timeout=3s", "http.request_timeout=3s", "http.idle_timeout=2s"];
    let settings: Vec<_> = settings.iter().flat_map(|it| ["--set", it]).collect();
    let muster = home.start_with(&settings).await;
    let mut dripping = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(muster.http).await;
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\nx-drip: ").await.expect("sent");
        dripping.push(tokio::spawn(drip(stream)));
    }
    let good = http_client();
    let mut worst = Duration::ZERO;
    let mut asked = 0;
    while !dripping.iter().all(tokio::task::JoinHandle::is_finished) {
        let started = Instant::now();
        let answer =
            soon("an answer meanwhile", good.get(format!("http://{}/status", muster.http)).send()).await;
        assert_eq!(answer.expect("an answer").status().as_u16(), 200);
        worst = worst.max(started.elapsed());
        asked += 1;
    }
    println!("200 connections dripped: {asked} others were answered meanwhile, the slowest after {worst:?}");
    assert!(asked > 10, "somebody was answered meanwhile");
    for ended in join_all(dripping).await {
        let (said, after) = ended.expect("no panic");
        assert!(said.is_empty(), "{said}");
        assert!(
            after + DRIP_EVERY >= HEADER_TIMEOUT,
            "it was ended by patience, not for its seat: {after:?}"
        );
    }

    // Bodies that drip: as long as the request may take, where somebody may ask at all.
    let bodies = (0..20).map(async |_| {
        let mut stream = connect(muster.http).await;
        let head = head("POST", "/api/v5/publish", Some(&ops), "content-length: 1000\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        drip(stream).await.0
    });
    for said in join_all(bodies).await {
        assert_eq!(status(&said), 408, "{said}");
        assert!(said.contains("\"code\":\"REQUEST_TIMEOUT\""), "{said}");
    }
    let mut nobody = connect(muster.http).await;
    let head = head("POST", "/api/v5/publish", None, "content-length: 1000\r\n");
    nobody.write_all(head.as_bytes()).await.expect("sent");
    assert_eq!(status(&first_of(&mut nobody).await), 401, "nothing of the body was waited for");

    // Who was answered and says nothing more.
    let mut idle = connect(muster.http).await;
    idle.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    assert_eq!(status(&rest_of(&mut idle).await), 200);
    muster.stop().await;
}

/// A request on a connection that stays.
async fn ask_on(stream: &mut TcpStream) {
    stream.write_all(b"HEAD /status HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    assert_eq!(status(&first_of(stream).await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_lock_out_nobody() {
    const FLOOD: usize = 5_000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("more files");
    let home = Home::new();
    let muster = home.start().await;
    // Somebody at another address, with one connection from before the flood.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("another address of this machine");
    let mut other = soon("a connection", socket.connect(muster.http)).await.expect("a connection");
    ask_on(&mut other).await;

    let before = muster.memory_bytes();
    let (mut flood, mut worst) = (Vec::new(), Duration::ZERO);
    for n in 0..FLOOD {
        flood.push(connect(muster.http).await);
        if n % 100 == 0 {
            let started = Instant::now();
            ask_on(&mut other).await;
            // And somebody new at the address of the flood.
            ask_on(&mut connect(muster.http).await).await;
            worst = worst.max(started.elapsed());
        }
    }
    let files = muster.open_files();
    assert!(files < 400, "{files} files are open, for at most 256 connections of an address");
    let after = muster.memory_bytes();
    println!(
        "{FLOOD} connections that say nothing: the slowest of {} pairs of requests took {worst:?}; {files} files open; \
         memory {} KiB before, {} KiB after",
        FLOOD / 100,
        before / 1024,
        after / 1024
    );
    assert!(after.saturating_sub(before) < 64 << 20, "{before} bytes of memory became {after}");
    drop(flood);
    until("the flood is forgotten", PATIENCE, async || (muster.open_files() < 150).then_some(())).await;
    ask_on(&mut other).await;
    muster.stop().await;
}

const LARGE_BYTES: usize = 10 << 20;

/// Sends 10 MB, by their length or in chunks, and hears what is said of them; an answer counts only when it arrives.
async fn send_large(muster: &Muster, path: &str, key: Option<&Key>, in_chunks: bool) -> u16 {
    let framing = if in_chunks {
        "transfer-encoding: chunked\r\n".to_owned()
    } else {
        format!("content-length: {LARGE_BYTES}\r\n")
    };
    let head = head("POST", path, key, &framing);
    let stream = connect(muster.http).await;
    let (mut read, mut write) = stream.into_split();
    let sent = tokio::spawn(async move {
        let block = vec![b'['; 64 * 1_024];
        write.write_all(head.as_bytes()).await?;
        for _ in 0..LARGE_BYTES / block.len() {
            if in_chunks {
                write.write_all(b"10000\r\n").await?;
            }
            write.write_all(&block).await?;
            if in_chunks {
                write.write_all(b"\r\n").await?;
            }
        }
        std::io::Result::Ok(write)
    });
    let mut answer = Vec::new();
    while !answer.windows(4).any(|it| it == b"\r\n\r\n") {
        let read = soon("an answer", read.read_buf(&mut answer)).await;
        assert!(matches!(read, Ok(1..)), "{path}: {read:?} after {}", String::from_utf8_lossy(&answer));
    }
    drop(read);
    // Nobody has to take the rest.
    drop(soon("all is sent or refused", sent).await.expect("no panic"));
    status(&String::from_utf8_lossy(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_cost_nothing() {
    const PATHS: &[&str] = &[
        "/api/v5/rules",
        "/api/v5/publish",
        "/api/v5/clients/kickout/bulk",
        "/api/v5/clients/a/subscribe",
        "/api/v5/authentication/password_based%3Abuilt_in_database/users",
        "/api/v5/authentication/password_based%3Abuilt_in_database/import_users?type=plain",
        "/api/v5/authorization/sources/built_in_database/rules/clients",
        "/api/v5/banned",
        "/api/v4/mqtt/publish",
    ];
    let home = Home::new();
    let ops = add(&home, "ops", "administrator").await;
    let muster = home.start().await;
    // The size that is said is enough.
    for (path, key, expected) in
        [("/api/v5/rules", Some(&ops), 413), ("/api/v5/rules", None, 401), ("/api/v5/login", None, 413)]
    {
        let mut stream = connect(muster.http).await;
        let head = head("POST", path, key, &format!("content-length: {LARGE_BYTES}\r\n"));
        stream.write_all(head.as_bytes()).await.expect("sent");
        assert_eq!(status(&first_of(&mut stream).await), expected, "{path}: before a byte of it was sent");
    }
    let before = muster.memory_bytes_max();
    let started = Instant::now();
    for in_chunks in [false, true] {
        let with_key = PATHS.iter().map(async |path| {
            assert_eq!(send_large(&muster, path, Some(&ops), in_chunks).await, 413, "{path}, {in_chunks}");
        });
        let without = PATHS.iter().map(async |path| {
            assert_eq!(send_large(&muster, path, None, in_chunks).await, 401, "{path}, {in_chunks}");
        });
        tokio::join!(join_all(with_key), join_all(without));
        assert_eq!(send_large(&muster, "/api/v5/login", None, in_chunks).await, 413);
    }
    let grown = muster.memory_bytes_max().saturating_sub(before);
    println!(
        "38 bodies of 10 MB, 18 at a time: refused within {:?}; the most memory that was used grew by {} KiB",
        started.elapsed(),
        grown / 1024
    );
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_wrong_are_refused_and_nothing_is_smuggled() {
    let home = Home::new();
    let ops = add(&home, "ops", "administrator").await;
    let muster = home.start().await;
    let long = format!("/api/v5/clients?like_clientid={}", "a".repeat(20_000));
    let longest = format!("/api/v5/clients?like_clientid={}", "a".repeat(70_000));
    let (many, fat) = ("x-a: 1\r\n".repeat(200), format!("x-a: {}\r\n", "a".repeat(100_000)));
    for (request, expected) in [
        (head("GET", &long, Some(&ops), "connection: close\r\n"), vec![414]),
        (head("GET", &longest, Some(&ops), "connection: close\r\n"), vec![414, 431]),
        (head("GET", "/status", None, &many), vec![431]),
        (head("GET", "/status", None, &fat), vec![431]),
        (head("GET", "/status", None, "content-length: 5\r\ncontent-length: 6\r\n"), vec![400]),
        (head("GET", "/status", None, "content-length: +5\r\n"), vec![400]),
        (head("GET", "/status", None, "transfer-encoding: gzip\r\n"), vec![400]),
        (head("GET", "/status", None, "x-a: a\0b\r\n"), vec![400]),
        (head("GET", "/status", None, " folded: a\r\n"), vec![400]),
        ("GET /status\r\n\r\n".to_owned(), vec![400]),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), vec![400]),
    ] {
        let mut stream = connect(muster.http).await;
        // The answer may come before the end of what it refuses.
        let _sent = stream.write_all(request.as_bytes()).await;
        let answer = rest_of(&mut stream).await;
        let shown: String = request.chars().take(80).collect();
        assert!(expected.contains(&status(&answer)), "{shown:?}: {answer}");
        if status(&answer) == 414 && request.len() < 60_000 {
            assert!(answer.contains("\"code\":\"URI_TOO_LONG\""), "{answer}");
        }
    }
    // What hides behind a length and chunks at once is no request of its own.
    let hidden = "0\r\n\r\nGET /status HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let both = format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", hidden.len());
    let mut stream = connect(muster.http).await;
    let request = head("POST", "/api/v5/rules", None, &both) + hidden;
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("sent");
    let answer = rest_of(&mut stream).await;
    assert!(status(&answer) >= 400 && !answer.contains(" 200 "), "{answer}");

    // Line ends in what is asked for come back in no header.
    for path in [
        "/api/v5/clients/a%0d%0ax-evil:%20yes",
        "/api/v5/clients?page=1%0d%0ax-evil:%20yes",
        "/api/v5/clients?like_clientid=a%0d%0ax-evil:%20yes",
        "/api/v5/rules/a%0d%0ax-evil:%20yes",
        "/api/v5/topics/a%0d%0ax-evil:%20yes",
        "/api/v5/banned?clientid=a%0d%0ax-evil:%20yes",
        "/api/v5/mqtt/retainer/message/a%0d%0ax-evil:%20yes",
        "/api/v5/authentication/a%0d%0ax-evil:%20yes",
        "/api/v4/clients/a%0d%0ax-evil:%20yes",
        "/api/v1/devices/a%0d%0ax-evil:%20yes",
        "/api/docs/a%0d%0ax-evil:%20yes",
        "/nothing/a%0d%0ax-evil:%20yes",
    ] {
        for (key, expected) in [(Some(&ops), 200..500), (None, 401..402)] {
            let mut stream = connect(muster.http).await;
            let request = head("GET", path, key, "connection: close\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let answer = rest_of(&mut stream).await;
            let (headers, _) = answer.split_once("\r\n\r\n").expect("an answer");
            assert!(expected.contains(&status(&answer)), "{path}: {answer}");
            let is_header = |line: &str| line.to_ascii_lowercase().starts_with("x-evil");
            assert!(!headers.lines().any(is_header), "{path}: {answer}");
        }
    }
    muster.stop().await;
}
