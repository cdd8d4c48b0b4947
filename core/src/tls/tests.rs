//! Files that change, break and end; what a client sees of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;
use crate::clock::ManualClock;

const ALPN: &[&[u8]] = &[b"mqtt"];

struct Made {
    dir: tempfile::TempDir,
    certificate: rcgen::Certificate,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificate = write(dir.path());
        Self { dir, certificate }
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            certificates: self.dir.path().join("cert.pem"),
            key: self.dir.path().join("key.pem"),
            client_ca: None,
            client_certificates: ClientCertificates::Optional,
        }
    }
}

fn write(dir: &Path) -> rcgen::Certificate {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert
}

/// A handshake in memory with a client that trusts one certificate alone.
fn handshake(tls: &Tls, trusted: &rcgen::Certificate) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(tls.config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_certificate_that_changes_on_disk_is_served_after_reload_and_a_broken_one_is_not() {
    let made = Made::new();
    let tls = Tls::load(made.files(), ALPN).unwrap();
    assert_eq!(tls.config().alpn_protocols, [b"mqtt".to_vec()]);
    handshake(&tls, &made.certificate).unwrap();
    assert!(!tls.reload().unwrap());

    let second = write(made.dir.path());
    handshake(&tls, &made.certificate).unwrap();
    assert!(tls.reload().unwrap());
    handshake(&tls, &second).unwrap();
    handshake(&tls, &made.certificate).unwrap_err();

    fs::write(made.files().certificates, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    tls.reload().unwrap_err();
    handshake(&tls, &second).unwrap();
}

#[test]
fn errors_name_the_file_and_show_nothing_of_the_key() {
    let secret = "c2VjcmV0c2VjcmV0";
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let no_key = format!("-----BEGIN PRIVATE KEY{secret}\n{secret}\n");
    let cases: [(&str, &str, &str); 5] = [
        ("key.pem", &other_key, "cert.pem and the key do not fit together"),
        ("key.pem", &no_key, "key.pem holds no private key in PEM"),
        ("key.pem", secret, "key.pem holds no private key in PEM"),
        ("cert.pem", secret, "cert.pem holds no certificate in PEM"),
        ("cert.pem", &no_key, "cert.pem holds no certificate in PEM"),
    ];
    for (file, contents, expected) in cases {
        let made = Made::new();
        fs::write(made.dir.path().join(file), contents).unwrap();
        let error = Tls::load(made.files(), ALPN).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error:?}{error}").contains(secret), "{error:?}");
    }
    let made = Made::new();
    fs::remove_file(made.files().key).unwrap();
    let error = Tls::load(made.files(), ALPN).unwrap_err();
    assert!(error.to_string().contains("key.pem cannot be read"), "{error}");
}

#[test]
fn a_client_without_a_certificate_is_refused_only_where_one_is_required() {
    for (client_certificates, is_let_in) in
        [(ClientCertificates::Optional, true), (ClientCertificates::Required, false)]
    {
        let made = Made::new();
        let client_ca = made.dir.path().join("ca.pem");
        fs::write(&client_ca, made.certificate.pem()).unwrap();
        let files = TlsFiles { client_ca: Some(client_ca), client_certificates, ..made.files() };
        let tls = Tls::load(files, ALPN).unwrap();
        let outcome = handshake(&tls, &made.certificate);
        assert_eq!(outcome.is_ok(), is_let_in, "{client_certificates:?}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn following_takes_a_new_certificate_by_itself() {
    let made = Made::new();
    let tls = Tls::load(made.files(), ALPN).unwrap();
    let stop = CancellationToken::new();
    let follower = tls.clone().follow(Duration::from_secs(10), ManualClock::at(0), stop.clone());
    let follower = tokio::spawn(follower);
    let second = write(made.dir.path());
    while handshake(&tls, &second).is_err() {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    stop.cancel();
    follower.await.unwrap();
}

#[test]
fn the_end_of_a_certificate_is_warned_of_once_a_day() {
    let day_ms = 24 * 3_600 * 1_000;
    let mut watch = Watch::default();
    let at = |hours: u64| Duration::from_secs(hours * 3_600);
    assert!(!watch.is_due(15 * day_ms, at(0)));
    assert!(watch.is_due(13 * day_ms, at(1)));
    assert!(!watch.is_due(13 * day_ms, at(2)));
    assert!(watch.is_due(12 * day_ms, at(26)));
    assert!(watch.is_due(-day_ms, at(51)));
}
