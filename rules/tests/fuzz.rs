//! The fuzz targets without a fuzzer: their corpus, and for each of its files mutations that a seed gives. With
//! `.ci/fuzz rule json` a fuzzer looks for more. `MUSTER_CASES` runs more mutations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::fuzz;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 20, "the corpus is there");
    inputs
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Every file of the corpus, then pieces of one put into another.
fn replay(target: &str, cases: u64, check: fn(&[u8])) {
    let inputs = corpus(target);
    inputs.iter().for_each(|input| check(input));
    let seeds = match number("MUSTER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MUSTER_CASES").unwrap_or(cases),
    };
    for seed in seeds {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut pick = || inputs[rng.random_range(0..inputs.len())].clone();
        let (mut input, other) = (pick(), pick());
        let place = |rng: &mut SmallRng, bytes: &[u8]| {
            let (a, b) = (rng.random_range(0..=bytes.len()), rng.random_range(0..=bytes.len()));
            a.min(b)..a.max(b)
        };
        let (from, to) = (place(&mut rng, &other), place(&mut rng, &input));
        input.splice(to, other[from].iter().copied());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            eprintln!("SEED={seed}: run again with MUSTER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn arbitrary_rules_are_answered() {
    replay("rule", 300, fuzz::rule);
}

#[test]
fn arbitrary_json_is_read_as_serde_json_reads_it() {
    replay("json", 3_000, fuzz::json);
}

#[test]
fn every_function_is_in_the_dictionary() {
    let dictionary = include_str!("../fuzz/rule.dict");
    let missing: Vec<_> = muster_rules::function_usages()
        .map(|(name, _)| name)
        .filter(|name| !dictionary.contains(&format!("\"{name}(\"")))
        .collect();
    assert!(missing.is_empty(), "rules/fuzz/rule.dict lacks {missing:?}");
}
