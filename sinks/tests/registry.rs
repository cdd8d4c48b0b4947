//! Declarations that are wrong are refused with words that help, before anything is opened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::expect;
use muster_core::clock::SystemClock;
use muster_sinks::database::Databases;
use muster_sinks::{Built, SinkEnv, SinkError, SinkSpec, build};

fn declared(kind: &str, target: Option<&str>, options: &[(&str, &str)]) -> Result<Built, SinkError> {
    let env = SinkEnv {
        data_dir: "/nowhere".into(),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    build(&SinkSpec { kind, name: "ops", target, rule: "rule", options: &options }, &env)
}

#[test]
fn what_is_wrong_is_named() {
    let url = ("url", "https://u:secret1@x.example/p?k=secret2");
    let mut said = String::new();
    let mut refused = |kind, target, options: &[(&str, &str)]| {
        said += &(declared(kind, target, options).unwrap_err().in_words() + "\n");
    };
    refused("webhok", None, &[]);
    refused("pigeon", None, &[]);
    refused("webhook", None, &[]);
    refused("webhook", None, &[url, ("timeout", "5")]);
    refused("webhook", None, &[url, ("colour", "red")]);
    refused("webhook", None, &[("url", "ops.example.com")]);
    refused("webhook", None, &[("url", "ftp://secret3@x")]);
    refused("webhook", None, &[url, ("batch", "yes")]);
    refused("webhook", None, &[url, ("in_flight", "0")]);
    refused("webhook", None, &[url, ("secret", "secret4!")]);
    refused("webhook", None, &[url, ("header.X", "a\nb")]);
    refused("webhook", Some("table"), &[url]);
    refused("webhook", None, &[url, ("batch_rows", "0")]);
    refused("sqlite", Some("sqlite_master"), &[]);
    refused("sqlite", None, &[("synchronous", "off")]);
    expect![[r#"
        there is no sink of type `webhok`; did you mean `webhook`?
        there is no sink of type `pigeon`; known are `clickhouse`, `influxdb`, `kafka`, `mongodb`, `postgres`, `sqlite`, `webhook`
        the webhook sink `ops` needs the option `url`
        a webhook sink has no option `timeout`; did you mean `timeout_ms`?
        a webhook sink has no option `colour`; known are `url`, `secret`, `method`, `batch`, `format`, `body`, `content_type`, `ce_source`, `ce_type`, `idempotency_key`, `timeout_ms`, `in_flight`, `private_ranges`, `ca_file`, `cert_file`, `key_file`, `header.`, `batch_rows`, `batch_bytes`, `batch_wait_ms`, `max_dead_letters_per_minute`, `retry_wait_max_ms`, `lanes`
        option `url` of the webhook sink `ops` is no address: relative URL without a base
        option `url` of the webhook sink `ops` must begin with http:// or https://
        option `batch` of the webhook sink `ops` must be one of `true`, `false`
        option `in_flight` of the webhook sink `ops` must be between 1 and 64
        option `secret` of the webhook sink `ops` must be `whsec_` and base64, e.g. of 32 random bytes
        option `header.X` of the webhook sink `ops` holds what a header cannot
        a webhook has no tables: write `INTO` the sink's name without `.table`
        option `batch_rows` of the webhook sink `ops` must be a whole number, and no smaller than makes sense
        the table name `sqlite_master` is reserved; choose another
        option `synchronous` of the sqlite sink `ops` must be one of `full`, `normal`
    "#]]
    .assert_eq(&said);
    assert!(!said.contains("secret1") && !said.contains("secret4"), "a secret is shown");
}

#[test]
fn options_and_targets_are_taken() {
    let built = declared("sqlite", None, &[("batch_rows", "7"), ("batch_wait_ms", "0")]).unwrap();
    assert_eq!((built.limits.batch_rows_max, built.limits.batch_wait), (7, Duration::ZERO));
    assert_eq!(built.target, "rule", "the table is named after the rule");
    assert_eq!(declared("sqlite", Some("history"), &[]).unwrap().target, "history");
    assert_eq!(declared("webhook", None, &[("url", "http://x/")]).unwrap().target, "");
}
