//! REST by TLS: what a server shows, whom commands believe, and certificates that change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, PATIENCE, tools, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::security_rest::add;

/// A certificate of its own making and its key, in files.
struct Made {
    pem: String,
    certificate: PathBuf,
    key: PathBuf,
}

fn make(folder: &Path, name: &str) -> Made {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let put = |path: &Path, text: &str| {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text).expect("a file");
        std::fs::rename(draft, path).expect("a file");
    };
    put(&certificate, &cert.pem());
    put(&key, &signing_key.serialize_pem());
    Made { pem: cert.pem(), certificate, key }
}

async fn start(home: &Home, made: &Made, more: &[&str]) -> Muster {
    let certificates = format!("http.tls_certificates={}", made.certificate.display());
    let key = format!("http.tls_key={}", made.key.display());
    home.start_with(&[&["--set", &certificates, "--set", &key], more].concat()).await
}

/// A client that trusts one certificate.
fn trusting(pem: &str) -> reqwest::Client {
    drop(http_client());
    let certificate = reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate");
    reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_by_tls_and_commands_that_find_it() {
    let home = Home::new();
    let made = make(home.path(), "localhost");
    let ops = add(&home, "ops", "administrator").await;
    let muster = start(&home, &made, &["--set", "http.header_timeout=2s"]).await;
    assert!(muster.output().iter().any(|line| line.starts_with("http listening on https://")));
    let url = format!("https://localhost:{}", muster.http.port());
    let client = trusting(&made.pem);
    let answer = soon("an answer", client.get(format!("{url}/status")).send()).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_11));
    let refused =
        soon("an answer", client.get(format!("{url}/api/v5/stats")).send()).await.expect("an answer");
    assert_eq!(refused.status().as_u16(), 401);

    // Plain HTTP is told so; who says nothing is not waited for.
    let mut plain = TcpStream::connect(muster.http).await.expect("a connection");
    plain.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut said = String::new();
    soon("an answer", plain.read_to_string(&mut said)).await.expect("an answer");
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("HTTPS"), "{said}");
    let mut silent = TcpStream::connect(muster.http).await.expect("a connection");
    silent.write_all(&[0x16, 3, 1]).await.expect("sent");
    let ended = soon("the end of a handshake that stopped", silent.read_to_end(&mut Vec::new())).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");

    // On its machine a command needs nothing but the data directory, whatever name the certificate has.
    let http = muster.http.to_string();
    tools::run(&mut home.command(&["pipelines", "list", "--http", &http])).await;
    tools::run(&mut home.command(&["replays", "list", "--url", &url])).await;
    // From elsewhere: a key, and somebody to believe.
    let elsewhere = Home::new();
    let other = make(elsewhere.path(), "localhost");
    let list = |arguments: &[&str]| {
        let mut command = elsewhere.command(&[&["pipelines", "list", "--url", &url], arguments].concat());
        command.env("MUSTER_API_KEY", &ops.key).env("MUSTER_API_SECRET", &ops.secret);
        command
    };
    let ca = made.certificate.display().to_string();
    tools::run(&mut list(&["--ca", &ca])).await;
    let wrong_ca = other.certificate.display().to_string();
    for arguments in [&[][..], &["--ca", &wrong_ca]] {
        let (output, is_ok) = tools::try_run(&mut list(arguments)).await;
        assert!(!is_ok && output.contains("is not believed"), "{arguments:?}: {output}");
    }

    // Another certificate counts without a restart, and the old one no more.
    let new = make(home.path(), "localhost");
    until("the new certificate is shown", PATIENCE, async || {
        trusting(&new.pem).get(format!("{url}/status")).send().await.ok()
    })
    .await;
    assert!(trusting(&made.pem).get(format!("{url}/status")).send().await.is_err());
    tools::run(&mut home.command(&["pipelines", "list", "--http", &http])).await;
    // What is broken changes nothing.
    std::fs::write(&new.key, "nonsense").expect("a file");
    muster.until_printed("the certificate is served as it was before").await;
    let answer = trusting(&new.pem).get(format!("{url}/status")).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    let printed = muster.output().join("\n");
    assert!(!printed.contains("nonsense"), "nothing of a key is shown: {printed}");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_by_tls_is_said_at_once() {
    let home = Home::new();
    let made = make(home.path(), "localhost");
    let elsewhere = Home::new();
    let other = make(elsewhere.path(), "localhost");
    let certificates = format!("http.tls_certificates={}", made.certificate.display());
    let run = ["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--set", &certificates];
    for (key, why) in [
        (None, "http.tls_key"),
        (Some(other.key.display().to_string()), "do not fit together"),
        (Some("missing.pem".to_owned()), "missing.pem cannot be read"),
    ] {
        let key = key.map(|key| format!("http.tls_key={key}"));
        let more: Vec<_> = key.iter().flat_map(|key| ["--set", key]).collect();
        let (output, is_ok) = tools::try_run(&mut home.command(&[&run[..], &more].concat())).await;
        assert!(!is_ok && output.contains(why), "{key:?}: {output}");
    }
    // Beyond this machine, without TLS: it starts, and says what that means.
    let open = home.command(&["run", "--mqtt", "127.0.0.1:0", "--http", "0.0.0.0:0"]);
    let muster = Muster::start(open).await;
    muster.until_printed("cross the network readable").await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_lock_of_who_is_leaving() {
    let home = Home::new();
    home.start().await.stop().await;
    let lock = std::fs::File::open(home.data().join("log").join("LOCK")).expect("the lock");
    lock.lock().expect("nobody has it");
    let start = home.start();
    tokio::pin!(start);
    let early = tokio::time::timeout(Duration::from_millis(700), &mut start).await;
    assert!(early.is_err(), "it waits, and does not give up");
    lock.unlock().expect("it was ours");
    let muster = start.await;
    assert!(muster.output().iter().any(|line| line.contains("waiting for its end")));
    muster.stop().await;

    // Not for ever.
    lock.lock().expect("nobody has it");
    let run = ["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let (output, is_ok) = tools::try_run(&mut home.command(&run)).await;
    assert!(!is_ok && output.contains("in use by another process"), "{output}");
}
