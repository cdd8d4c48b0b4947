//! `ca_file` of the InfluxDB sink: a server whose certificate nobody else knows is trusted with it, and not without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

#[path = "support/influx_sink.rs"]
mod influx_sink;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use influx_sink::{opened, row};
use muster_core::value::Value;
use muster_sinks::ErrorKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate for the loopback interface that signs itself; false where there is no `openssl`.
fn certificate(dir: &Path) -> bool {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(dir).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-days", "2", "-subj", "/CN=influx", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"]);
    openssl.output().is_ok_and(|output| output.status.success())
}

/// Says 204 to every request.
fn serve(dir: &Path) -> String {
    drop(rustls::crypto::ring::default_provider().install_default());
    let cert = CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, stream.unwrap()));
            let (mut line, mut length) = (String::new(), 0);
            // A client that does not trust us ends here.
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                let name = line.to_ascii_lowercase();
                length = name.strip_prefix("content-length:").map_or(length, |it| it.trim().parse().unwrap());
                line.clear();
            }
            if line == "\r\n" {
                stream.read_exact(&mut vec![0; length]).unwrap();
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        }
    });
    url
}

#[tokio::test]
async fn only_who_is_given_the_certificate_trusts_it() {
    let dir = tempfile::tempdir().unwrap();
    if !certificate(dir.path()) {
        eprintln!("not run: openssl cannot be had here");
        return;
    }
    let options = [("url", serve(dir.path())), ("bucket", "b".into())];
    let one = || vec![row([("n", Value::Int(1))])];
    let error = opened(&options, &[]).await.came(one()).await.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.in_words().contains("is not trusted"), "{}", error.in_words());
    assert!(error.hint().contains("`ca_file`"), "{}", error.hint());
    let file = dir.path().join("cert.pem");
    opened(&options, &[("ca_file", file.to_str().unwrap())]).await.came(one()).await.all_durable();
    for (name, said) in [("missing.pem", "cannot be read"), ("key.pem", "holds no certificate")] {
        let file = dir.path().join(name);
        let mut sink = influx_sink::sink(&options, &[("ca_file", file.to_str().unwrap())]).unwrap();
        let error = sink.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.in_words().contains(said), "{}", error.in_words());
    }
}
