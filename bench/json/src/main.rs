//! Our reader of JSON payloads beside sonic-rs, simd-json and serde_json, in one run: what four fields cost, and what
//! each makes of texts on which readers disagree. Cargo.toml says how to run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark measures time and may die"
)]
#![allow(dead_code, reason = "the reader is private to its crate, so its file is compiled in here")]

// Under the name that the reader knows.
extern crate self as muster_core;

#[path = "../../../rules/src/program/json.rs"]
mod json;
#[path = "../../../core/src/value.rs"]
pub mod value;

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use simd_json::prelude::{ValueAsScalar as _, ValueObjectAccess as _};
use sonic_rs::{JsonValueTrait as _, PointerTree};
use value::Value;

/// What the reader fails with; stands for the one of the crate.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) Cow<'static, str>);

impl Fault {
    pub(crate) fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// About 300 bytes, as a device sends them.
const TELEMETRY: &str = r#"{"device":"boiler-0042","site":"north hall","ts":1700000000123,"temp":41.5,"humidity":38.25,"battery":{"volts":3.61,"percent":87},"position":{"lat":48.137154,"lon":11.576124},"firmware":"4.12.0-rc1","flags":["calibrated","outdoor"],"counters":[10231,88,0,4],"rssi":-71,"note":null,"ok":true}"#;

/// Number, nested number, text, number; the last stands near the end.
const FIELDS: [&[&str]; 4] = [&["temp"], &["battery", "percent"], &["device"], &["rssi"]];

/// So many readings before the telemetry's own fields.
fn with_readings(count: usize) -> String {
    let readings = vec![TELEMETRY; count].join(",");
    format!("{{\"readings\":[{readings}],{}", &TELEMETRY[1..])
}

/// The telemetry inside of so many objects, `"a"` in `"a"`; the fields stand beside the outermost.
fn deep(levels: usize) -> String {
    let inner = format!("{}{TELEMETRY}{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    format!("{{\"a\":{inner},{}", &TELEMETRY[1..])
}

/// What this thread has computed so far: other work on the machine does not count.
fn cpu_nanos() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Nanoseconds a call: the best of several rounds.
fn nanos(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..25 {
        let (mut calls, start, mut took) = (0u32, cpu_nanos(), 0);
        while took < 10_000_000 {
            for _ in 0..10 {
                work();
            }
            calls += 10;
            took = cpu_nanos() - start;
        }
        best = best.min(took as f64 / f64::from(calls));
    }
    best
}

type Four = (f64, i64, String, i64);
const EXPECTED: (f64, i64, &str, i64) = (41.5, 87, "boiler-0042", -71);

fn check(found: &Four) {
    assert_eq!((found.0, found.1, found.2.as_str(), found.3), EXPECTED);
}

fn ours(tape: &mut json::Tape, text: &Bytes) -> [Value; 4] {
    tape.parse(text).unwrap();
    FIELDS.map(|path| {
        let node = path.iter().try_fold(0, |node, key| tape.key_of(text, node, key));
        tape.value(text, node.unwrap())
    })
}

fn serde(text: &[u8]) -> Four {
    let value: serde_json::Value = serde_json::from_slice(text).unwrap();
    (
        value["temp"].as_f64().unwrap(),
        value["battery"]["percent"].as_i64().unwrap(),
        value["device"].as_str().unwrap().to_owned(),
        value["rssi"].as_i64().unwrap(),
    )
}

fn sonic_dom(text: &[u8]) -> Four {
    let value: sonic_rs::Value = sonic_rs::from_slice(text).unwrap();
    (
        value["temp"].as_f64().unwrap(),
        value["battery"]["percent"].as_i64().unwrap(),
        value["device"].as_str().unwrap().to_owned(),
        value["rssi"].as_i64().unwrap(),
    )
}

/// Stops at each field: what comes after it is not looked at, what comes before is read once for each.
fn sonic_get(text: &[u8]) -> Four {
    let get = |path: &[&str]| sonic_rs::get(text, path).unwrap();
    (
        get(FIELDS[0]).as_f64().unwrap(),
        get(FIELDS[1]).as_i64().unwrap(),
        get(FIELDS[2]).as_str().unwrap().to_owned(),
        get(FIELDS[3]).as_i64().unwrap(),
    )
}

/// All fields in one pass, which ends when all are found.
fn sonic_many(text: &[u8], tree: &PointerTree) -> Four {
    let found = sonic_rs::get_many(text, tree).unwrap();
    let at = |n: usize| found[n].as_ref().unwrap();
    (
        at(0).as_f64().unwrap(),
        at(1).as_i64().unwrap(),
        at(2).as_str().unwrap().to_owned(),
        at(3).as_i64().unwrap(),
    )
}

/// Every key of the outermost object, to the end: the last of equal keys wins, and all of the text is looked at.
fn sonic_iter(text: &[u8]) -> Four {
    let (mut temp, mut percent, mut device, mut rssi) = (None, None, None, None);
    for pair in sonic_rs::to_object_iter(text) {
        let (key, value) = pair.unwrap();
        match key.as_ref() {
            "temp" => temp = value.as_f64(),
            "battery" => percent = value.get("percent").and_then(|value| value.as_i64()),
            "device" => device = value.as_str().map(str::to_owned),
            "rssi" => rssi = value.as_i64(),
            _ => {}
        }
    }
    (temp.unwrap(), percent.unwrap(), device.unwrap(), rssi.unwrap())
}

/// It unescapes in place, so it needs a copy of the text, which belongs to the log's buffer.
fn simd_tape(text: &[u8], copy: &mut Vec<u8>, buffers: &mut simd_json::Buffers) -> Four {
    copy.clear();
    copy.extend_from_slice(text);
    let tape = simd_json::to_tape_with_buffers(copy, buffers).unwrap();
    let value = tape.as_value();
    (
        value.get("temp").unwrap().as_f64().unwrap(),
        value.get("battery").unwrap().get("percent").unwrap().as_i64().unwrap(),
        value.get("device").unwrap().as_str().unwrap().to_owned(),
        value.get("rssi").unwrap().as_i64().unwrap(),
    )
}

fn simd_borrowed(text: &[u8], copy: &mut Vec<u8>, buffers: &mut simd_json::Buffers) -> Four {
    copy.clear();
    copy.extend_from_slice(text);
    let value = simd_json::to_borrowed_value_with_buffers(copy, buffers).unwrap();
    (
        value.get("temp").unwrap().as_f64().unwrap(),
        value.get("battery").unwrap().get("percent").unwrap().as_i64().unwrap(),
        value.get("device").unwrap().as_str().unwrap().to_owned(),
        value.get("rssi").unwrap().as_i64().unwrap(),
    )
}

fn four_fields(name: &str, text: &str) {
    let text = Bytes::copy_from_slice(text.as_bytes());
    let mut tape = json::Tape::default();
    let mut tree = PointerTree::new();
    FIELDS.iter().for_each(|path| tree.add_path(path.iter()));
    let (mut copy, mut buffers) = (Vec::new(), simd_json::Buffers::default());
    let found = ours(&mut tape, &text);
    assert_eq!(found, [41.5.into(), 87i64.into(), "boiler-0042".into(), (-71i64).into()]);
    check(&serde(&text));
    check(&sonic_dom(&text));
    check(&sonic_get(&text));
    check(&sonic_many(&text, &tree));
    check(&sonic_iter(&text));
    check(&simd_tape(&text, &mut copy, &mut buffers));
    check(&simd_borrowed(&text, &mut copy, &mut buffers));
    let own = nanos(|| drop(black_box(ours(&mut tape, black_box(&text)))));
    println!("{name}: {} bytes, 4 fields", text.len());
    let line = |what: &str, took: f64| {
        println!(
            "  {what:<44} {took:9.0} ns {:6.0} MB/s   ours is {:5.2} x as fast",
            text.len() as f64 / took * 1e3,
            took / own
        );
    };
    line("ours: tape, all checked", own);
    line("serde_json::Value, all checked", nanos(|| drop(black_box(serde(black_box(&text))))));
    line("sonic-rs Value, all checked", nanos(|| drop(black_box(sonic_dom(black_box(&text))))));
    line("sonic-rs to_object_iter, top level to its end", nanos(|| drop(black_box(sonic_iter(black_box(&text))))));
    line("sonic-rs get_many, until all are found", nanos(|| drop(black_box(sonic_many(black_box(&text), &tree)))));
    line("sonic-rs get x 4, each until found", nanos(|| drop(black_box(sonic_get(black_box(&text))))));
    let took = nanos(|| drop(black_box(simd_tape(black_box(&text), &mut copy, &mut buffers))));
    line("simd-json tape, all checked", took);
    let took = nanos(|| drop(black_box(simd_borrowed(black_box(&text), &mut copy, &mut buffers))));
    line("simd-json BorrowedValue, all checked", took);
    let utf8 = nanos(|| drop(black_box(std::str::from_utf8(black_box(&text)))));
    println!("  of which ours checks UTF-8 for {utf8:.0} ns");
}

fn whole_values() {
    let text = Bytes::from(with_readings(340));
    let own = nanos(|| drop(black_box(json::decode(black_box(&text)))));
    let serde = nanos(|| drop(black_box(serde_json::from_slice::<serde_json::Value>(black_box(&text)))));
    let sonic = nanos(|| drop(black_box(sonic_rs::from_slice::<sonic_rs::Value>(black_box(&text)))));
    println!("every value of {} KiB, as json_decode() needs them", text.len() / 1024);
    println!("  ours {own:.0} ns, serde_json {:.2} x, sonic-rs {:.2} x that", serde / own, sonic / own);
}

/// What each reader makes of `{"x": ...}` or of what else a device may send, as the value of `x`.
fn semantics() {
    let show = |value: Option<String>| value.unwrap_or_else(|| "refused".into());
    println!(
        "{:<26}{:<26}{:<26}{:<26}{:<26}simd-json tape",
        "text", "ours", "sonic-rs Value", "sonic-rs get_many", "sonic-rs to_object_iter"
    );
    let mut tree = PointerTree::new();
    tree.add_path(["x"].iter());
    let texts: [(&str, &[u8]); 12] = [
        ("integer of 30 digits", br#"{"x":123456789012345678901234567890}"#),
        ("2^64", br#"{"x":18446744073709551616}"#),
        ("1.0 (a float stays one)", br#"{"x":1.0}"#),
        ("-0", br#"{"x":-0}"#),
        ("equal keys: 1, then 2", br#"{"x":1,"x":2}"#),
        ("key written \\u0078", br#"{"\u0078":1}"#),
        ("bytes that are no UTF-8", b"{\"x\":1,\"y\":\"\xff\"}"),
        ("half a surrogate pair", br#"{"x":1,"y":"\ud800"}"#),
        ("garbage after x", br#"{"x":1,oops"#),
        ("bytes after the object", br#"{"x":1} 2"#),
        ("1e999 after x", br#"{"x":1,"y":1e999}"#),
        ("200 levels after x", &nested(200)),
    ];
    for (name, text) in texts {
        let bytes = Bytes::copy_from_slice(text);
        let ours = json::decode(&bytes).ok().and_then(|value| match value {
            Value::Map(map) => map.get("x").map(Value::to_json),
            _ => None,
        });
        let dom = sonic_rs::from_slice::<sonic_rs::Value>(text).ok();
        let dom = dom.and_then(|value| value.get("x").map(|x| x.to_string()));
        let many = sonic_rs::get_many(text, &tree).ok();
        let many = many.and_then(|found| Some(found.first()?.as_ref()?.as_raw_str().to_owned()));
        // The last of equal keys, and nothing where any pair is refused.
        let pairs = sonic_rs::to_object_iter(text).collect::<Result<Vec<_>, _>>().ok();
        let pairs = pairs.and_then(|pairs| {
            let x = pairs.into_iter().rfind(|(key, _)| key == "x")?;
            Some(x.1.as_raw_str().to_owned())
        });
        let mut copy = text.to_vec();
        let tape = simd_json::to_tape(&mut copy).ok();
        let tape = tape.and_then(|tape| {
            let value = tape.as_value().get("x")?;
            let int = value.as_i128().map(|int| int.to_string());
            int.or_else(|| value.as_f64().map(|float| format!("{float:?}")))
        });
        let shown = [ours, dom, many, pairs, tape].map(|value| cut(show(value)));
        println!("{name:<26}{:<26}{:<26}{:<26}{:<26}{}", shown[0], shown[1], shown[2], shown[3], shown[4]);
    }
}

fn nested(levels: usize) -> Vec<u8> {
    format!("{{\"x\":1,\"y\":{}{}}}", "[".repeat(levels), "]".repeat(levels)).into_bytes()
}

fn cut(text: String) -> String {
    if text.len() > 24 { format!("{}..", &text[..22]) } else { text }
}

fn main() {
    four_fields("telemetry", TELEMETRY);
    four_fields("telemetry and 6 readings", &with_readings(6));
    four_fields("telemetry and 340 readings", &with_readings(340));
    four_fields("telemetry beside 100 levels", &deep(100));
    whole_values();
    semantics();
}
