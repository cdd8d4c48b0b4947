//! The alarm about a pipeline that stands still: `sink_stalled`, one for each, told when it begins and when the
//! pipeline advances again, and kept over restarts. It must never know why a target does not take rows.

use std::collections::BTreeMap;

use muster_core::event::{EventKind, proto};
use muster_sinks::delivery::{PipelineState, PipelineStatus};
use serde_json::json;

use super::alarms::State;
use crate::presence::ActiveAlarm;

/// The alarm's name.
pub(super) const STALLED: &str = "sink_stalled";

/// The stalls that are on, by the alarm's details.
#[derive(Debug)]
pub(super) struct Stalls(BTreeMap<String, Stall>);

#[derive(Debug)]
struct Stall {
    state: State,
    /// Where the pipeline stood when it stalled, or when it was opened the first time in this run.
    from: Option<Place>,
}

/// The cursor, and the rows that are settled.
type Place = (u64, u64);

impl Stalls {
    /// `active` are the alarms that were told and whose end was not.
    pub(super) fn new(active: &[ActiveAlarm]) -> Self {
        let ours = active.iter().filter(|alarm| alarm.name == STALLED);
        let stall = |alarm| Stall { state: State::told(alarm), from: None };
        Self(ours.map(|alarm| (alarm.subject.clone(), stall(alarm))).collect())
    }

    /// Looks at how the pipelines are doing, and tells what has changed.
    pub(super) fn look(
        &mut self,
        pipelines: &[PipelineStatus],
        now_ms: i64,
        append: &mut impl FnMut(EventKind, proto::Alarm) -> bool,
    ) {
        let pipelines: BTreeMap<_, _> = pipelines.iter().map(|it| (details(it), it)).collect();
        for (details, status) in &pipelines {
            if status.state == PipelineState::Stalled && !self.0.contains_key(details) {
                let stall = Stall { state: State::Off, from: Some(place(status)) };
                self.0.insert(details.clone(), stall);
            }
        }
        for (details, stall) in &mut self.0 {
            let status = pipelines.get(details);
            let on = status.is_some_and(|status| stall.lasts(status));
            let message = || status.map(|it| message(it)).unwrap_or_default();
            stall.state.step(on, (STALLED, details), message, now_ms, append);
        }
        self.0.retain(|_, stall| !stall.state.is_off());
    }
}

impl Stall {
    /// Whether the pipeline has not advanced yet, and has something to advance to.
    fn lasts(&mut self, status: &PipelineStatus) -> bool {
        if status.state == PipelineState::Starting {
            // Its place is not known before its target is open.
            return true;
        }
        let from = *self.from.get_or_insert(place(status));
        let idle = status.state == PipelineState::Running && status.pending == 0 && status.lag_events == 0;
        status.state == PipelineState::Stalled || (place(status) == from && !idle)
    }
}

fn place(status: &PipelineStatus) -> Place {
    (status.cursor, status.delivered + status.dead)
}

/// What the alarm is about, the same when it begins and when it ends.
fn details(status: &PipelineStatus) -> String {
    json!({"rule": status.rule, "sink": status.sink, "target": status.target}).to_string()
}

/// The hint, but not the last error: that may be a row's, and hold what a device sent.
fn message(status: &PipelineStatus) -> String {
    let point = if status.target.is_empty() { "" } else { "." };
    let hint = status.hint.as_deref().unwrap_or("look at its status");
    format!("{} > {}{point}{} does not advance: {hint}", status.rule, status.sink, status.target)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use muster_sinks::Totals;

    use super::*;

    fn status(state: PipelineState, cursor: u64, lag_events: u64) -> PipelineStatus {
        PipelineStatus {
            rule: "r".to_owned(),
            sink: "s".to_owned(),
            target: "t".to_owned(),
            lanes: 1,
            state,
            matched: 9,
            delivered: 5,
            dead: 0,
            opened: Totals::default(),
            pending: 4,
            cursor,
            lag_events,
            lag_ms: 0,
            failures: 1,
            next_attempt_at_ms: None,
            last_error: Some("what a device sent".to_owned()),
            last_error_at_ms: None,
            hint: Some("make the table".to_owned()),
            notes: Vec::new(),
        }
    }

    /// What is told of pipelines that look like this one after the other.
    fn check(stalls: &mut Stalls, looks: &[Option<PipelineStatus>], expect: Expect) {
        let mut told = Vec::new();
        for (now_ms, look) in (1..).zip(looks) {
            let mut append = |kind: EventKind, it: proto::Alarm| {
                let times = format!("{}..{}", it.activated_at_ms, it.deactivated_at_ms);
                told.push(format!("{} {times} {} {} {}", kind.name(), it.name, it.details, it.message));
                true
            };
            stalls.look(look.as_slice(), now_ms, &mut append);
        }
        expect.assert_eq(&told.join("\n"));
    }

    #[test]
    fn a_stall_is_told_once_and_ends_when_the_pipeline_advances() {
        use PipelineState::{Paused, Retrying, Running, Stalled, Starting};
        let mut stalls = Stalls::new(&[]);
        check(
            &mut stalls,
            &[
                Some(status(Starting, 0, 9)),
                Some(status(Retrying, 3, 9)),
                Some(status(Stalled, 3, 9)),
                Some(status(Stalled, 3, 9)),
                // Resumed, opened, and nothing delivered yet; halted by an operator meanwhile.
                Some(status(Running, 3, 9)),
                Some(status(Paused, 3, 9)),
                Some(status(Stalled, 3, 9)),
                Some(status(Running, 4, 9)),
                Some(status(Running, 5, 0)),
            ],
            expect![[r#"
                alarm.activated 3..0 sink_stalled {"rule":"r","sink":"s","target":"t"} r > s.t does not advance: make the table
                alarm.deactivated 3..8 sink_stalled {"rule":"r","sink":"s","target":"t"} r > s.t does not advance: make the table"#]],
        );
        assert!(stalls.0.is_empty());
    }

    #[test]
    fn after_a_restart_it_is_not_told_again_and_its_end_is() {
        use PipelineState::{Running, Stalled, Starting};
        let alarm = ActiveAlarm {
            name: STALLED.to_owned(),
            subject: details(&status(Stalled, 0, 0)),
            since_ms: -7,
            message: "as it was told".to_owned(),
        };
        let restarted = || Stalls::new(std::slice::from_ref(&alarm));
        let looks = [Some(status(Starting, 0, 9)), Some(status(Stalled, 3, 9)), Some(status(Running, 3, 9))];
        check(&mut restarted(), &looks, expect![""]);
        let ended = expect![[
            r#"alarm.deactivated -7..2 sink_stalled {"rule":"r","sink":"s","target":"t"} as it was told"#
        ]];
        check(&mut restarted(), &[Some(status(Starting, 0, 9)), None], ended);
    }
}
