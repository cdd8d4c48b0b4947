//! Arbitrary text as a rule file, a SELECT or an expression; after the first zero byte the payload it is run on.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|input: &[u8]| common::fuzz::rule(input));
