//! Tidy is a test: what a reviewer should not have to look for. Each rule says why it is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest line; rustfmt keeps its own in code, this one is for the comments that it leaves alone. A line with a
/// text in quotes may be longer: breaking a text makes it harder to find. Golden texts are as long as they are.
const LINE_CHARS_MAX: usize = 120;
/// A file is a subject; one that grows beyond this holds two.
const FILE_LINES_MAX: usize = 600;

/// Which crate may stand on which; the arrows of ARCHITECTURE.md.
const LAYERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("broker", &["muster-core"]),
    ("rules", &["muster-core"]),
    ("sinks", &["muster-core", "muster-test-servers"]),
    ("server", &["muster-broker", "muster-core", "muster-rules", "muster-sinks"]),
    // The server only for a binary that gives it another clock.
    ("tests", &["muster", "muster-core", "muster-test-servers"]),
    ("tests/servers", &[]),
    // It knows Muster by its address alone.
    ("bench", &["muster-test-servers"]),
];

/// What only one place may name, and why.
const NAMED_IN: &[(&str, &[&str], &str)] = &[
    ("rumqttd::", &["bench/src/rumqttd.rs"], "a foreign broker is a peer in the benchmark and nothing else"),
    (
        "anyhow",
        &["server/src/main.rs", "bench/"],
        "libraries have errors with kinds; only the last layer may forget them",
    ),
    (
        "rumqttc::",
        &["server/src/demo", "server/tests/", "tests/", "broker/tests/"],
        "a foreign client is for the demo and for tests",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file of ours with one of these endings: path from the root and text.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        if endings.iter().any(|ending| path.extension().is_some_and(|e| e == *ending)) {
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(path).expect("our files are UTF-8")));
        }
    });
    assert!(!found.is_empty(), "no file ends in {endings:?}: this test looks in the wrong place");
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // Hidden folders are git's and editors'; the rest is what .gitignore names.
        if path.is_dir()
            && !name.starts_with('.')
            && !["target", "data", "rules-local", "__pycache__"].contains(&&*name)
        {
            walk(&path, visit);
        } else if path.is_file() {
            visit(&path);
        }
    }
}

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn lines_and_files_fit() {
    let mut long = Vec::new();
    for (name, text) in files(&["rs", "proto", "py", "sh"]) {
        let mut golden = false;
        let too_long = text.lines().enumerate().filter(|(_, line)| {
            golden = golden || line.contains("expect![[");
            let exempt = golden || line.contains('"');
            golden = golden && !line.contains("]]");
            line.chars().count() > LINE_CHARS_MAX && !exempt
        });
        long.extend(
            too_long.map(|(at, _)| format!("{name}:{}: longer than {LINE_CHARS_MAX} characters", at + 1)),
        );
        if text.lines().count() > FILE_LINES_MAX {
            long.push(format!("{name}: {} lines, more than {FILE_LINES_MAX}", text.lines().count()));
        }
    }
    assert_none("too long", long);
}

#[test]
fn no_leftovers() {
    // Taken apart, so that this file does not find itself.
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
        concat!("<<<<", "<<<"),
        concat!(">>>>", ">>>"),
        concat!("#[ign", "ore]"),
    ];
    let mut found = Vec::new();
    for (name, text) in files(&["rs", "md", "toml", "sql", "proto", "py", "sh"]) {
        for (at, line) in text.lines().enumerate() {
            let marks = marks.iter().filter(|mark| line.contains(*mark));
            found.extend(marks.map(|mark| format!("{name}:{}: {mark}", at + 1)));
            if line.ends_with([' ', '\t']) {
                found.push(format!("{name}:{}: blank at the end", at + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            found.push(format!("{name}: the last line does not end"));
        }
    }
    assert_none("left over", found);
}

#[test]
fn crates_stand_on_the_layers_below() {
    let manifest: toml::Table = read_toml("Cargo.toml");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    let mut wrong = Vec::new();
    for member in members {
        let member = member.as_str().expect("a path");
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == member) else {
            wrong.push(format!("{member} has no layer; give it one in this test and in ARCHITECTURE.md"));
            continue;
        };
        let manifest = read_toml(&format!("{member}/Cargo.toml"));
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names =
                manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            let ours = names.filter(|name| name.starts_with("muster"));
            let above = ours.filter(|name| !allowed.contains(&name.as_str()));
            wrong.extend(above.map(|name| format!("{member} may not stand on {name}")));
        }
        if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&toml::Value::Boolean(true))
        {
            wrong.push(format!("{member} does not take the workspace's lints"));
        }
    }
    assert_none("arrows between crates", wrong);
}

fn read_toml(name: &str) -> toml::Table {
    let text = fs::read_to_string(root().join(name)).expect("a manifest");
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn names_stay_in_their_place() {
    let mut found = Vec::new();
    for (name, text) in files(&["rs"]) {
        if name == "tests/tests/repository/tidy.rs" {
            continue;
        }
        for (word, places, why) in NAMED_IN {
            let allowed = places.iter().any(|place| name.starts_with(place));
            let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
            let hits = code.filter(|(_, line)| !allowed && names(line, word));
            found.extend(hits.map(|(at, _)| format!("{name}:{}: names {word}; {why}", at + 1)));
        }
    }
    assert_none("named outside its place", found);
}

/// Whether the line uses a path that begins with `word`; `rumqttd::{Router, ...}` counts for `rumqttd::Router`.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let used = line
        .match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part));
    let grouped = word.split_once("::").is_some_and(|(base, item)| {
        line.split_once(&format!("{base}::{{")).is_some_and(|(_, rest)| names(rest, item))
    });
    used || grouped
}

#[test]
fn every_source_file_is_used_and_says_what_it_is_for() {
    let sources = files(&["rs"]);
    let mut wrong = Vec::new();
    for (name, text) in &sources {
        if !text.lines().take(5).any(|line| line.starts_with("//!")) && !name.ends_with("build.rs") {
            wrong.push(format!("{name}: does not begin with what it is for (//!)"));
        }
        let path = Path::new(name);
        let stem = path.file_stem().expect("a name").to_string_lossy();
        let folder = path.parent().expect("a folder");
        let module = if stem == "mod" { folder.file_name().expect("a name").to_string_lossy() } else { stem };
        let is_root = ["main", "lib", "build"].contains(&&*module)
            || ["tests", "benches", "examples", "bin", "fuzz_targets"]
                .iter()
                .any(|kind| folder.ends_with(kind));
        let declared = |text: &str| {
            text.lines().any(|line| {
                let line = line.trim_start();
                let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
                line.strip_prefix("mod ").is_some_and(|rest| rest.trim_end_matches([';', ' ', '{']) == module)
            })
        };
        if !is_root && !sources.iter().any(|(other, text)| other != name && declared(text)) {
            wrong.push(format!("{name}: no `mod {module};` names it"));
        }
    }
    assert_none("source files", wrong);
}

#[test]
fn golden_schemas_exist_and_can_be_read() {
    let schemas = files(&["proto", "json"]).into_iter().filter(|(name, _)| name.starts_with("schemas/"));
    let schemas = schemas.collect::<Vec<_>>();
    assert!(
        schemas.iter().any(|(name, _)| name == "schemas/event.proto"),
        "the body of a record has no schema"
    );
    for (name, text) in schemas.iter().filter(|(name, _)| name.ends_with(".json")) {
        let schema: serde_json::Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let says = if name.ends_with("/openapi.json") { "openapi" } else { "$schema" };
        assert!(schema.get(says).is_some(), "{name} does not say that it is a schema");
    }
}
