//! What one alarm knows: who is waited for, who is missed, and who is beyond what may be told one by one. A plain fold
//! of events and of the clock it is given; it must never know where events come from or where they go.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, proto};
use muster_rules::{AlarmKind, AlarmProgram, EvalContext};

use super::known::{Active, Armed, ClientId, Summary, ms, reason, said};

mod due;
mod keep;

/// One alarm.
#[derive(Debug, Default, Clone)]
pub struct State {
    name: String,
    program: Option<Arc<AlarmProgram>>,
    armed: HashMap<ClientId, Armed>,
    active: HashMap<ClientId, Active>,
    /// When each client did what FLAPPING counts, within the window of the last of them.
    flaps: HashMap<ClientId, VecDeque<i64>>,
    timers: BTreeSet<(i64, ClientId)>,
    /// Those of `armed` who fell due beyond the limits: the summary stands for them.
    held: BTreeSet<ClientId>,
    /// When the first and the last of them came.
    held_span_ms: Option<(i64, i64)>,
    /// All whom the summary stands for, those who have come back among them.
    held_total: u64,
    summary: Option<Summary>,
    /// When the alarms of the last minute were raised, in the order of these times.
    raised: VecDeque<i64>,
    /// Those of `armed` whose event is on its way.
    raising: usize,
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

    /// Whether it is raised when somebody does not come.
    pub fn waits(&self) -> bool {
        self.program.as_ref().is_some_and(|it| is_wait(it))
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

    /// When a client did what FLAPPING counts.
    pub fn flaps(&self, client: &str) -> Option<Vec<i64>> {
        self.flaps.get(client).map(|times| times.iter().copied().collect())
    }

    /// How many a summary stands for now, or would stand for in a moment.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is known and nothing is to be said.
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty() && self.active.is_empty() && self.flaps.is_empty() && self.summary.is_none()
    }

    /// Whether it may be dropped: it is empty, and the database knows that.
    pub fn is_forgotten(&self) -> bool {
        self.is_empty() && self.dirty.is_empty()
    }

    /// The clients of which something has changed since this was last asked.
    pub fn take_dirty(&mut self) -> HashSet<ClientId> {
        std::mem::take(&mut self.dirty)
    }

    /// Says that something about a client is still to be stored.
    pub fn mark_dirty(&mut self, client: ClientId) {
        self.dirty.insert(client);
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
                if holds(&program, event, ctx) && self.may_begin(client, event.timestamp_ms) {
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
            return self.fold_storm(event, alarm);
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

    fn fold_storm(&mut self, event: &Event, alarm: &proto::Alarm) {
        self.dirty.insert(ClientId::from(""));
        if event.kind != EventKind::AlarmActivated {
            self.summary = None;
            self.held_total = self.held.len() as u64;
            return;
        }
        let told = detail(alarm, "count").and_then(|it| it.as_u64()).unwrap_or_default();
        let known = self.summary.take().filter(|it| it.activated_at_ms == alarm.activated_at_ms);
        let mut summary = known.unwrap_or_else(|| Summary {
            activated_at_ms: alarm.activated_at_ms,
            severity: alarm.severity.clone(),
            message: String::new(),
            count: self.held_total,
            told_count: 0,
            told_at_ms: event.timestamp_ms,
            why: None,
            ending: false,
        });
        summary.message.clone_from(&alarm.message);
        summary.count = summary.count.max(told);
        summary.told_count = summary.told_count.max(told);
        summary.told_at_ms = summary.told_at_ms.max(event.timestamp_ms);
        self.summary = Some(summary);
    }

    /// Takes in the end of an alarm of this name that another definition raised: whom an operator did not want to hear
    /// of is waited for again once it was back, whatever the definition says by then.
    pub fn fold_forced(&mut self, event: &Event, alarm: &proto::Alarm) {
        let is_forced = detail(alarm, "reason").is_some_and(|it| it == reason::FORCED);
        if !is_forced || event.kind != EventKind::AlarmDeactivated {
            return;
        }
        let is_storm = alarm.kind == "storm";
        let is_meant = |client: &ClientId, armed: &Armed| match is_storm {
            true => armed.due_ms <= alarm.deactivated_at_ms,
            false => client.as_ref() == event.clientid() && armed.since_ms == alarm.since_ms,
        };
        let meant = self.armed.extract_if(|client, armed| is_meant(client, armed));
        for (client, armed) in meant {
            self.timers.remove(&(armed.due_ms, client.clone()));
            self.dirty.insert(client);
        }
    }

    /// Notes when an alarm was raised.
    fn remember(&mut self, at_ms: i64) {
        let at = self.raised.partition_point(|it| *it <= at_ms);
        self.raised.insert(at, at_ms);
    }

    fn began(&mut self, client: ClientId, event: &Event, alarm: &proto::Alarm) {
        if let Some(known) = self.active.get_mut(&client)
            && known.activated_at_ms == alarm.activated_at_ms
        {
            known.message.clone_from(&alarm.message);
            known.severity.clone_from(&alarm.severity);
            known.raised_at_ms = event.timestamp_ms;
            return;
        }
        // Who is waited for anew stays so.
        let is_this = self.armed.get(&client).is_some_and(|it| it.since_ms == alarm.since_ms);
        let armed = if is_this { self.armed.remove(&client) } else { None };
        if let Some(armed) = &armed {
            self.timers.remove(&(armed.due_ms, client.clone()));
            self.unhold(&client);
        }
        if armed.as_ref().is_some_and(|it| it.raising) {
            self.raising -= 1;
        } else {
            // It was raised before the last start.
            self.forget_before(event.timestamp_ms);
            self.remember(event.timestamp_ms);
        }
        let mut active = Active {
            username: username(event),
            since_ms: alarm.since_ms,
            activated_at_ms: alarm.activated_at_ms,
            raised_at_ms: event.timestamp_ms,
            kind: alarm.kind.clone(),
            severity: alarm.severity.clone(),
            message: alarm.message.clone(),
            until_ms: None,
            why: None,
            ending: false,
        };
        if let Some(program) = self.program.clone() {
            // What another definition raised, and this one would not have, is over at once. So is the alarm of a
            // client that came back before the event was in the log: it is not waited for any more.
            let waited = matches!(alarm.kind.as_str(), "absence" | "silence");
            let is_other = waited != is_wait(&program) || !program.is_about(event);
            if is_other || is_wait(&program) {
                active.until_ms = (is_other || armed.is_none()).then_some(event.timestamp_ms);
                active.why = is_other.then_some(reason::CHANGED);
            } else {
                self.ends_by_time(&program, &client, &active);
            }
        }
        if active.until_ms.is_some() {
            self.over.insert(client.clone());
        }
        self.active.insert(client, active);
    }

    /// Sets the timer for the end of what ends by time alone.
    fn ends_by_time(&mut self, program: &AlarmProgram, client: &ClientId, active: &Active) {
        let over_ms = self.over_ms(program, client, active.activated_at_ms);
        self.timers.insert((over_ms, client.clone()));
    }

    /// When what PRESENCE or FLAPPING raised is over, unless there is more of it.
    fn over_ms(&self, program: &AlarmProgram, client: &str, activated_at_ms: i64) -> i64 {
        if program.kind() == AlarmKind::Presence {
            return activated_at_ms.saturating_add(ms(program.clear_after_ms()));
        }
        let last = self.flaps.get(client).and_then(|times| times.back().copied());
        last.unwrap_or(activated_at_ms).saturating_add(ms(program.grace_ms()))
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
        if armed.raising
            && let Some(program) = self.program.clone()
        {
            self.raising -= 1;
            // Its event is on its way and says the same.
            let said = said(&program, program.kind().name(), Some((&client, &armed)), 0);
            let active = Active {
                username: armed.username,
                since_ms: armed.since_ms,
                activated_at_ms: armed.due_ms,
                raised_at_ms: at_ms,
                kind: said.kind,
                severity: said.severity,
                message: said.message,
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
            self.nobody_held();
        }
    }

    fn nobody_held(&mut self) {
        (self.held_span_ms, self.held_total) = (None, 0);
    }

    fn arm(&mut self, program: &AlarmProgram, event: &Event) {
        let client = event.clientid();
        // Who is missed already is raised once; who is waited for is waited for from the first absence on.
        let is_on = self.active.get(client).is_some_and(|it| it.until_ms.is_none());
        if !is_on && !self.armed.contains_key(client) {
            self.put_armed(event, event.timestamp_ms + ms(program.grace_ms()), gone_ms(event));
        }
    }

    fn put_armed(&mut self, event: &Event, due_ms: i64, since_ms: i64) {
        let client: ClientId = event.clientid().into();
        let username = username(event);
        self.timers.insert((due_ms, client.clone()));
        self.dirty.insert(client.clone());
        self.armed.insert(client, Armed { username, since_ms, due_ms, held: false, raising: false });
    }

    fn flap(&mut self, program: &AlarmProgram, event: &Event) {
        let (at_ms, window_ms) = (event.timestamp_ms, ms(program.grace_ms()));
        let client: ClientId = event.clientid().into();
        let times = self.flaps.entry(client.clone()).or_default();
        if let Some(last) = times.back() {
            self.timers.remove(&(last + window_ms, client.clone()));
        }
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
        self.dirty.insert(client.clone());
        if is_full && self.may_begin(&client, at_ms) {
            self.put_armed(event, at_ms, 0);
        }
    }

    /// Whether PRESENCE and FLAPPING may raise an alarm of this moment: there is none, or it is over.
    fn may_begin(&self, client: &str, at_ms: i64) -> bool {
        let is_over = |it: &Active| it.until_ms.is_some() && it.activated_at_ms != at_ms;
        self.active.get(client).is_none_or(is_over) && !self.armed.contains_key(client)
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

/// When a device went. The event of one whose connection ended with the server is written at the next start.
fn gone_ms(event: &Event) -> i64 {
    match &event.body.detail {
        Some(Detail::Disconnected(it)) if it.disconnected_at_ms > 0 => it.disconnected_at_ms,
        _ => event.timestamp_ms,
    }
}

fn detail(alarm: &proto::Alarm, name: &str) -> Option<serde_json::Value> {
    serde_json::from_str::<serde_json::Value>(&alarm.details).ok()?.get(name).cloned()
}

fn username(event: &Event) -> Option<Arc<str>> {
    event.body.client.as_ref().and_then(|it| it.username.as_deref()).map(Arc::from)
}
