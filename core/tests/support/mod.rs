//! What the log's tests share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]
#![allow(dead_code, reason = "not every test uses all of it")]

pub mod fuzz;
pub mod fuzz_beside;
pub mod fuzz_event;
pub mod packed;
pub mod segment;
pub mod sim_disk;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The answer of a future that needs not wait; none if it would.
pub fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A number from the environment.
pub fn env_number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Whether the long form of the tests is wanted.
pub fn is_long() -> bool {
    std::env::var_os("MUSTER_LONG").is_some()
}
