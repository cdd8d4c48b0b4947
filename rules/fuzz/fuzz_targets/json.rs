//! Arbitrary bytes as a JSON payload, beside serde_json.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|input: &[u8]| common::fuzz::json(input));
