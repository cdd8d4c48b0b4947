//! Rule files as a whole: every file parsed and planned, names held against each other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use muster_core::value::Value;

use crate::ast::{Name, Options, Rule, Select, Source, Statement, Target};
use crate::diagnostic::{Diagnostic, Problem, nearest};
use crate::syntax::{self, Mode};
use crate::template::Template;
use crate::{alarm, plan, republish};

/// Reads one file. Statements without errors are returned, and everything that is to be said of the file.
pub fn parse(file: &str, text: &str) -> (Vec<Statement>, Vec<Diagnostic>) {
    parse_files([(file, text)])
}

/// Reads one SELECT or FOREACH without planning it.
///
/// # Errors
/// Where it cannot be read.
pub fn read_select(text: &str) -> Result<Select, Diagnostic> {
    let source = Arc::new(Source { name: "select".into(), text: text.to_owned() });
    syntax::select(text, Mode::Extended).map_err(|problem| problem.at(&source))
}

/// Reads one SELECT or FOREACH as the rule `name`, which stands in no file; messages call its text `source`.
///
/// # Errors
/// Where it cannot be read.
pub fn read_rule(name: &str, source: &str, text: &str) -> Result<Rule, Diagnostic> {
    let source = Arc::new(Source { name: source.to_owned(), text: text.to_owned() });
    let select = syntax::select(text, Mode::Extended).map_err(|problem| problem.at(&source))?;
    let name = Name { text: name.to_owned(), span: select.span };
    Ok(Rule { name, into: Vec::new(), options: Options::default(), select, source })
}

/// Reads several files that stand beside each other: names must be unique over all of them.
pub fn parse_files<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Vec<Statement>, Vec<Diagnostic>) {
    parse_files_and(files, |_| (Vec::new(), Vec::new()))
}

/// As [`parse_files`], with rules that stand in no file. `more` makes them, seeing the statements of the files, and
/// says what is wrong with those that it could not make. Of names that are not unique and of circles, they are told.
pub fn parse_files_and<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
    more: impl FnOnce(&mut dyn Iterator<Item = &Statement>) -> (Vec<Rule>, Vec<Diagnostic>),
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
                statements.push((statement, source.clone()));
            }
            problems.extend(of_statement);
        }
        problems.sort_by_key(|problem| problem.span.start);
        diagnostics.append(&mut problems);
    }
    let (rules, problems) = more(&mut statements.iter().map(|(statement, _)| statement));
    diagnostics.extend(problems);
    let mut added = Vec::with_capacity(rules.len());
    for rule in rules {
        let (source, statement) = (rule.source.clone(), Statement::CreateRule(rule));
        let of_statement = check(&statement, &source, &mut names);
        if !of_statement.iter().any(Diagnostic::is_error) {
            added.push((statement, source));
        }
        diagnostics.extend(of_statement);
    }
    // A circle is told at its first rule: at one that stands in no file, if there is one.
    let first_file = added.len();
    added.append(&mut statements);
    let mut statements = added;
    diagnostics.extend(together(&statements, &names));
    statements.rotate_left(first_file);
    (statements.into_iter().map(|(statement, _)| statement).collect(), diagnostics)
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
    let mut problems = Vec::new();
    let taken = match statement {
        Statement::CreateSink(sink) => names.add("sink", &sink.name, source),
        Statement::CreateRule(rule) => {
            problems.extend(plan::select(&rule.select, Mode::Extended).problems);
            problems.extend(start_option(&rule.options));
            for target in &rule.into {
                if let Target::Republish { topic, options } = target {
                    problems.extend(republish::problems(topic, options));
                }
            }
            names.add("rule", &rule.name, source)
        }
        Statement::CreateAlarm(alarm) => {
            problems.extend(alarm::problems(alarm));
            // Its notices are delivered as the rows of a rule of this name.
            names.add("alarm", &alarm.name, source).or_else(|| names.add("rule", &alarm.name, source))
        }
        Statement::CommentOnRule { .. } => None,
    };
    taken.into_iter().chain(problems.into_iter().map(|problem| problem.at(source))).collect()
}

/// `start = 'earliest' | 'latest' | offset | '2026-01-01T00:00:00Z'`.
fn start_option(options: &Options) -> Option<Problem> {
    let entry = options.0.iter().find(|entry| entry.key.text == "start")?;
    let good = match &entry.value {
        Value::Int(offset) => *offset >= 0,
        other => {
            let text = other.as_str()?;
            matches!(text, "earliest" | "latest") || text.parse::<jiff::Timestamp>().is_ok()
        }
    };
    let help = "write 'earliest', 'latest', an offset such as 1200, or a time such as '2026-01-31T00:00:00Z'";
    (!good).then(|| Problem::new(entry.span, "a rule cannot start there").help(help))
}

/// What can be seen only when all files were read: comments on rules that are not there, and rules that republish in
/// a circle.
fn together(statements: &[(Statement, Arc<Source>)], names: &Names) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (statement, source) in statements {
        if let Statement::CommentOnRule { rule, .. } = statement
            && !names.seen.contains_key(&("rule", rule.text.clone()))
        {
            let problem = Problem::new(rule.span, format!("there is no rule `{}`", rule.text));
            let rules = names.seen.keys().filter(|(kind, _)| *kind == "rule").map(|(_, name)| name.as_str());
            let problem = match nearest(&rule.text, rules) {
                Some(meant) => problem.help(format!("did you mean `{meant}`?")),
                None => problem,
            };
            found.push(problem.at(source));
        }
    }
    let rules: Vec<&Rule> = statements
        .iter()
        .filter_map(|(statement, _)| match statement {
            Statement::CreateRule(rule) => Some(rule),
            _ => None,
        })
        .collect();
    for (at, rule) in rules.iter().enumerate() {
        for target in &rule.into {
            let Target::Republish { topic, .. } = target else { continue };
            if let Some(way) = circle(&rules, at, &topic.text) {
                let names: Vec<_> =
                    way.iter().filter_map(|at| rules.get(*at)).map(|rule| rule.name.text.as_str()).collect();
                let message = format!("these rules republish in a circle: {}", names.join(" -> "));
                let problem = if way.len() > 2 {
                    Problem::new(topic.span, message)
                } else {
                    Problem::warning(topic.span, "this rule would see what it republishes itself")
                };
                let help = "republish to a topic that none of their FROM matches";
                found.push(problem.help(help).at(&rule.source));
            }
        }
    }
    found
}

/// The way from a rule over those that its republished topic wakes back to itself, if there is one. Each circle is
/// told once, at the first of its rules.
fn circle(rules: &[&Rule], start: usize, topic: &str) -> Option<Vec<usize>> {
    let wakes = |topic: &str| -> Vec<usize> {
        let filter = Template::new(topic).as_filter();
        let woken = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.select.from.iter().any(|from| overlap(&filter, &from.text)));
        woken.map(|(at, _)| at).collect()
    };
    let mut ways: Vec<Vec<usize>> = wakes(topic).into_iter().map(|next| vec![start, next]).collect();
    let mut seen = HashSet::new();
    while let Some(way) = ways.pop() {
        let Some(&last) = way.last() else { continue };
        if last == start {
            return Some(way);
        }
        if last < start || !seen.insert(last) {
            continue;
        }
        for target in rules.get(last).map_or(&[][..], |rule| &rule.into) {
            if let Target::Republish { topic, .. } = target {
                ways.extend(wakes(&topic.text).into_iter().map(|next| [way.as_slice(), &[next]].concat()));
            }
        }
    }
    None
}

/// Whether some topic matches both filters.
fn overlap(left: &str, right: &str) -> bool {
    if left.starts_with('$') != right.starts_with('$') {
        return false;
    }
    let (mut left, mut right) = (left.split('/'), right.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some(l), Some(r)) if l == r || l == "+" || r == "+" => {}
            _ => return false,
        }
    }
}
