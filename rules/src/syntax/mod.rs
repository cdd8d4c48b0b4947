//! Text to tree: statements of rule files, each parsed on its own, so that one broken statement hides no error of
//! the next. It knows no event, no function and no sink.

mod dialect;
mod lexer;
mod lower;
mod options;
mod statement;

use std::sync::Arc;

pub use dialect::OPERATORS_MAX;
pub(crate) use dialect::is_bare_name;
pub use lexer::STATEMENT_BYTES_MAX;
pub use lower::INTEGER_DIGITS_MAX;
pub use statement::{NESTING_MAX, STATEMENT_TOKENS_MAX};

use crate::ast::{Expr, Select, Source, Statement};
use crate::diagnostic::{Diagnostic, Problem};
pub(crate) use options::parse_duration;
use statement::Reader;

/// Which language is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// Rule SQL with our additions; the rule.
    #[default]
    Extended,
    /// What the reference accepts and nothing else, down to its limits; for comparisons with it.
    Reference,
}

/// Reads the statements of one file. Statements that could be read are returned even if others could not.
pub(crate) fn statements(source: &Arc<Source>) -> (Vec<Statement>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut diagnostics = Vec::new();
    for (start, end) in lexer::split(&source.text) {
        let part = source.text.get(start..end).unwrap_or_default();
        match read(part, start, Mode::Extended, |reader| reader.statement(source)) {
            Ok(statement) => found.push(statement),
            Err(problem) => diagnostics.push(problem.at(source)),
        }
    }
    (found, diagnostics)
}

/// Reads one SELECT or FOREACH and nothing beside it.
pub(crate) fn select(text: &str, mode: Mode) -> Result<Select, Problem> {
    let trimmed = if mode == Mode::Reference { text.trim_matches([' ', '\t', '\r', '\n']) } else { text };
    let trimmed = if mode == Mode::Extended { trimmed.trim_end().trim_end_matches(';') } else { trimmed };
    read(trimmed, 0, mode, |reader| reader.whole_select())
}

/// Reads one expression, as an item of SELECT.
pub(crate) fn expression(text: &str, mode: Mode) -> Result<Expr, Problem> {
    read(text, 0, mode, |reader| reader.whole_expr())
}

fn read<T>(
    text: &str,
    base: usize,
    mode: Mode,
    with: impl FnOnce(&mut Reader) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let tokens = lexer::lex(text, base, mode)?;
    let dialect = dialect::RuleDialect::new(mode);
    Reader::new(&dialect, tokens, base + text.len(), mode).and_then(|mut reader| with(&mut reader))
}
