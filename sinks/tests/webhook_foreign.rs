//! What the webhook sink sends, judged by strangers: signatures by the reference library of Standard Webhooks,
//! CloudEvents by their SDK, TLS with certificates on both sides by Python's. See `tests/servers/webhook`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::clock::SystemClock;
use muster_core::event::NewEvent;
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::{ErrorKind, Outcome, Sink, SinkEnv, SinkError};
use muster_test_servers::Server;
use serde_json::{Value, json};
use support::{batch, opened, publish, refused, row};

/// The stranger; none where it cannot be had.
struct Stranger {
    server: Server,
    dir: PathBuf,
}

impl Stranger {
    fn start() -> Option<Self> {
        let server = Server::own("webhook")?;
        let dir = server.dir()?.to_owned();
        Some(Self { server, dir })
    }

    /// From now on it accepts what is signed with `secret`.
    fn knows(&self, secret: &str) {
        std::fs::write(self.dir.join("secret"), secret).unwrap();
    }

    fn received(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("received")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn sink(&self, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let url = format!("http://{}/hook", self.server.address());
        self.sink_at(&url, options).await.unwrap()
    }

    async fn sink_at(&self, url: &str, options: &[(&str, &str)]) -> Result<Box<dyn Sink>, SinkError> {
        let env = SinkEnv {
            data_dir: self.dir.clone(),
            databases: Databases::default(),
            clock: SystemClock::shared(),
        };
        let mut all = vec![("url", url)];
        all.extend(options);
        opened("webhook", ("hot", None), &env, &all).await
    }
}

fn secret(of: &str) -> String {
    format!("whsec_{}", STANDARD.encode(format!("{of:-<32}")))
}

/// Rows that are hard to sign and to carry.
fn rows() -> Vec<(NewEvent, Row)> {
    let rows = [
        r#"{"clientid":"pümp-7","temp":21.5,"note":"日本語 🚰 \u0000 \" \\ </script>"}"#,
        r#"{"clientid":"b","list":[1,null,{"a":"é"}],"big":18446744073709551615}"#,
        "{}",
    ];
    let clients = ["pümp-7", "b", ""];
    let event = |client: &str| publish(client, "x", 1_700_000_000_042);
    clients.iter().zip(rows).map(|(client, json)| (event(client), row(json))).collect()
}

fn kind_of(outcome: Result<Outcome, SinkError>) -> (ErrorKind, String) {
    match outcome {
        Ok(Outcome::PerRow { error: Some(error), .. }) | Err(error) => {
            (error.kind(), format!("{}; {}", error.in_words(), error.hint()))
        }
        other => panic!("no trouble: {other:?}"),
    }
}

#[tokio::test]
async fn signatures_hold_also_while_secrets_change() {
    let Some(stranger) = Stranger::start() else { return };
    let (old, new) = (secret("old"), secret("new"));
    let both = format!("{new} {old}");
    let batch = batch("hot", 0, rows());
    // The receiver changes its secret in its own time; both are fine for as long as both sign.
    for (ours, theirs, fine) in [
        (&old, &old, true),
        (&both, &old, true),
        (&both, &new, true),
        (&new, &new, true),
        (&new, &old, false),
    ] {
        stranger.knows(theirs);
        for more in [&[][..], &[("batch", "true")], &[("format", "cloudevents_batch")], &[("in_flight", "3")]]
        {
            let mut sink = stranger.sink(&[&[("secret", &**ours)], more].concat()).await;
            let before = stranger.received().len();
            let outcome = sink.deliver(&batch).await;
            if fine {
                assert_eq!(refused(outcome), [""; 0]);
                assert!(stranger.received().len() > before);
            } else {
                let (kind, words) = kind_of(outcome);
                assert_eq!((kind, words.contains("`secret`")), (ErrorKind::Misconfigured, true), "{words}");
            }
        }
    }
    for taken in stranger.received() {
        assert_eq!(taken["headers"]["idempotency-key"], taken["headers"]["webhook-id"]);
    }
    let taken = stranger.received();
    let body: Value = serde_json::from_str(taken[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["note"], "日本語 🚰 \u{0} \" \\ </script>");
}

#[tokio::test]
async fn cloudevents_are_what_their_sdk_reads() {
    let Some(stranger) = Stranger::start() else { return };
    stranger.knows(&secret("s"));
    let (secret, batch) = (secret("s"), batch("hot pumps", 7, rows()));
    for format in ["cloudevents_structured", "cloudevents_binary", "cloudevents_batch"] {
        let mut sink = stranger.sink(&[("secret", &secret), ("format", format)]).await;
        let before = stranger.received().len();
        assert_eq!(refused(sink.deliver(&batch).await), [""; 0], "{format}");
        let taken = stranger.received().split_off(before);
        let events: Vec<Value> =
            taken.iter().flat_map(|taken| taken["events"].as_array().unwrap().clone()).collect();
        assert_eq!(events.len(), 3, "{format}");
        let first = json!({
            "specversion": "1.0",
            "id": "ABCD0000000000000000000000000007.0",
            "source": "/muster/rules/hot%20pumps",
            "type": "muster.message.publish",
            "time": "2023-11-14T22:13:20.042Z",
            "subject": "pümp-7",
            "partitionkey": "pümp-7",
            "datacontenttype": "application/json",
            "data": {"clientid": "pümp-7", "temp": 21.5, "note": "日本語 🚰 \u{0} \" \\ </script>"},
        });
        let mut event = events[0].clone();
        if format == "cloudevents_binary" {
            // The SDK leaves headers percent-encoded, and takes the content type for the body's alone.
            let subject = "p%C3%BCmp-7";
            assert_eq!((&event["subject"], &event["partitionkey"]), (&json!(subject), &json!(subject)));
            assert_eq!(event["source"], "/muster/rules/hot%2520pumps");
            for name in ["subject", "partitionkey", "source"] {
                event[name] = first[name].clone();
            }
            event["datacontenttype"] = taken[0]["headers"]["content-type"].clone();
        }
        assert_eq!(event, first, "{format}");
        assert_eq!(events[2]["data"], json!({}));
        assert!(events[2].get("subject").is_none(), "{format}");
    }
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let Some(stranger) = Stranger::start() else { return };
    let port = std::fs::read_to_string(stranger.dir.join("tls-port")).unwrap();
    let url = format!("https://127.0.0.1:{port}/hook");
    let batch = batch("hot", 0, rows());
    let ours = [("ca_file", "ca.pem"), ("cert_file", "client.pem"), ("key_file", "client.key")];
    let mut sink = stranger.sink_at(&url, &ours).await.unwrap();
    assert_eq!(refused(sink.deliver(&batch).await), [""; 0]);
    sink.check().await.unwrap();
    assert!(stranger.received().iter().all(|taken| taken["peer"] == "client"), "{:?}", stranger.received());
    let many = stranger.received().len();

    for (options, hint) in [
        (&[][..], "`ca_file`"),
        (&[("ca_file", "other-ca.pem")], "`ca_file`"),
        (&[("ca_file", "ca.pem")], "`cert_file`"),
        (
            &[("ca_file", "ca.pem"), ("cert_file", "stranger.pem"), ("key_file", "stranger.key")],
            "`cert_file`",
        ),
    ] {
        let mut sink = stranger.sink_at(&url, options).await.unwrap();
        let (kind, words) = kind_of(sink.deliver(&batch).await);
        assert_eq!((kind, words.contains(hint)), (ErrorKind::Misconfigured, true), "{options:?}: {words}");
    }
    assert_eq!(stranger.received().len(), many, "nothing was taken of a stranger");

    for (options, what) in [
        (&[("ca_file", "gone.pem")][..], "`ca_file` of the webhook"),
        (&[("ca_file", "ca.key")], "holds no certificate"),
        (&[("cert_file", "client.pem"), ("key_file", "ca.srl")], "hold no certificate and no key"),
        (&[("cert_file", "client.pem"), ("key_file", "stranger.key")], "cannot set up"),
        (&[("cert_file", "client.pem")], "needs a `key_file`"),
    ] {
        let error = stranger.sink_at(&url, options).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.in_words().contains(what), "{options:?}: {}", error.in_words());
    }
}

#[tokio::test]
async fn renewed_certificates_are_taken_up() {
    let Some(stranger) = Stranger::start() else { return };
    let port = std::fs::read_to_string(stranger.dir.join("tls-port")).unwrap();
    let (cert, key) = (stranger.dir.join("now.pem"), stranger.dir.join("now.key"));
    let put = |who: &str| {
        std::fs::copy(stranger.dir.join(format!("{who}.pem")), &cert).unwrap();
        std::fs::copy(stranger.dir.join(format!("{who}.key")), &key).unwrap();
    };
    put("stranger");
    let ours = [("ca_file", "ca.pem"), ("cert_file", "now.pem"), ("key_file", "now.key")];
    let mut sink = stranger.sink_at(&format!("https://127.0.0.1:{port}/"), &ours).await.unwrap();
    let batch = batch("hot", 0, rows());
    assert_eq!(kind_of(sink.deliver(&batch).await).0, ErrorKind::Misconfigured);
    put("client");
    assert_eq!(refused(sink.deliver(&batch).await), [""; 0]);
}
