//! Arbitrary bytes as a compressed segment of a log.
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| support::fuzz::check_packed(input));
