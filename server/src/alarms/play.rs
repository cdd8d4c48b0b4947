//! An alarm without an engine: events in, notices out, with a clock that goes from one deadline to the next.

use std::sync::Arc;

use muster_core::event::Event;
use muster_rules::{AlarmProgram, EvalContext};

use super::state::State;

/// What an alarm says of `events`, which are in the order of their times, until `until_ms`.
pub fn play(
    program: &Arc<AlarmProgram>,
    events: &[Arc<Event>],
    until_ms: i64,
    context: &mut EvalContext,
) -> Vec<Event> {
    let mut stage = Stage { state: State::new(program.name(), Some(program.clone())), said: Vec::new() };
    for event in events {
        // A return at the deadline comes too late; one before it is heard.
        stage.go_on(event.timestamp_ms);
        stage.state.fold(event, context);
    }
    stage.go_on(until_ms);
    stage.said
}

struct Stage {
    state: State,
    said: Vec<Event>,
}

impl Stage {
    /// Says what is due until `until_ms`, each at its time.
    fn go_on(&mut self, until_ms: i64) {
        let mut now_ms = i64::MIN;
        while let Some(due_ms) = self.state.next_due_ms().filter(|due| *due <= until_ms) {
            // What is due at once is due now.
            now_ms = match due_ms {
                0 if now_ms == i64::MIN => until_ms,
                due_ms => now_ms.max(due_ms),
            };
            for notice in self.state.due(now_ms) {
                let event = notice.event("", now_ms).at(1, self.said.len() as u64 + 1);
                self.state.fold_own(&event);
                self.said.push(event);
            }
        }
    }
}
