//! What one alarm knows: who is waited for, who is missed, and who is beyond what may be told one by one. A plain fold
//! of events and of the clock it is given; it must never know where events come from or where they go.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, proto};
use muster_rules::{AlarmKind, AlarmProgram, EvalContext};

use super::known::{Active, Armed, ClientId, Notice, Summary, ms, said};

/// What a summary names, at most.
pub(super) const SUMMARY_IDS_MAX: usize = 100;
/// A summary waits so long for others to come, in milliseconds.
const SUMMARY_GATHERS_MS: i64 = 300;
/// The span of the storm guard, in milliseconds.
const MINUTE_MS: i64 = 60_000;

/// One alarm.
#[derive(Debug, Default)]
pub struct State {
    name: String,
    program: Option<Arc<AlarmProgram>>,
    armed: HashMap<ClientId, Armed>,
    active: HashMap<ClientId, Active>,
    flaps: HashMap<ClientId, VecDeque<i64>>,
    timers: BTreeSet<(i64, ClientId)>,
    held: BTreeSet<ClientId>,
    held_since_ms: Option<i64>,
    held_total: u64,
    summary: Option<Summary>,
    raised: VecDeque<i64>,
    dirty: HashSet<ClientId>,
    /// Those of `active` whose end is to be told.
    over: HashSet<ClientId>,
}

impl State {
    /// An alarm of which nothing is known.
    pub fn new(name: &str, program: Option<Arc<AlarmProgram>>) -> Self {
        Self { name: name.to_owned(), program, ..Self::default() }
    }

    /// What it is about.
    pub fn program(&self) -> Option<&Arc<AlarmProgram>> {
        self.program.as_ref()
    }

    /// Who is waited for.
    pub fn armed(&self) -> &HashMap<ClientId, Armed> {
        &self.armed
    }

    /// Who is missed.
    pub fn active(&self) -> &HashMap<ClientId, Active> {
        &self.active
    }

    /// The alarm that stands for many, if it is on.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The clients of which something has changed since this was last asked.
    pub fn take_dirty(&mut self) -> HashSet<ClientId> {
        std::mem::take(&mut self.dirty)
    }

    /// Says that something about a client is still to be stored.
    pub fn mark_dirty(&mut self, client: ClientId) {
        self.dirty.insert(client);
    }

    /// When it wants to be asked again, at the earliest.
    pub fn next_due_ms(&self) -> Option<i64> {
        let first = self.timers.first().map(|(due, _)| *due);
        let gathered =
            self.held_since_ms.filter(|_| self.summary.is_none()).map(|at| at + SUMMARY_GATHERS_MS);
        let ends = (self.ends() || !self.over.is_empty()).then_some(0);
        [first, gathered, ends].into_iter().flatten().min()
    }

    fn ends(&self) -> bool {
        let over = |summary: &Summary| self.held.is_empty() && !summary.ending;
        self.summary.as_ref().is_some_and(over)
    }

    /// Puts back what was stored.
    pub fn restore_armed(&mut self, client: ClientId, armed: (Option<Arc<str>>, i64, i64, bool)) {
        let (username, since_ms, due_ms, held) = armed;
        if held {
            self.held.insert(client.clone());
            self.held_total += 1;
            self.held_since_ms.get_or_insert(due_ms);
        } else {
            self.timers.insert((due_ms, client.clone()));
        }
        self.armed.insert(client, Armed { username, since_ms, due_ms, held, raising: false });
    }

    /// Puts back what was stored.
    pub fn restore_active(&mut self, client: ClientId, active: Active) {
        if active.until_ms.is_some() {
            self.over.insert(client.clone());
        }
        self.active.insert(client, active);
    }

    /// Puts back what was stored.
    pub fn restore_summary(&mut self, activated_at_ms: i64, message: String, count: u64) {
        self.held_total = self.held_total.max(count);
        self.summary = Some(Summary { activated_at_ms, message, count, ending: false });
    }

    /// Takes in an event about devices.
    pub fn fold(&mut self, event: &Event, ctx: &mut EvalContext) {
        let Some(program) = self.program.clone() else { return };
        let client = event.clientid();
        if client.is_empty() {
            return;
        }
        let (is_of, is_after) =
            (program.of().matches(event), program.after().is_some_and(|after| after.matches(event)));
        if !(is_of || is_after) || !program.is_about(event) {
            return;
        }
        match program.kind() {
            AlarmKind::Absence | AlarmKind::Silence => {
                if is_of {
                    self.returned(client, event.timestamp_ms);
                }
                if is_after && holds(&program, event, ctx) {
                    self.arm(&program, event);
                }
            }
            AlarmKind::Flapping => {
                if holds(&program, event, ctx) {
                    self.flap(&program, event);
                }
            }
            AlarmKind::Presence => {
                if holds(&program, event, ctx) && !self.armed.contains_key(client) {
                    self.put_armed(event, event.timestamp_ms, 0);
                }
            }
        }
    }

    /// Takes in an event of this alarm's own.
    pub fn fold_own(&mut self, event: &Event) {
        let Some(Detail::Alarm(alarm)) = &event.body.detail else { return };
        let activated = event.kind == EventKind::AlarmActivated;
        if alarm.kind == "storm" {
            self.summary = activated.then(|| Summary {
                activated_at_ms: alarm.activated_at_ms,
                message: alarm.message.clone(),
                count: self.held_total,
                ending: false,
            });
            if !activated {
                self.held_total = self.held.len() as u64;
            }
            self.dirty.insert(ClientId::from(""));
            return;
        }
        let client: ClientId = event.clientid().into();
        self.dirty.insert(client.clone());
        if activated {
            self.began(client, event, alarm);
        } else if self.active.get(&client).is_some_and(|it| it.activated_at_ms == alarm.activated_at_ms) {
            self.active.remove(&client);
            self.over.remove(&client);
        }
    }

    fn began(&mut self, client: ClientId, event: &Event, alarm: &proto::Alarm) {
        if let Some(known) = self.active.get_mut(&client)
            && known.activated_at_ms == alarm.activated_at_ms
        {
            known.message.clone_from(&alarm.message);
            return;
        }
        // Who is waited for anew stays so.
        let is_this = self.armed.get(&client).is_some_and(|it| it.since_ms == alarm.since_ms);
        let armed = if is_this { self.armed.remove(&client) } else { None };
        if let Some(armed) = &armed {
            self.timers.remove(&(armed.due_ms, client.clone()));
            self.unhold(&client);
        }
        // Who came back before the event was in the log is not waited for any more: it is over at once.
        let kind = self.program.as_ref().map(|it| it.kind());
        let until_ms = match kind {
            Some(AlarmKind::Absence | AlarmKind::Silence) => armed.is_none().then_some(event.timestamp_ms),
            _ => None,
        };
        if let Some(program) = self.program.clone()
            && until_ms.is_none()
        {
            let over_ms = match program.kind() {
                AlarmKind::Presence => Some(alarm.activated_at_ms + ms(program.clear_after_ms())),
                AlarmKind::Flapping => {
                    let last = self.flaps.get(&client).and_then(|times| times.back().copied());
                    Some(last.unwrap_or(alarm.activated_at_ms) + ms(program.grace_ms()))
                }
                _ => None,
            };
            if let Some(over_ms) = over_ms {
                self.timers.insert((over_ms, client.clone()));
            }
        }
        let active = Active {
            username: event.body.client.as_ref().and_then(|it| it.username.as_deref()).map(Arc::from),
            since_ms: alarm.since_ms,
            activated_at_ms: alarm.activated_at_ms,
            message: alarm.message.clone(),
            until_ms,
            why: None,
            ending: false,
        };
        if until_ms.is_some() {
            self.over.insert(client.clone());
        }
        self.active.insert(client, active);
    }

    fn returned(&mut self, client: &str, at_ms: i64) {
        let Some((client, armed)) = self.armed.remove_entry(client) else {
            if let Some(active) = self.active.get_mut(client)
                && active.until_ms.is_none()
            {
                active.until_ms = Some(at_ms);
                self.over.insert(client.into());
                self.dirty.insert(client.into());
            }
            return;
        };
        self.timers.remove(&(armed.due_ms, client.clone()));
        self.unhold(&client);
        if armed.raising {
            let active = Active {
                username: armed.username,
                since_ms: armed.since_ms,
                activated_at_ms: armed.due_ms,
                message: String::new(),
                until_ms: Some(at_ms),
                why: None,
                ending: false,
            };
            self.active.insert(client.clone(), active);
            self.over.insert(client.clone());
        }
        self.dirty.insert(client);
    }

    fn unhold(&mut self, client: &ClientId) {
        if self.held.remove(client) && self.held.is_empty() && self.summary.is_none() {
            (self.held_since_ms, self.held_total) = (None, 0);
        }
    }

    fn arm(&mut self, program: &AlarmProgram, event: &Event) {
        let client = event.clientid();
        // Who is missed already is raised once; who is waited for is waited for from the first absence on.
        let is_on = self.active.get(client).is_some_and(|it| it.until_ms.is_none());
        if !is_on && !self.armed.contains_key(client) {
            self.put_armed(event, event.timestamp_ms + ms(program.grace_ms()), event.timestamp_ms);
        }
    }

    fn put_armed(&mut self, event: &Event, due_ms: i64, since_ms: i64) {
        let client: ClientId = event.clientid().into();
        let username = event.body.client.as_ref().and_then(|it| it.username.as_deref()).map(Arc::from);
        self.timers.insert((due_ms, client.clone()));
        self.dirty.insert(client.clone());
        self.armed.insert(client, Armed { username, since_ms, due_ms, held: false, raising: false });
    }

    fn flap(&mut self, program: &AlarmProgram, event: &Event) {
        let (at_ms, window_ms) = (event.timestamp_ms, ms(program.grace_ms()));
        let client: ClientId = event.clientid().into();
        let times = self.flaps.entry(client.clone()).or_default();
        while times.front().is_some_and(|first| *first <= at_ms - window_ms) {
            times.pop_front();
        }
        times.push_back(at_ms);
        let many = usize::try_from(program.flaps()).unwrap_or(usize::MAX);
        let is_full = times.len() >= many;
        while times.len() > many {
            times.pop_front();
        }
        self.timers.insert((at_ms + window_ms, client.clone()));
        if is_full && !self.active.contains_key(&client) && !self.armed.contains_key(&client) {
            self.put_armed(event, at_ms, 0);
        }
    }

    /// What is to be said at `now_ms`: who fell due, who came back. Nothing is said twice.
    pub fn due(&mut self, now_ms: i64) -> Vec<Notice> {
        let mut notices = Vec::new();
        while self.raised.front().is_some_and(|at| *at <= now_ms - MINUTE_MS) {
            self.raised.pop_front();
        }
        while let Some((due_ms, _)) = self.timers.first().filter(|(due, _)| *due <= now_ms) {
            let due_ms = *due_ms;
            let Some((_, client)) = self.timers.pop_first() else { break };
            self.fire(client, due_ms, now_ms, &mut notices);
        }
        self.summarise(now_ms, &mut notices);
        self.end(&mut notices);
        notices
    }

    fn fire(&mut self, client: ClientId, due_ms: i64, now_ms: i64, notices: &mut Vec<Notice>) {
        let Some(program) = self.program.clone() else { return };
        if let Some(active) = self.active.get_mut(&client)
            && active.until_ms.is_none()
            && matches!(program.kind(), AlarmKind::Presence | AlarmKind::Flapping)
        {
            let last = self.flaps.get(&client).and_then(|times| times.back().copied());
            let quiet = last.is_none_or(|last| last + ms(program.grace_ms()) <= due_ms);
            if quiet || program.kind() == AlarmKind::Presence {
                active.until_ms = Some(due_ms);
                self.flaps.remove(&client);
                self.dirty.insert(client.clone());
                self.over.insert(client);
            }
            return;
        }
        let on = self.active.len() as u64;
        let Some(armed) = self.armed.get_mut(&client).filter(|it| it.due_ms == due_ms && !it.raising) else {
            if self
                .flaps
                .get(&client)
                .and_then(|it| it.back())
                .is_some_and(|at| at + ms(program.grace_ms()) <= due_ms)
            {
                self.flaps.remove(&client);
            }
            return;
        };
        let raising = self.raised.len() as u64;
        if raising >= program.storm_per_minute() || on + raising_now(notices) >= program.max_active() {
            armed.held = true;
            self.held.insert(client.clone());
            self.held_total += 1;
            self.held_since_ms.get_or_insert(now_ms);
            self.dirty.insert(client);
            return;
        }
        armed.raising = true;
        self.raised.push_back(now_ms);
        let body = said(&program, program.kind().name(), Some((&client, &*armed)), 0);
        let whom = Some((client, armed.username.clone()));
        notices.push(Notice { kind: EventKind::AlarmActivated, client: whom, body });
    }

    fn summarise(&mut self, now_ms: i64, notices: &mut Vec<Notice>) {
        let Some(program) = self.program.clone() else { return };
        let gathered = self.held_since_ms.is_some_and(|at| at + SUMMARY_GATHERS_MS <= now_ms);
        if self.summary.is_none() && gathered && !self.held.is_empty() {
            let mut body = said(&program, "storm", None, self.held_total);
            body.activated_at_ms = now_ms;
            body.details = self.details();
            let message = body.message.clone();
            notices.push(Notice { kind: EventKind::AlarmActivated, client: None, body });
            let count = self.held_total;
            self.summary = Some(Summary { activated_at_ms: now_ms, message, count, ending: false });
        }
        if self.ends()
            && let Some(summary) = &mut self.summary
        {
            summary.ending = true;
            let body = proto::Alarm {
                name: self.name.clone(),
                kind: "storm".to_owned(),
                severity: program.severity().name().to_owned(),
                message: summary.message.clone(),
                details: format!("{{\"count\":{}}}", self.held_total),
                activated_at_ms: summary.activated_at_ms,
                deactivated_at_ms: now_ms,
                ..proto::Alarm::default()
            };
            notices.push(Notice { kind: EventKind::AlarmDeactivated, client: None, body });
            (self.held_since_ms, self.held_total) = (None, 0);
        }
    }

    fn details(&self) -> String {
        let ids: Vec<&str> = self.held.iter().take(SUMMARY_IDS_MAX).map(AsRef::as_ref).collect();
        serde_json::json!({ "count": self.held_total, "clientids": ids }).to_string()
    }

    fn end(&mut self, notices: &mut Vec<Notice>) {
        let (severity, kind) = self
            .program
            .as_ref()
            .map_or(("major", "absence"), |program| (program.severity().name(), program.kind().name()));
        for client in std::mem::take(&mut self.over) {
            let Some(active) = self.active.get_mut(&client) else { continue };
            let Some(until_ms) = active.until_ms.filter(|_| !active.ending) else { continue };
            active.ending = true;
            let from_ms = if active.since_ms > 0 { active.since_ms } else { active.activated_at_ms };
            let body = proto::Alarm {
                name: self.name.clone(),
                kind: kind.to_owned(),
                severity: severity.to_owned(),
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

    /// Ends what is on for `client`, or all of it, because an operator says so; how many that were.
    pub fn force(&mut self, client: Option<&str>, now_ms: i64) -> usize {
        let named = |it: &ClientId| client.is_none_or(|client| client == it.as_ref());
        let on = self.active.iter_mut().filter(|(it, active)| named(it) && active.until_ms.is_none());
        let mut ended = 0;
        for (client, active) in on {
            (active.until_ms, active.why) = (Some(now_ms), Some("force_deactivated"));
            self.over.insert(client.clone());
            self.dirty.insert(client.clone());
            ended += 1;
        }
        ended
    }

    /// Takes another definition. `anew` is the same log folded under it; none where it only says other things.
    /// What is on and still holds goes on; the rest ends now.
    pub fn redefine(&mut self, program: Option<Arc<AlarmProgram>>, anew: Option<Self>, now_ms: i64) {
        let waits = program.as_ref().is_some_and(|it| is_wait(it));
        let is_gone = program.is_none();
        self.program = program;
        let Some(anew) = anew.or_else(|| is_gone.then(Self::default)) else { return };
        let still: HashSet<ClientId> = anew.armed.keys().cloned().collect();
        self.dirty.extend(self.armed.drain().map(|(client, _)| client));
        self.timers.clear();
        self.held.clear();
        (self.held_since_ms, self.held_total, self.flaps) = (None, 0, anew.flaps);
        for (client, mut armed) in anew.armed.into_iter().filter(|_| waits) {
            if self.active.get(&client).is_some_and(|it| it.until_ms.is_none()) {
                continue;
            }
            // It is missed since there is somebody to miss it.
            armed.due_ms = armed.due_ms.max(now_ms);
            self.timers.insert((armed.due_ms, client.clone()));
            self.dirty.insert(client.clone());
            self.armed.insert(client, armed);
        }
        let why = if is_gone { "definition_removed" } else { "definition_changed" };
        for (client, active) in self.active.iter_mut().filter(|(_, it)| it.until_ms.is_none()) {
            if is_gone || waits && !still.contains(client) {
                (active.until_ms, active.why) = (Some(now_ms), Some(why));
                self.over.insert(client.clone());
                self.dirty.insert(client.clone());
            }
        }
        self.resume(now_ms);
    }

    /// Lets go on what ends by time alone.
    pub fn resume(&mut self, now_ms: i64) {
        let Some(program) = self.program.clone().filter(|it| !is_wait(it)) else { return };
        let over_ms = now_ms + ms(program.clear_after_ms().max(program.grace_ms()));
        let on = self.active.iter().filter(|(_, it)| it.until_ms.is_none());
        let again: Vec<_> = on.map(|(client, _)| client).chain(self.flaps.keys()).cloned().collect();
        self.timers.extend(again.into_iter().map(|client| (over_ms, client)));
    }
}

fn is_wait(program: &AlarmProgram) -> bool {
    matches!(program.kind(), AlarmKind::Absence | AlarmKind::Silence)
}

fn holds(program: &AlarmProgram, event: &Event, ctx: &mut EvalContext) -> bool {
    program.holds(event, ctx).unwrap_or_else(|error| {
        tracing::warn!(alarm = program.name(), offset = event.offset, %error, "WHERE fails; the event does not count");
        false
    })
}

fn raising_now(notices: &[Notice]) -> u64 {
    notices.iter().filter(|it| it.kind == EventKind::AlarmActivated).count() as u64
}
