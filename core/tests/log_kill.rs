//! A process that appends is killed at random, again and again, over one and the same log: whatever it was told is
//! durable is there, dense, in order, and as it was written. It is killed 50 times, with `MUSTER_LONG=1` 200 times.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_core::log::{Compress, Log, LogConfig, NewRecord, OpenReport, RealDisk};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use support::{env_number, is_long};

const APPENDERS: u64 = 16;
const DIR: &str = "MUSTER_KILL_TEST_DIR";

fn open(dir: &Path) -> (Log, OpenReport) {
    // Compressed at once, so that a kill meets that too.
    let compress = Some(Compress { after: Duration::ZERO, ..Compress::default() });
    let config = LogConfig { segment_bytes_max: 1024 * 1024, compress, ..LogConfig::new(dir) };
    Log::open(config, RealDisk::shared(), SystemClock::shared()).unwrap()
}

/// What appender `who` writes as its `n`th record.
fn record(who: u64, n: u64) -> NewRecord {
    // Now and then one that is large, so that a kill can tear its write.
    let times = if n % 17 == 3 { 30_000 } else { n % 40 + 1 };
    let body = format!("{who} {n} ").repeat(usize::try_from(times).unwrap());
    NewRecord { timestamp_ms: 0, kind: 1, topic: "kill".into(), body: body.into() }
}

/// The process that is killed. It says `offset who n` for each record that is durable.
#[test]
#[ignore = "only as a child of the test below"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (log, _) = open(dir.as_ref());
        let appenders = (0..APPENDERS).map(|who| {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    let offset = log.append(record(who, n)).await.unwrap();
                    log.durable(offset).await.unwrap();
                    // One write a line: a kill may cut the last line of all, no other.
                    std::io::stdout().lock().write_all(format!("{offset} {who} {n}\n").as_bytes()).unwrap();
                }
            })
        });
        for appender in appenders.collect::<Vec<_>>() {
            appender.await.unwrap();
        }
    });
}

#[test]
fn what_a_killed_process_was_told_is_durable_is_there() {
    let seed = env_number("MUSTER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (mut end_before, mut torn, mut compressed) = (0, 0, 0);
    for _ in 0..if is_long() { 200 } else { 50 } {
        let acks = run_and_kill(dir.path(), rng.random_range(1..600));
        let (log, report) = open(dir.path());
        torn += u64::from(report.torn_tail.is_some());
        compressed = compressed.max(report.segments_compressed);
        end_before = check(&log, end_before, &acks);
    }
    eprintln!("{end_before} records, {torn} torn tails, {compressed} segments compressed");
    assert!(compressed > 0);
}

/// Lets a child append until it has said so many lines, kills it, and returns all that it said.
fn run_and_kill(dir: &Path, lines: usize) -> Vec<(u64, u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut acks, mut line) = (Vec::new(), String::new());
    while out.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') {
            acks.extend(parse(&line));
        }
        line.clear();
        if acks.len() == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acks.len() >= lines, "the child ended by itself");
    acks
}

/// None for what the test harness says.
fn parse(line: &str) -> Option<(u64, u64, u64)> {
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    Some((words.next()??, words.next()??, words.next()??))
}

/// Holds the records since `from` to what the child said; returns their end.
fn check(log: &Log, from: u64, acks: &[(u64, u64, u64)]) -> u64 {
    let mut reader = log.reader(from);
    let mut next_of = [0; APPENDERS as usize];
    let mut found = Vec::new();
    while let Some(batch) = reader.try_next_batch().unwrap() {
        for seen in batch.iter() {
            assert_eq!(seen.offset(), from + found.len() as u64);
            let text = std::str::from_utf8(seen.body()).unwrap();
            let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or_default());
            let (who, n) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(seen.body(), record(who, n).body, "offset {}", seen.offset());
            let next = &mut next_of[usize::try_from(who).unwrap()];
            assert_eq!(n, *next, "records of one appender are in order, none is missing");
            *next += 1;
            found.push((who, n));
        }
    }
    for (offset, who, n) in acks {
        let place = usize::try_from(offset - from).unwrap();
        assert_eq!(found.get(place), Some(&(*who, *n)), "offset {offset} was acknowledged");
    }
    from + found.len() as u64
}
