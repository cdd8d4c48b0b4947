//! Alarms about the event log and about pipelines that stand still: each is told once when it begins and once when it
//! ends, as events that rules can carry and as lines on stderr. What a full log cannot take is written as soon as it
//! takes something again. An alarm that the log says is on when the platform starts is not told again, and its end is
//! told if it is over by then.

use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{LogErrorKind, LogStats};
use muster_sinks::delivery::PipelineStatus;
use tracing::{info, warn};

use super::percent;
use super::stalls::Stalls;
use crate::presence::ActiveAlarm;

const CAP: &str = "log_cap_80_percent";
const FULL: &str = "log_full";

/// What can be wrong with the log while the platform runs on.
pub(super) struct Alarms {
    journal: Journal,
    clock: SharedClock,
    node: String,
    all: [Alarm; 2],
    stalls: Stalls,
}

struct Alarm {
    name: &'static str,
    is_on: fn(&LogStats) -> bool,
    message: fn(&LogStats) -> String,
    state: State,
}

/// Where an alarm is between its beginning and its end.
#[derive(Debug)]
pub(super) enum State {
    Off,
    /// It began; whether the log took the event that says so.
    On {
        since_ms: i64,
        message: String,
        told: bool,
    },
    /// It ended, and the log has not taken the event that says so yet.
    Ended {
        since_ms: i64,
        until_ms: i64,
        message: String,
    },
}

impl Alarms {
    /// `active` are the alarms that were told and whose end was not.
    pub(super) fn new(journal: &Journal, clock: SharedClock, node: &str, active: &[ActiveAlarm]) -> Self {
        let told = |name| {
            let on = active.iter().find(|alarm| alarm.name == name);
            on.map_or(State::Off, State::told)
        };
        let cap = Alarm {
            name: CAP,
            state: told(CAP),
            is_on: |stats| stats.cap_alarm,
            message: |stats| {
                let used = percent(stats.bytes, stats.cap_bytes.unwrap_or_default());
                let holder = stats.slowest_hold.as_ref();
                let holder = holder.map_or_else(String::new, |(name, offset)| {
                    format!("; slowest is {name}, which needs it from offset {offset} on")
                });
                format!("the event log uses {used} % of journal.cap_bytes{holder}")
            },
        };
        let full = Alarm {
            name: FULL,
            state: told(FULL),
            is_on: |stats| stats.refuses == Some(LogErrorKind::DiskFull),
            message: |_| "the event log has no room; publishes are not acknowledged until it has".to_owned(),
        };
        let stalls = Stalls::new(active);
        Self { journal: journal.clone(), clock, node: node.to_owned(), all: [cap, full], stalls }
    }

    /// Looks at the log and at how the pipelines are doing, and tells what has changed. Never waits.
    pub(super) fn look(&mut self, pipelines: &[PipelineStatus]) {
        let stats = self.journal.log().stats();
        let now_ms = self.clock.wall_ms();
        let mut append = |kind, body: proto::Alarm| {
            let body = proto::Event {
                node: self.node.clone(),
                detail: Some(Detail::Alarm(body)),
                ..proto::Event::default()
            };
            let event = NewEvent { timestamp_ms: now_ms, kind, topic: String::new(), body };
            self.journal.try_append(event).is_ok()
        };
        for alarm in &mut self.all {
            alarm.look(&stats, now_ms, &mut append);
        }
        self.stalls.look(pipelines, now_ms, &mut append);
    }
}

impl Alarm {
    fn look(
        &mut self,
        stats: &LogStats,
        now_ms: i64,
        append: &mut impl FnMut(EventKind, proto::Alarm) -> bool,
    ) {
        let message = || (self.message)(stats);
        self.state.step((self.is_on)(stats), (self.name, ""), message, now_ms, append);
    }
}

impl State {
    /// An alarm that was told before this run.
    pub(super) fn told(alarm: &ActiveAlarm) -> Self {
        Self::On { since_ms: alarm.since_ms, message: alarm.message.clone(), told: true }
    }

    pub(super) const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Goes on as the alarm of this name and these details is `on` or not, and tells what has changed.
    pub(super) fn step(
        &mut self,
        on: bool,
        (name, details): (&str, &str),
        message: impl FnOnce() -> String,
        now_ms: i64,
        append: &mut impl FnMut(EventKind, proto::Alarm) -> bool,
    ) {
        let body = |message: &str, activated_at_ms, deactivated_at_ms| proto::Alarm {
            name: name.to_owned(),
            message: message.to_owned(),
            details: details.to_owned(),
            activated_at_ms,
            deactivated_at_ms,
            kind: "system".to_owned(),
            severity: "major".to_owned(),
            ..proto::Alarm::default()
        };
        if on && self.is_off() {
            let message = message();
            warn!(alarm = name, "{message}");
            *self = Self::On { since_ms: now_ms, message, told: false };
        }
        if let Self::On { since_ms, message, told } = self {
            if !*told {
                *told = append(EventKind::AlarmActivated, body(message, *since_ms, 0));
            }
            if *told && !on {
                info!(alarm = name, details, "over");
                let message = std::mem::take(message);
                *self = Self::Ended { since_ms: *since_ms, until_ms: now_ms, message };
            }
        }
        if let Self::Ended { since_ms, until_ms, message } = self
            && append(EventKind::AlarmDeactivated, body(message, *since_ms, *until_ms))
        {
            *self = Self::Off;
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::event::Column;
    use muster_core::log::{LogConfig, RealDisk, Retention};

    use super::*;
    use crate::presence::{Follower, Store};

    #[tokio::test]
    async fn a_log_near_its_cap_is_told_once_and_so_is_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(1_000);
        let config = LogConfig { segment_bytes_max: 4096, ..LogConfig::new(dir.path()) };
        let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
        let cap = |cap_bytes| Retention { cap_bytes: Some(cap_bytes), ..Retention::default() };
        let hold = journal.log().hold("slow", 0);
        let mut alarms = Alarms::new(&journal, clock, "n", &[]);
        journal.log().set_retention(cap(1 << 20)).expect("a cap");
        alarms.look(&[]);
        assert_eq!(journal.next_offset(), 0);

        let filler = || super::super::sessions::lifecycle(EventKind::NodeStarted, "n", &"x".repeat(1_000), 1);
        let mut last = 0;
        while !journal.log().stats().cap_alarm {
            last = journal.append(filler()).await.expect("append").offset;
            journal.durable(last).await.expect("durable");
        }
        for _ in 0..3 {
            alarms.look(&[]);
        }
        journal.log().set_retention(cap(1 << 30)).expect("a larger cap");
        for _ in 0..3 {
            alarms.look(&[]);
        }
        assert_eq!(journal.next_offset(), last + 3);
        journal.durable(last + 2).await.expect("durable");
        let mut reader = journal.reader(last + 1);
        let mut told = Vec::new();
        while told.len() < 2 {
            let batch = reader.next_batch().await.expect("read");
            told.extend(batch.events().iter().map(|event| {
                (event.kind, event.get(Column::Name).to_json(), event.get(Column::Message).to_json())
            }));
        }
        assert_eq!((told[0].0, told[1].0), (EventKind::AlarmActivated, EventKind::AlarmDeactivated));
        assert!(told.iter().all(|it| it.1 == "\"log_cap_80_percent\"" && it.2.contains("slow")), "{told:?}");
        drop(hold);
    }

    #[tokio::test]
    async fn over_a_restart_an_alarm_is_told_once_and_its_end_is_not_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(1_000);
        let config = LogConfig { segment_bytes_max: 4096, ..LogConfig::new(dir.path().join("log")) };
        let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
        let cap = |cap_bytes| Retention { cap_bytes: Some(cap_bytes), ..Retention::default() };
        let restart = || {
            let store = Store::open(&dir.path().join("muster.db"), journal.log_id()).expect("a store");
            let mut follower = Follower::new(store, &journal, clock.clone());
            follower.catch_up().expect("the log is folded");
            let active = follower.store().alarms().expect("alarms");
            (Alarms::new(&journal, clock.clone(), "n", &active), active)
        };
        let _hold = journal.log().hold("slow", 0);
        let filler = || super::super::sessions::lifecycle(EventKind::NodeStarted, "n", &"x".repeat(7_000), 1);
        let offset = journal.append(filler()).await.expect("append").offset;
        journal.durable(offset).await.expect("durable");
        journal.log().set_retention(cap(8_192)).expect("a cap");
        restart().0.look(&[]);
        assert_eq!(journal.next_offset(), 2, "it is told");
        journal.durable(1).await.expect("durable");

        clock.advance(std::time::Duration::from_secs(1));
        let (mut alarms, active) = restart();
        assert_eq!((active.len(), active[0].name.as_str(), active[0].since_ms), (1, CAP, 1_000));
        for _ in 0..3 {
            alarms.look(&[]);
        }
        assert_eq!(journal.next_offset(), 2, "it still holds, and is not told again");

        journal.log().set_retention(cap(1 << 30)).expect("a larger cap");
        restart().0.look(&[]);
        assert_eq!(journal.next_offset(), 3, "its end is told");
        journal.durable(2).await.expect("durable");
        let end = journal.reader(2).next_batch().await.expect("read").events()[0].clone();
        let Some(Detail::Alarm(told)) = &end.body.detail else { panic!("{end:?}") };
        assert_eq!((end.kind, told.name.as_str()), (EventKind::AlarmDeactivated, CAP));
        assert_eq!((told.activated_at_ms, told.deactivated_at_ms), (1_000, 2_000));

        let (mut alarms, active) = restart();
        alarms.look(&[]);
        assert!(active.is_empty() && journal.next_offset() == 3, "{active:?}");
    }
}
