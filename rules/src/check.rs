//! Rule files as a whole: every file parsed and planned, names held against each other.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Name, Source, Statement};
use crate::diagnostic::{Diagnostic, Problem};
use crate::plan;
use crate::syntax::{self, Mode};

/// Reads one file. Statements without errors are returned, and everything that is to be said of the file.
pub fn parse(file: &str, text: &str) -> (Vec<Statement>, Vec<Diagnostic>) {
    parse_files([(file, text)])
}

/// Reads several files that stand beside each other: names must be unique over all of them.
pub fn parse_files<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Vec<Statement>, Vec<Diagnostic>) {
    let mut statements = Vec::new();
    let mut diagnostics = Vec::new();
    let mut names = Names::default();
    for (file, text) in files {
        let source = Arc::new(Source { name: file.to_owned(), text: text.to_owned() });
        let (found, mut problems) = syntax::statements(&source);
        for statement in found {
            let of_statement = check(&statement, &source, &mut names);
            if !of_statement.iter().any(Diagnostic::is_error) {
                statements.push(statement);
            }
            problems.extend(of_statement);
        }
        problems.sort_by_key(|problem| problem.span.start);
        diagnostics.append(&mut problems);
    }
    (statements, diagnostics)
}

#[derive(Default)]
struct Names {
    seen: HashMap<(&'static str, String), (Arc<Source>, Name)>,
}

impl Names {
    fn add(&mut self, kind: &'static str, name: &Name, source: &Arc<Source>) -> Option<Diagnostic> {
        let key = (kind, name.text.clone());
        if let Some((first, place)) = self.seen.get(&key) {
            let at = Problem::new(place.span, "").at(first);
            let problem = Problem::new(name.span, format!("there are two {kind}s named `{}`", name.text));
            let help = format!("the other one is at {}:{}:{}; rename one", at.file(), at.line(), at.column());
            return Some(problem.help(help).at(source));
        }
        self.seen.insert(key, (source.clone(), name.clone()));
        None
    }
}

fn check(statement: &Statement, source: &Arc<Source>, names: &mut Names) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    match statement {
        Statement::CreateSink(sink) => diagnostics.extend(names.add("sink", &sink.name, source)),
        Statement::CreateRule(rule) => {
            diagnostics.extend(names.add("rule", &rule.name, source));
            let plan = plan::select(&rule.select, Mode::Extended);
            diagnostics.extend(plan.problems.into_iter().map(|problem| problem.at(source)));
        }
        Statement::CreateAlarm(alarm) => {
            diagnostics.extend(names.add("alarm", &alarm.name, source));
        }
        Statement::CommentOnRule { .. } => {}
    }
    diagnostics
}
