//! Arbitrary bytes as what a client sends. The codec is private to the broker, so its files are compiled in here.
#![no_main]
#![allow(dead_code, reason = "only a part of the broker is here")]

#[path = "../../src/codec/mod.rs"]
mod codec;
#[path = "../../src/codec_check.rs"]
mod codec_check;
#[path = "../../src/frame.rs"]
mod frame;

libfuzzer_sys::fuzz_target!(|input: &[u8]| codec_check::check(input));
