//! The binary from outside, as devices and operators meet it. One program, so that it is linked once and its tests
//! share the cores.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong"
)]

mod alarms;
mod authn;
mod authz;
mod clients;
mod common;
mod compress;
mod config;
mod conservation;
mod crash;
mod demo;
mod devices;
mod https;
mod idempotency;
mod left_behind;
mod letters;
mod load;
mod model;
mod openapi;
mod presence;
mod publish_rest;
mod records;
mod replays;
mod republish;
mod rest;
mod rules;
mod rules_offline;
mod rules_rest;
mod security_doors;
mod security_http;
mod security_rest;
mod sessions;
mod sinks;
mod stalls;
mod statistics;
mod stop;
mod stores;
mod survive;
mod transport;
mod walk;
mod webhook;
