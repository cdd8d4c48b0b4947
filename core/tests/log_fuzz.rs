//! The fuzz targets without a fuzzer: the corpus, and for each of its files many mutations that a seed gives. With
//! `.ci/fuzz segment packed beside event` a fuzzer looks for more. `MUSTER_CASES` runs more mutations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use support::{env_number, fuzz, fuzz_beside, fuzz_event};

#[test]
fn arbitrary_segments_are_read_or_refused() {
    replay("segment", fuzz::check);
}

#[test]
fn arbitrary_compressed_segments_are_read_or_refused() {
    replay("packed", fuzz::check_packed);
}

#[test]
fn arbitrary_indexes_and_marks_are_read_or_left_aside() {
    replay("beside", fuzz_beside::check);
}

#[test]
fn arbitrary_bodies_are_events_or_refused() {
    replay("event", fuzz_event::check);
}

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 4, "the corpus is there");
    inputs.iter().for_each(|input| check(input));
    let seeds = match env_number("MUSTER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env_number("MUSTER_CASES").unwrap_or(4_000),
    };
    for seed in seeds {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut input = inputs[rng.random_range(0..inputs.len())].clone();
        mutate(&mut input, &mut rng);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            eprintln!("SEED={seed}: run again with MUSTER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn mutate(input: &mut Vec<u8>, rng: &mut SmallRng) {
    let Some(first) = input.first_mut() else { return };
    *first = rng.random();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(1..input.len().max(2));
        if at >= input.len() {
            return;
        }
        match rng.random_range(0..6) {
            0 => input.truncate(at),
            1 => input[at] = rng.random(),
            2 => input[at] ^= 1 << rng.random_range(0..8),
            3 => {
                let end = (at + rng.random_range(1..64)).min(input.len());
                input[at..end].fill(0);
            }
            4 => {
                let end = (at + rng.random_range(1..300)).min(input.len());
                drop(input.drain(at..end));
            }
            _ => {
                let end = (at + rng.random_range(1..300)).min(input.len());
                let copy = input[at..end].to_vec();
                let to = rng.random_range(1..=input.len());
                drop(input.splice(to..to, copy));
            }
        }
    }
}
