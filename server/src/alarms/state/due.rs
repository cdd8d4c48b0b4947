//! What is to be said, by the clock: who falls due, whom one alarm stands for, what is over.

use super::*;
use crate::alarms::known::{Notice, said};

/// What a summary names, at most.
pub(in crate::alarms) const SUMMARY_IDS_MAX: usize = 100;
/// A summary waits so long for others to come, from the last who came on, in milliseconds.
const SUMMARY_GATHERS_MS: i64 = 300;
/// It waits no longer than this after the first, in milliseconds: everybody is to be told or counted within a second,
/// and where a hundred thousand fall due together, the machine needs its part of that.
const SUMMARY_GATHERS_MS_MAX: i64 = 700;
/// A number that has grown since it was told is told again after so long, in milliseconds; sooner if it has doubled.
const SUMMARY_AGAIN_MS: i64 = 10_000;
/// The span of the storm guard, in milliseconds.
const MINUTE_MS: i64 = 60_000;

impl State {
    /// When it wants to be asked again, at the earliest.
    pub fn next_due_ms(&self) -> Option<i64> {
        let defined = self.program.is_some();
        let first = self.timers.first().map(|(due, _)| *due).filter(|_| defined);
        let gathered = self.gathered_ms().filter(|_| defined);
        let again = self.again_ms().filter(|_| defined);
        let ends = (self.storm_ends() || !self.over.is_empty()).then_some(0);
        [first, gathered, again, self.has_room_ms(), ends].into_iter().flatten().min()
    }

    /// What is to be said at `now_ms`: who fell due, who came back. Nothing is said twice.
    pub fn due(&mut self, now_ms: i64) -> Vec<Notice> {
        let mut notices = Vec::new();
        // A clock that was set back forgets what was raised in its future.
        while self.raised.back().is_some_and(|at| *at > now_ms) {
            self.raised.pop_back();
        }
        self.forget_before(now_ms);
        // An end comes before the next beginning.
        self.end(&mut notices);
        self.begin_storm(now_ms, &mut notices);
        let defined = self.program.is_some();
        while let Some((timer_ms, _)) = self.timers.first().filter(|(due, _)| defined && *due <= now_ms) {
            let timer_ms = *timer_ms;
            let Some((_, client)) = self.timers.pop_first() else { break };
            self.fire(client, timer_ms, now_ms, &mut notices);
        }
        let told = self.tell_the_rest(now_ms, &mut notices);
        self.end_storm(now_ms, told, &mut notices);
        self.tell_storm_again(now_ms, &mut notices);
        self.end(&mut notices);
        notices
    }

    /// Forgets what was raised more than a minute before `now_ms`.
    pub(super) fn forget_before(&mut self, now_ms: i64) {
        while self.raised.front().is_some_and(|at| *at <= now_ms - MINUTE_MS) {
            self.raised.pop_front();
        }
    }

    fn fire(&mut self, client: ClientId, timer_ms: i64, now_ms: i64, notices: &mut Vec<Notice>) {
        let Some(program) = self.program.clone() else { return };
        let on = self.active.get(&client).filter(|it| it.until_ms.is_none()).map(|it| it.activated_at_ms);
        let armed = self.armed.get(&client).filter(|it| !it.raising).map(|it| (it.due_ms, it.held));
        match (on, armed) {
            (Some(activated_at_ms), _) if !is_wait(&program) => {
                if self.over_ms(&program, &client, activated_at_ms) > timer_ms {
                    return;
                }
                if let Some(active) = self.active.get_mut(&client) {
                    active.until_ms = Some(timer_ms);
                }
                self.flaps.remove(&client);
                self.over.insert(client.clone());
            }
            (_, Some((due_ms, true))) => {
                if is_wait(&program) || self.over_ms(&program, &client, due_ms) > timer_ms {
                    return;
                }
                self.armed.remove(&client);
                self.flaps.remove(&client);
                self.unhold(&client);
            }
            (_, Some((due_ms, false))) if due_ms == timer_ms => {
                if self.room(&program) > 0 {
                    self.raise(&program, client, now_ms, notices);
                    return;
                }
                self.hold(&program, &client, now_ms);
            }
            (_, Some(_)) => return,
            (_, None) => {
                let last = self.flaps.get(&client).and_then(|times| times.back());
                if last.is_none_or(|last| last + ms(program.grace_ms()) > timer_ms) {
                    return;
                }
                self.flaps.remove(&client);
            }
        }
        self.dirty.insert(client);
    }

    /// How many may be raised one by one now.
    fn room(&self, program: &AlarmProgram) -> u64 {
        let of_minute = program.storm_per_minute().saturating_sub(self.raised.len() as u64);
        of_minute.min(program.max_active().saturating_sub(self.on_or_raising()))
    }

    fn on_or_raising(&self) -> u64 {
        (self.active.len() + self.raising) as u64
    }

    fn raise(&mut self, program: &AlarmProgram, client: ClientId, now_ms: i64, notices: &mut Vec<Notice>) {
        let Some(armed) = self.armed.get_mut(&client) else { return };
        armed.raising = true;
        let body = said(program, program.kind().name(), Some((&client, &*armed)), 0);
        let whom = Some((client, armed.username.clone()));
        self.raising += 1;
        self.remember(now_ms);
        notices.push(Notice { kind: EventKind::AlarmActivated, client: whom, body });
    }

    fn hold(&mut self, program: &AlarmProgram, client: &ClientId, now_ms: i64) {
        let Some(armed) = self.armed.get_mut(client) else { return };
        armed.held = true;
        let due_ms = armed.due_ms;
        self.held.insert(client.clone());
        self.held_total += 1;
        let since_ms = self.held_span_ms.map_or(now_ms, |(first_ms, _)| first_ms);
        self.held_span_ms = Some((since_ms, now_ms));
        if let Some(summary) = &mut self.summary {
            summary.count = summary.count.max(self.held_total);
            self.dirty.insert(ClientId::from(""));
        }
        if !is_wait(program) {
            // Nobody comes back from these; but no sooner than they were counted.
            let over_ms = self.over_ms(program, client, due_ms).max(since_ms + SUMMARY_GATHERS_MS_MAX + 1);
            self.timers.insert((over_ms, client.clone()));
        }
    }

    fn begin_storm(&mut self, now_ms: i64, notices: &mut Vec<Notice>) {
        let Some(program) = self.program.clone() else { return };
        if self.gathered_ms().is_none_or(|at| at > now_ms) {
            return;
        }
        let body = self.storm(&program, self.held_total, now_ms);
        self.summary = Some(Summary {
            activated_at_ms: now_ms,
            severity: body.severity.clone(),
            message: body.message.clone(),
            count: self.held_total,
            told_count: self.held_total,
            told_at_ms: now_ms,
            why: None,
            ending: false,
        });
        notices.push(Notice { kind: EventKind::AlarmActivated, client: None, body });
    }

    /// When those who are held back are told of, if nobody else comes.
    fn gathered_ms(&self) -> Option<i64> {
        let is_waiting = self.summary.is_none() && !self.held.is_empty();
        let (first_ms, last_ms) = self.held_span_ms.filter(|_| is_waiting)?;
        Some((last_ms + SUMMARY_GATHERS_MS).min(first_ms + SUMMARY_GATHERS_MS_MAX))
    }

    fn storm(&self, program: &AlarmProgram, count: u64, activated_at_ms: i64) -> proto::Alarm {
        let ids: Vec<&str> = self.held.iter().take(SUMMARY_IDS_MAX).map(AsRef::as_ref).collect();
        proto::Alarm {
            details: serde_json::json!({ "count": count, "clientids": ids }).to_string(),
            activated_at_ms,
            ..said(program, "storm", None, count)
        }
    }

    /// When the number that a storm was told with is to be told anew.
    fn again_ms(&self) -> Option<i64> {
        let summary = self.summary.as_ref().filter(|it| !it.ending && it.count > it.told_count)?;
        let has_doubled = summary.count >= summary.told_count.saturating_mul(2);
        Some(summary.told_at_ms + if has_doubled { SUMMARY_GATHERS_MS } else { SUMMARY_AGAIN_MS })
    }

    fn tell_storm_again(&mut self, now_ms: i64, notices: &mut Vec<Notice>) {
        if let Some(summary) = &mut self.summary {
            // A clock that was set back puts nothing off.
            summary.told_at_ms = summary.told_at_ms.min(now_ms);
        }
        let is_time = self.again_ms().is_some_and(|at| at <= now_ms);
        let (Some(program), Some(summary)) = (self.program.clone().filter(|_| is_time), &self.summary) else {
            return;
        };
        let severity = summary.severity.clone();
        let body = proto::Alarm { severity, ..self.storm(&program, summary.count, summary.activated_at_ms) };
        if let Some(summary) = &mut self.summary {
            (summary.told_count, summary.told_at_ms) = (summary.count, now_ms);
            summary.message.clone_from(&body.message);
        }
        notices.push(Notice { kind: EventKind::AlarmActivated, client: None, body });
    }

    /// When all whom a storm still stands for can be told one by one, as far as time decides it.
    fn has_room_ms(&self) -> Option<i64> {
        let program = self.program.as_ref()?;
        self.summary.as_ref().filter(|it| !it.ending)?;
        let (held, on) = (self.held.len() as u64, self.on_or_raising());
        if held == 0 || held > program.storm_per_minute() || on + held > program.max_active() {
            return None;
        }
        let excess = (self.raised.len() as u64 + held).saturating_sub(program.storm_per_minute());
        let last = usize::try_from(excess).ok()?.checked_sub(1);
        Some(last.and_then(|last| self.raised.get(last)).map_or(0, |at| at + MINUTE_MS))
    }

    /// Gives each an alarm of its own, once all whom the storm still stands for are few enough; how many that were.
    fn tell_the_rest(&mut self, now_ms: i64, notices: &mut Vec<Notice>) -> usize {
        let Some(program) = self.program.clone() else { return 0 };
        let is_time = self.has_room_ms().is_some_and(|at| at <= now_ms);
        if !is_time || self.room(&program) < self.held.len() as u64 {
            return 0;
        }
        let held = std::mem::take(&mut self.held);
        for client in &held {
            if let Some(armed) = self.armed.get_mut(client) {
                armed.held = false;
            }
            self.dirty.insert(client.clone());
            self.raise(&program, client.clone(), now_ms, notices);
        }
        held.len()
    }

    fn storm_ends(&self) -> bool {
        self.summary.as_ref().is_some_and(|it| self.held.is_empty() && !it.ending)
    }

    fn end_storm(&mut self, now_ms: i64, told: usize, notices: &mut Vec<Notice>) {
        if !self.storm_ends() {
            return;
        }
        let Some(summary) = &mut self.summary else { return };
        summary.ending = true;
        let mut details = serde_json::json!({ "count": summary.count, "told": told });
        if let (Some(why), Some(details)) = (summary.why, details.as_object_mut()) {
            details.insert("reason".to_owned(), why.into());
        }
        let body = proto::Alarm {
            name: self.name.clone(),
            kind: "storm".to_owned(),
            severity: summary.severity.clone(),
            message: summary.message.clone(),
            details: details.to_string(),
            activated_at_ms: summary.activated_at_ms,
            deactivated_at_ms: now_ms,
            duration_ms: now_ms.saturating_sub(summary.activated_at_ms).max(0),
            ..proto::Alarm::default()
        };
        notices.push(Notice { kind: EventKind::AlarmDeactivated, client: None, body });
        self.nobody_held();
    }

    fn end(&mut self, notices: &mut Vec<Notice>) {
        for client in std::mem::take(&mut self.over) {
            let Some(active) = self.active.get_mut(&client) else { continue };
            let Some(until_ms) = active.until_ms.filter(|_| !active.ending) else { continue };
            active.ending = true;
            let from_ms = if active.since_ms > 0 { active.since_ms } else { active.activated_at_ms };
            let body = proto::Alarm {
                name: self.name.clone(),
                kind: active.kind.clone(),
                severity: active.severity.clone(),
                message: active.message.clone(),
                details: active
                    .why
                    .map_or_else(|| "{}".to_owned(), |why| format!("{{\"reason\":\"{why}\"}}")),
                activated_at_ms: active.activated_at_ms,
                deactivated_at_ms: until_ms,
                since_ms: active.since_ms,
                duration_ms: until_ms.saturating_sub(from_ms).max(0),
            };
            let whom = Some((client.clone(), active.username.clone()));
            notices.push(Notice { kind: EventKind::AlarmDeactivated, client: whom, body });
        }
    }
}
