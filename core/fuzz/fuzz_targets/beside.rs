//! Arbitrary bytes as an index or a mark of a clean stop, beside good segments.
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| support::fuzz_beside::check(input));
