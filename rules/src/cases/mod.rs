//! Cases for rules and alarms: what happens, and what must be made of it, one JSON object a line beside the rule
//! file. Reading and
//! judging is here; running is not: a case runs on the very code that pipelines run.

use std::fmt;
use std::sync::Arc;

use muster_core::event::Event;
use muster_core::value::Row;

mod judge;
mod locate;
mod read;

pub use judge::{Difference, judge};
pub use read::read;

/// The clock of a case that says no `now`: 2026-01-01T00:00:00Z.
pub const NOW_DEFAULT_MS: i64 = 1_767_225_600_000;

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name; `line N` where it has none.
    pub name: String,
    /// The rule; none where the file has but one.
    pub rule: Option<String>,
    /// The line it stands on, from 1.
    pub line: usize,
    /// The column of `rule`, or of the case, from 1.
    pub rule_column: usize,
    /// What happens; of a case for an alarm, what happens first.
    pub event: Arc<Event>,
    /// What a case for an alarm has instead of one event.
    pub course: Option<Course>,
    /// What time it is then, milliseconds since 1970.
    pub now_ms: i64,
    /// What must come of it.
    pub expected: Expected,
    /// Columns that are not looked at.
    pub ignore: Vec<String>,
}

/// What happens one after the other, for an alarm.
#[derive(Debug, Clone)]
pub struct Course {
    /// The alarm; none where the file has but one.
    pub alarm: Option<String>,
    /// The events, in the order of their times.
    pub events: Vec<Arc<Event>>,
    /// Until when it is waited for what becomes of them, milliseconds since 1970.
    pub until_ms: i64,
}

/// What must come of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// These rows, in this order.
    Rows(Vec<Row>),
    /// So many rows, of which each holds at least these columns.
    RowsContain(Vec<Row>),
    /// No row: FROM does not name it, or WHERE or INCASE did not hold.
    NoMatch,
    /// A failure with this in its message.
    Error(String),
}

/// A line that is no case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for CaseError {}

#[cfg(test)]
mod tests;
