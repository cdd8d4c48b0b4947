//! Fixtures as data: files of cases, each `input` line followed by what came of it.

#![allow(dead_code, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "shared by tests")]

pub(crate) mod fuzz;

use std::fmt::Write as _;

/// Holds `path` against what `answer` makes of its cases. Lines that begin with `> ` are answers; they are written
/// anew when UPDATE_EXPECT is set.
pub(crate) fn fixture(path: &str, mut answer: impl FnMut(&str) -> String) {
    let path = format!("{}/tests/data/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the fixture can be read");
    let mut out = String::new();
    let mut case = String::new();
    let mut flush = |case: &mut String, out: &mut String| {
        if case.trim().is_empty() {
            return;
        }
        for line in answer(case.trim_end()).lines() {
            let _ = writeln!(out, "{}", format!("> {line}").trim_end());
        }
        case.clear();
    };
    for line in text.lines() {
        let is_answer = line.starts_with('>');
        let is_note = line.is_empty() || line.starts_with("##");
        if is_note {
            flush(&mut case, &mut out);
        }
        if !is_answer {
            out.push_str(line);
            out.push('\n');
        }
        if !is_answer && !is_note {
            case.push_str(line);
            case.push('\n');
        }
    }
    flush(&mut case, &mut out);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, out).expect("the fixture can be written");
    } else if text != out {
        let differs = text.lines().zip(out.lines()).find(|(a, b)| a != b);
        panic!("{path} differs: {differs:#?}\nrun with UPDATE_EXPECT=1 and look at the changes");
    }
}
