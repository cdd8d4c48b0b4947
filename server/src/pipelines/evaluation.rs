//! One evaluation for all sinks of a rule. Its pipelines read the log each at its own pace; while they are close to
//! each other, the first that sees an event runs the rule, and the others take the same rows: every sink has the same
//! `uuid_v4()`, and a row is written as JSON at most once. A pipeline that is far behind runs the rule on its own, so
//! that nobody waits for anybody. What the rule does is counted here, too, each event once however many sinks there
//! are. It must never know a sink.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use muster_core::event::Event;
use muster_core::value::Row;
use muster_rules::ast::Select;
use muster_rules::{EvalContext, RuleProgram};
use muster_sinks::{SLOTS, SharedRow, slot};

/// Events whose rows are kept for the rule's other pipelines.
const SHARED_EVENTS_MAX: usize = 4_096;
/// About how many bytes of rows are kept for them; also a single event that has more is kept until the next one.
const SHARED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a rule did with the events that its FROM names, since it was loaded. Events that are read again, for another
/// sink or after an error, do not count again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RuleCounts {
    /// Events that FROM names.
    pub matched: u64,
    /// Those that yielded a row.
    pub passed: u64,
    /// Those on which the rule failed.
    pub failed_exception: u64,
    /// Those that WHERE or INCASE left without a row.
    pub no_result: u64,
}

/// What a rule makes of an event.
type Made = Result<Arc<[SharedRow]>, String>;

/// A rule, evaluated for all its pipelines.
pub(super) struct Evaluation {
    program: Arc<RuleProgram>,
    /// What it was made of; none where no pipeline of it runs.
    select: Option<Select>,
    /// How many pipelines take part.
    pipelines: AtomicUsize,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events before it are counted, for each slot of clients: lanes read them each at its own pace.
    counted: Counted,
    counts: RuleCounts,
}

struct Counted([u64; SLOTS as usize]);

impl Default for Counted {
    fn default() -> Self {
        Self([0; SLOTS as usize])
    }
}

struct Entry {
    offset: u64,
    /// Pipelines that have not taken it yet.
    left: usize,
    bytes: usize,
    made: Arc<OnceLock<Made>>,
}

/// What is to be done about an event.
struct Turn {
    /// Where the others find what was made, or where it is already.
    shared: Option<Arc<OnceLock<Made>>>,
    /// Whether the event is seen for the first time.
    first: bool,
}

impl Evaluation {
    /// `select` is what `program` was made of: rules are the same if it is.
    pub(super) fn new(program: Arc<RuleProgram>, select: Select) -> Arc<Self> {
        Self::of(program, Some(select))
    }

    /// Of a rule that is only tried.
    pub(super) fn alone(program: Arc<RuleProgram>) -> Arc<Self> {
        Self::of(program, None)
    }

    fn of(program: Arc<RuleProgram>, select: Option<Select>) -> Arc<Self> {
        Arc::new(Self { program, select, pipelines: AtomicUsize::new(0), recent: Mutex::default() })
    }

    /// Whether it is of this very rule.
    pub(super) fn is_of(&self, select: &Select) -> bool {
        self.select.as_ref() == Some(select)
    }

    pub(super) fn program(&self) -> &RuleProgram {
        &self.program
    }

    pub(super) fn counts(&self) -> RuleCounts {
        self.recent().counts
    }

    pub(super) fn reset_counts(&self) {
        self.recent().counts = RuleCounts::default();
    }

    /// One pipeline's part in it.
    pub(super) fn join(self: &Arc<Self>) -> Part {
        self.pipelines.fetch_add(1, Ordering::Relaxed);
        Part(self.clone())
    }

    /// Adds to `rows` what the rule makes of `event`.
    fn rows(
        &self,
        event: &Event,
        context: &mut EvalContext,
        rows: &mut Vec<SharedRow>,
    ) -> Result<(), String> {
        if !self.program.matches(event) {
            return Ok(());
        }
        let Turn { shared, first } = self.turn(event);
        let mut count = Count { recent: &self.recent, outcome: first.then_some(Outcome::Failed) };
        let made = match shared {
            None => self.run(event, context),
            Some(cell) => {
                let mut mine = false;
                let made = cell.get_or_init(|| {
                    mine = true;
                    self.run(event, context)
                });
                if mine {
                    self.recent().weigh(event.offset, made);
                }
                made.clone()
            }
        };
        if first {
            count.outcome = Some(Outcome::of(&made));
        }
        rows.extend(made?.iter().cloned());
        Ok(())
    }

    fn run(&self, event: &Event, context: &mut EvalContext) -> Made {
        let mut rows: Vec<Row> = Vec::new();
        self.program.run(event, context, &mut rows).map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(SharedRow::from).collect())
    }

    fn turn(&self, event: &Event) -> Turn {
        let others = self.pipelines.load(Ordering::Relaxed).saturating_sub(1);
        let mut recent = self.recent();
        let first = recent.counted.is_first(event);
        recent.counts.matched += u64::from(first);
        // What a rule remembers is in each pipeline's own context, which therefore has to see every event.
        let share = others > 0 && !self.program.remembers();
        Turn { shared: if share { recent.take(event.offset, others, first) } else { None }, first }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }
}

impl Counted {
    /// Whether nobody has seen the event, nor one of its slot after it; from now on somebody has.
    fn is_first(&mut self, event: &Event) -> bool {
        let Some(seen) = self.0.get_mut(slot(event.clientid()) as usize) else { return false };
        let first = event.offset >= *seen;
        if first {
            *seen = event.offset + 1;
        }
        first
    }
}

impl Recent {
    /// What was made of the event at `offset`, or a new place for it if it is seen for the first time; none for one
    /// that was forgotten.
    fn take(&mut self, offset: u64, others: usize, first: bool) -> Option<Arc<OnceLock<Made>>> {
        let found = self.entries.binary_search_by_key(&offset, |entry| entry.offset);
        let at = match found {
            Ok(at) => at,
            Err(_) if !first => return None,
            Err(mut at) => {
                let made = Arc::new(OnceLock::new());
                if self.entries.len() >= SHARED_EVENTS_MAX {
                    self.forget_oldest();
                    at = at.saturating_sub(1);
                }
                self.entries.insert(at, Entry { offset, left: others, bytes: 0, made: made.clone() });
                return Some(made);
            }
        };
        let entry = self.entries.get_mut(at)?;
        entry.left = entry.left.saturating_sub(1);
        let (made, left) = (entry.made.clone(), entry.left);
        if left == 0
            && let Some(entry) = self.entries.remove(at)
        {
            self.bytes -= entry.bytes;
        }
        Some(made)
    }

    /// Notes how much was made, and forgets the oldest while that is too much.
    fn weigh(&mut self, offset: u64, made: &Made) {
        let Ok(at) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) else { return };
        let bytes = match made {
            Ok(rows) => rows.iter().map(SharedRow::bytes).sum(),
            Err(reason) => reason.len(),
        };
        if let Some(entry) = self.entries.get_mut(at) {
            entry.bytes = bytes;
            self.bytes += bytes;
        }
        while self.bytes > SHARED_BYTES_MAX && self.entries.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes;
        }
    }
}

enum Outcome {
    Passed,
    Nothing,
    Failed,
}

impl Outcome {
    fn of(made: &Made) -> Self {
        match made {
            Ok(rows) if rows.is_empty() => Self::Nothing,
            Ok(_) => Self::Passed,
            Err(_) => Self::Failed,
        }
    }
}

/// Counts what came of an event when it goes out of scope, so also when the rule panicked.
struct Count<'a> {
    recent: &'a Mutex<Recent>,
    outcome: Option<Outcome>,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let Some(outcome) = &self.outcome else { return };
        let counts = &mut lock(self.recent).counts;
        match outcome {
            Outcome::Passed => counts.passed += 1,
            Outcome::Nothing => counts.no_result += 1,
            Outcome::Failed => counts.failed_exception += 1,
        }
    }
}

/// A pipeline's part in an evaluation.
pub(super) struct Part(Arc<Evaluation>);

impl Part {
    pub(super) fn program(&self) -> &RuleProgram {
        self.0.program()
    }

    /// As [`RuleProgram::run`], or what another pipeline has made of the event already.
    pub(super) fn rows(
        &self,
        event: &Event,
        context: &mut EvalContext,
        rows: &mut Vec<SharedRow>,
    ) -> Result<(), String> {
        self.0.rows(event, context, rows)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.pipelines.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock(recent: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use muster_core::clock::{ManualClock, SharedClock};
    use muster_core::event::{EventKind, NewEvent, proto};
    use muster_rules::ast::Statement;

    use super::*;

    /// A rule's evaluation, with as many pipelines as are asked for.
    fn evaluation(select: &str) -> Arc<Evaluation> {
        let (statements, problems) = muster_rules::parse_files([("rule.sql", select)]);
        assert!(problems.is_empty(), "{problems:?}");
        let Some(Statement::CreateRule(rule)) = statements.first() else { panic!("{statements:?}") };
        Evaluation::new(RuleProgram::compile(rule).unwrap().into(), rule.select.clone())
    }

    struct Reader {
        part: Part,
        context: EvalContext,
    }

    impl Reader {
        fn new(evaluation: &Arc<Evaluation>, seed: u64) -> Self {
            let clock: SharedClock = ManualClock::at(0);
            Self { part: evaluation.join(), context: EvalContext::new(clock, seed) }
        }

        fn read(&mut self, event: &Event) -> Result<Vec<SharedRow>, String> {
            let mut rows = Vec::new();
            self.part.rows(event, &mut self.context, &mut rows).map(|()| rows)
        }
    }

    fn event(offset: u64, payload: &str) -> Event {
        let message = proto::Message { payload: payload.to_owned().into(), ..Default::default() };
        let body = proto::Event { message: Some(message), ..Default::default() };
        NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "t".into(), body }.at(7, offset)
    }

    #[test]
    fn pipelines_that_are_close_to_each_other_share_their_rows() {
        let evaluation = evaluation("SELECT uuid_v4() AS id FROM \"t\"");
        let mut readers = [1, 2, 3].map(|seed| Reader::new(&evaluation, seed));
        for first in 0..3 {
            let event = event(first as u64, "");
            let first_rows = readers[first].read(&event).unwrap();
            for other in (0..3).filter(|other| *other != first) {
                let rows = readers[other].read(&event).unwrap();
                assert!(rows.len() == 1 && rows[0].is(&first_rows[0]), "{rows:?} {first_rows:?}");
            }
        }
        let recent = evaluation.recent();
        assert_eq!((recent.entries.len(), recent.bytes), (0, 0), "what everybody has is forgotten");
        assert_eq!(recent.counts, RuleCounts { matched: 3, passed: 3, ..RuleCounts::default() });
    }

    #[test]
    fn a_pipeline_that_is_far_behind_waits_for_nobody_and_disturbs_nobody() {
        let evaluation = evaluation("SELECT uuid_v4() AS id FROM \"t\"");
        let (mut near, mut far) = (Reader::new(&evaluation, 1), Reader::new(&evaluation, 2));
        let many = SHARED_EVENTS_MAX as u64 + 10;
        let at_the_tail: Vec<_> =
            (0..many).flat_map(|offset| near.read(&event(offset, "")).unwrap()).collect();
        assert_eq!(evaluation.recent().entries.len(), SHARED_EVENTS_MAX);
        let behind: Vec<_> = (0..many).flat_map(|offset| far.read(&event(offset, "")).unwrap()).collect();
        let shared = at_the_tail.iter().zip(&behind).filter(|(one, other)| one.is(other)).count();
        assert_eq!((behind.len() as u64, shared), (many, SHARED_EVENTS_MAX));
        assert_eq!(evaluation.counts().matched, many, "each event once");
    }

    #[test]
    fn rows_are_kept_by_their_bytes() {
        let evaluation = evaluation("SELECT payload FROM \"t\"");
        let mut reader = Reader::new(&evaluation, 1);
        let _other = evaluation.join();
        let payload = "x".repeat(SHARED_BYTES_MAX / 4);
        for offset in 0..10 {
            reader.read(&event(offset, &payload)).unwrap();
            assert!(evaluation.recent().bytes <= SHARED_BYTES_MAX);
        }
        assert_eq!(evaluation.recent().entries.len(), 3);
        reader.read(&event(10, &"x".repeat(2 * SHARED_BYTES_MAX))).unwrap();
        assert_eq!(evaluation.recent().entries.len(), 1, "one event may be larger");
        reader.read(&event(11, "x")).unwrap();
        assert!(evaluation.recent().bytes < 100);
    }

    #[test]
    fn what_came_of_an_event_is_counted_and_failures_are_shared() {
        let evaluation = evaluation("SELECT 1 / payload.n AS x FROM \"t\" WHERE payload.n <> 7");
        let mut readers = [1, 2].map(|seed| Reader::new(&evaluation, seed));
        for (offset, payload) in (0..).zip([r#"{"n":1}"#, r#"{"n":0}"#, r#"{"n":7}"#, r#"{"n":2}"#]) {
            let [one, other] = readers.each_mut().map(|reader| reader.read(&event(offset, payload)));
            assert_eq!(one.is_err(), other.is_err());
            assert_eq!(one.err(), other.err());
        }
        let counts = RuleCounts { matched: 4, passed: 2, failed_exception: 1, no_result: 1 };
        assert_eq!(evaluation.counts(), counts);
        evaluation.reset_counts();
        assert_eq!(evaluation.counts(), RuleCounts::default());
    }

    #[test]
    fn a_rule_that_remembers_sees_every_event_in_each_pipeline() {
        let count = "kv_store_put('n', kv_store_get('n', 0) + 1) AS put, kv_store_get('n') AS n";
        let evaluation = evaluation(&format!("SELECT {count} FROM \"t\""));
        let mut readers = [1, 2].map(|seed| Reader::new(&evaluation, seed));
        for offset in 0..3 {
            for reader in &mut readers {
                let rows = reader.read(&event(offset, "")).unwrap();
                assert_eq!(rows[0].get("n").map(|n| n.to_json()), Some((offset + 1).to_string()));
            }
        }
        assert_eq!(evaluation.counts().matched, 3);
    }

    #[test]
    fn threads_that_race_get_the_same_rows() {
        const EVENTS: u64 = 2_000;
        let evaluation = evaluation("SELECT uuid_v4() AS id FROM \"t\"");
        let readers: Vec<_> = (0..4).map(|seed| Reader::new(&evaluation, seed)).collect();
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                std::thread::spawn(move || {
                    let rows = (0..EVENTS).flat_map(|offset| reader.read(&event(offset, "")).unwrap());
                    (rows.map(|row| row.json().to_owned()).collect::<Vec<_>>(), reader)
                })
            })
            .collect();
        // A reader that is gone leaves the others to themselves, so all stay until the last is through.
        let (mut all, _readers): (Vec<_>, Vec<_>) =
            threads.into_iter().map(|thread| thread.join().unwrap()).unzip();
        all.dedup();
        let counts = evaluation.counts();
        assert_eq!((counts.matched, counts.passed), (EVENTS, EVENTS));
        assert_eq!(all.len(), 1, "all have the same rows");
    }
}
