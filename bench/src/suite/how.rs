//! What was done in a scenario, in words, and the command that does it again to any broker.

use super::{Action, Scenario};
use crate::codec::Version;
use crate::load::{Load, Shape};

/// For the report.
pub(super) fn how(scenario: &Scenario) -> String {
    let words = match scenario.action {
        Action::Traffic(_) => traffic(&scenario.load),
        Action::Idle => {
            format!("{} clients, each with one subscription, that do nothing", scenario.load.publishers)
        }
        Action::Connect(at_once) => {
            let rate = scenario.load.rate.map_or_else(String::new, |rate| format!(", {rate} a second"));
            format!("{} new clients, {at_once} at a time{rate}", scenario.load.publishers)
        }
        Action::Storm(at_once) => format!(
            "{} clients with kept sessions lose their connections in one moment, and come back {at_once} at a time",
            scenario.load.publishers
        ),
    };
    format!("{words}. Again: `{}`", again(scenario))
}

/// Publishers, sizes, windows, and whether there is a schedule.
pub(super) fn traffic(load: &Load) -> String {
    let mut words = vec![format!("{} publishers", load.publishers)];
    if load.subscribers > 0 {
        words.push(format!("{} subscribers", load.subscribers));
    }
    words.push(format!("payload {} bytes", load.payload_bytes));
    words.push(format!("QoS {}", load.qos));
    words.push(format!("MQTT {}", mqtt(load.target.version)));
    if load.qos > 0 {
        words.push(format!("at most {} of a publisher on the way", load.window));
    } else {
        words.push("at most 1,024 of a publisher not known to be read".to_owned());
    }
    if let Some(messages) = load.messages {
        words.push(format!("{messages} messages each"));
    } else {
        let (warm_up, time) = (load.warm_up.as_secs_f64(), load.time.as_secs_f64());
        words.push(format!("{warm_up} s before and {time} s while it is measured"));
    }
    words.push(looped(load).to_owned());
    words.join(", ")
}

fn looped(load: &Load) -> &'static str {
    if load.rate.is_some() {
        "open loop: latencies count from the schedule, whether or not it could be kept"
    } else {
        "closed loop: there is no schedule, so latencies say nothing of stalls"
    }
}

fn again(scenario: &Scenario) -> String {
    let load = &scenario.load;
    let mut words = vec!["muster-bench".to_owned()];
    let rate = |load: &Load| load.rate.map(|rate| format!("--rate {rate}"));
    match scenario.action {
        Action::Traffic(shape) => {
            words.push(command(shape).to_owned());
            words.extend(options(load));
            let fan = matches!(shape, Shape::FanIn | Shape::FanOut);
            words.extend(fan.then(|| format!("--subscribers {}", load.subscribers)));
            words.push(format!("--warm-up {}", load.warm_up.as_secs_f64()));
        }
        Action::Idle => words.push(format!(
            "idle --clients {} --warm-up {} --seconds {} --pid PID",
            load.publishers,
            load.warm_up.as_secs_f64(),
            load.time.as_secs_f64()
        )),
        Action::Connect(at_once) => {
            words.push(format!("connect --clients {} --at-once {at_once}", load.publishers));
            words.extend(rate(load));
        }
        Action::Storm(at_once) => {
            words.push(format!("reconnect-storm --clients {} --at-once {at_once}", load.publishers));
        }
    }
    words.push("--broker HOST:PORT".to_owned());
    words.join(" ")
}

/// Those that differ from what the command takes by itself are not told apart: all are said.
pub(super) fn options(load: &Load) -> Vec<String> {
    let mut words = vec![
        format!("--publishers {}", load.publishers),
        format!("--payload {}", load.payload_bytes),
        format!("--qos {}", load.qos),
        format!("--mqtt {}", mqtt(load.target.version)),
        format!("--window {}", load.window),
        format!("--seconds {}", load.time.as_secs_f64()),
    ];
    words.extend(load.rate.map(|rate| format!("--rate {rate}")));
    words.extend(load.messages.map(|messages| format!("--messages {messages}")));
    words
}

const fn mqtt(version: Version) -> &'static str {
    match version {
        Version::V4 => "3.1.1",
        Version::V5 => "5",
    }
}

const fn command(shape: Shape) -> &'static str {
    match shape {
        Shape::Publish => "publish",
        Shape::FanIn => "fan-in",
        Shape::FanOut => "fan-out",
        Shape::PeerToPeer => "p2p",
        Shape::Devices => "devices",
    }
}
