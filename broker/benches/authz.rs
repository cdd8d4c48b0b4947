//! What a decision about a permission costs a session, beside the goals: `cargo bench -p muster-broker --bench authz`.
//! `MUSTER_BENCH_CLIENTS` says how many other clients have rules, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use muster_broker::authz::{Authority, Cache, Owner, Permission, Retain, Rule, RuleAction, RuleSet};
use muster_broker::{Action, Answer, Authorizer as _, Authz, Identity, Qos, Request, Subject};
use muster_core::clock::{SharedClock, SystemClock};

/// How long one figure is taken, in slices.
const SLICE: Duration = Duration::from_millis(50);
const SLICES: usize = 21;
/// Decisions between two looks at the clock.
const BURST: usize = 256;
/// Rules of each client.
const RULES: usize = 100;
const PUBLISH: Action = Action::Publish { qos: Qos::AtLeastOnce, retain: false };

/// What is measured, how, and what it may cost.
struct Case<'a> {
    name: &'a str,
    goal: Duration,
    decide: Box<dyn FnMut(usize) -> bool + 'a>,
}

fn main() {
    let clients =
        std::env::var("MUSTER_BENCH_CLIENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let clock = SystemClock::shared();
    let authority = authority(clients);
    let subject = subject("device-00001");
    let topics: Vec<_> = (0..16).map(|n| format!("fleet/device-00001/{n}/up")).collect();
    println!(
        "{RULES} rules a client, {clients} clients; median of {SLICES} slices of {} ms\n",
        SLICE.as_millis()
    );
    println!("| decision | a decision takes | fastest to slowest | goal | |");
    println!("| --- | ---: | ---: | ---: | --- |");
    let cached = Duration::from_micros(1);
    let uncached = Duration::from_micros(20);
    let last = topics.last().expect("a topic").as_str();
    for case in [
        Case {
            name: "remembered, 16 topics in turns",
            goal: cached,
            decide: remembered(&authority, &subject, &topics, &clock),
        },
        Case {
            name: "asked, the first rule fits",
            goal: uncached,
            decide: asked(&authority, &subject, "fleet/device-00001/rule-0/x"),
        },
        Case { name: "asked, the last rule fits", goal: uncached, decide: asked(&authority, &subject, last) },
        Case {
            name: "asked, none fits",
            goal: uncached,
            decide: asked(&authority, &subject, "elsewhere/device-00001"),
        },
    ] {
        measure(case, &clock);
    }
}

/// Each client has rules that a topic has to go through: names of its own, wildcards, QoS; the last allows.
fn authority(clients: usize) -> Authority {
    let authority = Authority::default();
    let sets = (0..clients.max(2)).map(|n| {
        let set = RuleSet::compile(rules()).map_err(|(at, _)| at).expect("rules");
        (format!("device-{n:05}"), set)
    });
    authority.put(Owner::Client, sets.collect());
    authority
}

fn rules() -> Vec<Rule> {
    let rule = |topic: String, permission| Rule {
        topic,
        permission,
        action: RuleAction::All,
        qos: vec![0, 1],
        retain: Retain::All,
        clientid_re: None,
        username_re: None,
        ipaddr: None,
        listener: None,
    };
    let mut rules: Vec<_> = (0..RULES - 1)
        .map(|n| match n % 3 {
            0 => rule(format!("fleet/${{clientid}}/rule-{n}/#"), Permission::Allow),
            1 => rule(format!("fleet/+/rule-{n}/+"), Permission::Deny),
            _ => rule(format!("eq fleet/rule-{n}/+"), Permission::Deny),
        })
        .collect();
    rules.push(rule("fleet/${clientid}/+/up".to_owned(), Permission::Allow));
    rules
}

fn subject(clientid: &str) -> Subject {
    Subject {
        cert_common_name: None,
        clientid: clientid.to_owned(),
        username: Some("fleet".to_owned()),
        address: "10.1.2.3".parse().ok(),
        listener: "tcp:default".to_owned(),
        identity: Arc::new(Identity::default()),
        rules: None,
    }
}

/// As a session does it: whether what it remembers counts, and then the answer.
fn remembered<'a>(
    authority: &'a Authority,
    subject: &'a Subject,
    topics: &'a [String],
    clock: &'a SharedClock,
) -> Box<dyn FnMut(usize) -> bool + 'a> {
    let mut cache = Cache::default();
    Box::new(move |n| {
        let topic = topics[n % topics.len()].as_str();
        let request = Request { subject, action: PUBLISH, topic };
        let caching = authority.caching(&request).expect("answers are remembered");
        let now = clock.monotonic();
        if let Some(allow) = cache.get(&caching, PUBLISH, topic, now) {
            authority.remembered(allow);
            return allow;
        }
        let allow = answer(authority, &request).allow;
        cache.put(&caching, PUBLISH, topic, allow, now);
        allow
    })
}

fn asked<'a>(
    authority: &'a Authority,
    subject: &'a Subject,
    topic: &'a str,
) -> Box<dyn FnMut(usize) -> bool + 'a> {
    Box::new(move |_| answer(authority, &Request { subject, action: PUBLISH, topic }).allow)
}

fn answer(authority: &Authority, request: &Request<'_>) -> Authz {
    match authority.authorize(black_box(request)) {
        Answer::Now(answer) => answer,
        Answer::Later(_) => panic!("answers from memory come at once"),
    }
}

fn measure(mut case: Case<'_>, clock: &SharedClock) {
    let mut taken: Vec<f64> = (0..SLICES)
        .map(|_| {
            let (start, mut done) = (clock.monotonic(), 0);
            while clock.monotonic() - start < SLICE {
                for n in 0..BURST {
                    black_box((case.decide)(black_box(n)));
                }
                done += BURST;
            }
            (clock.monotonic() - start).as_secs_f64() * 1e9 / done as f64
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    let (middle, goal) = (taken[SLICES / 2], case.goal.as_secs_f64() * 1e9);
    println!(
        "| {} | {middle:.0} ns | {:.0} to {:.0} ns | {goal:.0} ns | {} |",
        case.name,
        taken[0],
        taken[SLICES - 1],
        if middle < goal { "met" } else { "MISSED" }
    );
}
