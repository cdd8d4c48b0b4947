//! Rule SQL: text to tree (`syntax`), tree to program (`plan`), program and event to rows (`program`), with the
//! functions that rules call. It depends on events and values only, knows no sink, and does no input or output:
//! secrets stay references (`${env:NAME}`, `${file:PATH}`) in the options of a statement until the server resolves
//! them.
//!
//! ```
//! let (statements, problems) = muster_rules::parse(
//!     "hot.sql",
//!     r#"SELECT clientid, payload.temp AS temp FROM "sensors/+/up" WHERE payload.temp > 40"#,
//! );
//! assert!(problems.is_empty());
//! let muster_rules::ast::Statement::CreateRule(rule) = &statements[0] else { panic!("no rule") };
//! let program = muster_rules::RuleProgram::compile(rule).expect("a rule that was read without errors compiles");
//! assert_eq!(program.wants().filters, ["sensors/+/up"]);
//! ```

mod alarm;
pub mod ast;
pub mod cases;
mod check;
pub mod conformance;
mod diagnostic;
pub mod explain;
mod functions;
mod plan;
mod print;
mod program;
mod republish;
mod rule;
pub mod secrets;
mod set;
mod syntax;
pub mod template;

pub use alarm::{AlarmKind, AlarmProgram, AlarmSeverity};
pub use check::{parse, parse_files, parse_files_and, read_rule, read_select};
pub use diagnostic::{Diagnostic, Severity};
pub use functions::usages as function_usages;
pub use program::context::{EnvLookup, EvalContext};
pub use program::run::{EvalError, Stage};
pub use program::source::Wants;
pub use republish::{Outgoing, Republish, Unpublishable};
pub use rule::{RuleProgram, Tried};
pub use set::RuleSet;

/// Everything that is bounded, by name.
pub mod limits {
    pub use crate::alarm::{ACTIVE_MAX_DEFAULT, FLAPS_MAX, GRACE_MS_MAX, STORM_PER_MINUTE_DEFAULT};
    pub use crate::functions::{
        DECIMALS_MAX, FORMAT_BYTES_MAX, INFLATED_BYTES_MAX, JQ_BYTES_MAX, JQ_CALLS_MAX, JQ_ITEMS_MAX,
        JQ_OUTPUTS_MAX, JQ_TIME_DEFAULT_MS, REGEX_BACKTRACKS_MAX, REGEX_BYTES_MAX, REGEX_TIME_MAX_MS,
    };
    pub use crate::program::context::{KV_BYTES_MAX, KV_ENTRIES_MAX, PREPARED_MAX};
    pub use crate::program::eval::{LIKE_STEPS_MAX, RANGE_ITEMS_MAX};
    pub use crate::program::json::{JSON_BYTES_MAX, JSON_DEPTH_MAX, JSON_NUMBER_BYTES_MAX, JSON_VALUES_MAX};
    pub use crate::program::ops::INTEGER_BITS_MAX;
    pub use crate::program::run::ROWS_MAX;
    pub use crate::program::size::{VALUE_BYTES_MAX, VALUE_DEPTH_MAX};
    pub use crate::program::text::STRING_BYTES_MAX;
    pub use crate::syntax::{
        INTEGER_DIGITS_MAX, NESTING_MAX, OPERATORS_MAX, STATEMENT_BYTES_MAX, STATEMENT_TOKENS_MAX,
    };
}
