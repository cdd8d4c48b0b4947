//! What a restart, another definition or an operator does to an alarm.

use super::*;

impl State {
    /// Puts back what was stored.
    pub fn restore_armed(&mut self, client: ClientId, armed: (Option<Arc<str>>, i64, i64, bool)) {
        let (username, since_ms, due_ms, held) = armed;
        if held {
            self.held.insert(client.clone());
            self.held_total += 1;
            let (first_ms, last_ms) = self.held_span_ms.unwrap_or((due_ms, due_ms));
            self.held_span_ms = Some((first_ms.min(due_ms), last_ms.max(due_ms)));
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
        self.remember(active.raised_at_ms);
        self.active.insert(client, active);
    }

    /// Puts back what was stored.
    pub fn restore_flaps(&mut self, client: ClientId, times: Vec<i64>) {
        self.flaps.insert(client, times.into());
    }

    /// Puts back what was stored.
    pub fn restore_summary(&mut self, summary: Summary) {
        self.held_total = self.held_total.max(summary.count);
        self.summary = Some(summary);
    }

    /// How many are on for `client`, or at all; a storm is one of them.
    pub fn on(&self, client: Option<&str>) -> usize {
        let is_on = |it: &&Active| it.until_ms.is_none();
        match client {
            Some(client) => self.active.get(client).iter().filter(|it| is_on(it)).count(),
            None => {
                let storm = self.summary.as_ref().is_some_and(|it| !it.ending);
                self.active.values().filter(is_on).count() + usize::from(storm)
            }
        }
    }

    /// Ends what is on for `client`, or all of it, because an operator says so.
    pub fn force(&mut self, client: Option<&str>, now_ms: i64) {
        let named = |it: &ClientId| client.is_none_or(|client| client == it.as_ref());
        let on = self.active.iter_mut().filter(|(it, active)| named(it) && active.until_ms.is_none());
        for (client, active) in on {
            (active.until_ms, active.why) = (Some(now_ms), Some(reason::FORCED));
            self.over.insert(client.clone());
            self.dirty.insert(client.clone());
        }
        if client.is_none() {
            self.force_storm();
        }
    }

    /// Nobody whom it stands for is waited for until they were back.
    fn force_storm(&mut self) {
        let Some(summary) = self.summary.as_mut().filter(|it| !it.ending) else { return };
        summary.why = Some(reason::FORCED);
        self.dirty.insert(ClientId::from(""));
        for client in std::mem::take(&mut self.held) {
            self.armed.remove(&client);
            self.dirty.insert(client);
        }
    }

    /// Takes another definition. `anew` is the same log folded under it; none where it only says other things.
    /// What is on and still holds goes on; the rest ends now. Of PRESENCE and FLAPPING, only what happens from now on
    /// raises anything.
    pub fn redefine(&mut self, program: Option<Arc<AlarmProgram>>, anew: Option<Self>, now_ms: i64) {
        let is_gone = program.is_none();
        self.program = program;
        let waits = self.waits();
        let Some(anew) = anew.or_else(|| is_gone.then(Self::default)) else { return self.resume() };
        let why = if is_gone { reason::REMOVED } else { reason::CHANGED };
        for (client, active) in self.active.iter_mut().filter(|(_, it)| it.until_ms.is_none()) {
            let waited = matches!(active.kind.as_str(), "absence" | "silence");
            if is_gone || waited != waits || waits && !anew.armed.contains_key(client) {
                (active.until_ms, active.why) = (Some(now_ms), Some(why));
                self.over.insert(client.clone());
                self.dirty.insert(client.clone());
            }
        }
        if let Some(summary) = &mut self.summary {
            summary.why = summary.why.or(Some(why));
            self.dirty.insert(ClientId::from(""));
        }
        self.raising = 0;
        self.dirty.extend(self.armed.drain().map(|(client, _)| client));
        self.timers.clear();
        self.held.clear();
        self.nobody_held();
        let before = std::mem::replace(&mut self.flaps, anew.flaps);
        if let Some(program) = &self.program {
            // Of those whom nobody counts any more there is nothing to store.
            let (active, window_ms) = (&self.active, ms(program.grace_ms()));
            let counts = |times: &VecDeque<i64>| times.back().is_some_and(|last| last + window_ms > now_ms);
            self.flaps.retain(|client, times| active.contains_key(client) || counts(times));
        }
        self.dirty.extend(before.into_keys().chain(self.flaps.keys().cloned()));
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
        self.resume();
    }

    /// Sets the timers of what ends by time alone.
    fn resume(&mut self) {
        let Some(program) = self.program.clone().filter(|it| !is_wait(it)) else { return };
        let on = self.active.iter().filter(|(_, it)| it.until_ms.is_none());
        let on = on.map(|(client, it)| (client, it.activated_at_ms));
        let held = self.held.iter().filter_map(|client| self.armed.get(client).map(|it| (client, it.due_ms)));
        // Who has flapped and is not on has a last time, from which alone it follows when it is forgotten.
        let flapped = self.flaps.keys().map(|client| (client, 0));
        let timers: Vec<_> = on
            .chain(held)
            .chain(flapped)
            .map(|(client, at_ms)| (self.over_ms(&program, client, at_ms), client.clone()))
            .collect();
        self.timers.extend(timers);
    }
}
