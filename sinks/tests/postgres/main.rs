//! What only PostgreSQL does, against a real server; the contract suite tests what every sink must do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod db;
mod faults;
mod refused;
mod schema;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod upserts;
mod values;
