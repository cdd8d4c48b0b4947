//! Rules made over REST, put beside those of the files: each becomes a rule that stands in no file, under the place
//! `rest:ID`, so that what is wrong with it has a line and a column. Where a file has a rule of the same name, the file
//! wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_rules::ast::{Rule, Source, Span, Statement};
use muster_rules::{Diagnostic, Severity, read_rule};
use muster_sinks::SinkEnv;

use super::actions;
use super::managed::{ManagedRule, PLACE};
use super::plan::{Plan, RuleFile, plan_with};

/// Whether this is about a rule made over REST.
pub(super) fn is_managed(diagnostic: &Diagnostic) -> bool {
    diagnostic.file().starts_with(PLACE)
}

/// Whether this is wrong with this very rule made over REST.
fn is_about(diagnostic: &Diagnostic, rule: &ManagedRule) -> bool {
    diagnostic.is_error() && diagnostic.file().strip_prefix(PLACE) == Some(rule.id.as_str())
}

/// The rules that run of `managed`, and what is wrong with others, given what the files say.
pub(super) fn rules(
    managed: &[&ManagedRule],
    files: &mut dyn Iterator<Item = &Statement>,
) -> (Vec<Rule>, Vec<Diagnostic>) {
    let (mut sinks, mut of_files) = (BTreeMap::new(), BTreeMap::new());
    for statement in files {
        match statement {
            Statement::CreateSink(def) => drop(sinks.insert(def.name.text.as_str(), def.kind.text.as_str())),
            Statement::CreateRule(rule) => drop(of_files.insert(rule.name.text.as_str(), rule)),
            Statement::CreateAlarm(_) | Statement::CommentOnRule { .. } => {}
        }
    }
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for it in managed {
        if let Some(other) = of_files.get(it.id.as_str()) {
            problems.push(hidden(it, other));
        } else if it.enable {
            match rule(it, &sinks) {
                Ok(rule) => rules.push(rule),
                Err(problem) => problems.push(problem),
            }
        }
    }
    (rules, problems)
}

fn rule(managed: &ManagedRule, sinks: &BTreeMap<&str, &str>) -> Result<Rule, Diagnostic> {
    let mut rule = read_rule(&managed.id, &managed.place(), &managed.sql)?;
    rule.into = actions::targets(&managed.actions, sinks).map_err(|message| Diagnostic {
        severity: Severity::Error,
        source: rule.source.clone(),
        span: rule.select.span,
        message,
        help: None,
    })?;
    Ok(rule)
}

/// Says that a file has a rule of this name.
fn hidden(managed: &ManagedRule, other: &Rule) -> Diagnostic {
    let message = format!(
        "the rule `{}` made over REST does not run: {} has a rule of this name",
        managed.id,
        place_of(other)
    );
    let help = format!("DELETE /api/v5/rules/{} removes the one made over REST", managed.id);
    Diagnostic {
        severity: Severity::Warning,
        source: Arc::new(Source { name: managed.place(), text: managed.sql.clone() }),
        span: Span::default(),
        message,
        help: Some(help),
    }
}

/// `file:line` of a rule.
pub(super) fn place_of(rule: &Rule) -> String {
    let (source, span, message) = (rule.source.clone(), rule.name.span, String::new());
    let at = Diagnostic { severity: Severity::Warning, source, span, message, help: None };
    format!("{}:{}", at.file(), at.line())
}

/// What of files and rules is to run.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) plan: Plan,
    /// The files that are planned.
    pub(super) files: Vec<RuleFile>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Plans what can run although somebody made a mistake: without the files and the rules that have errors. A file or a
/// rule that needs one of those left out has an error then, too.
pub(super) fn plan_what_can_run(files: &[RuleFile], managed: &[&ManagedRule], env: &SinkEnv) -> Chosen {
    let (mut files, mut managed, mut diagnostics) = (files.to_vec(), managed.to_vec(), Vec::new());
    loop {
        let (plan, found) = plan_with(&files, &managed, env);
        let errors = found.iter().any(Diagnostic::is_error);
        files.retain(|file| !found.iter().any(|it| it.is_error() && it.file() == file.name));
        managed.retain(|rule| !found.iter().any(|it| is_about(it, rule)));
        diagnostics.extend(found);
        if !errors {
            return Chosen { plan, files, diagnostics };
        }
    }
}

/// Plans all files, and the rules that have no errors beside them.
///
/// # Errors
/// A file has errors. All that is wrong.
pub(super) fn plan_all_files(
    files: &[RuleFile],
    managed: &[&ManagedRule],
    env: &SinkEnv,
) -> Result<Chosen, Vec<Diagnostic>> {
    let (mut managed, mut diagnostics) = (managed.to_vec(), Vec::new());
    loop {
        let (plan, found) = plan_with(files, &managed, env);
        let errors = found.iter().any(Diagnostic::is_error);
        let file_errors = found.iter().any(|it| it.is_error() && !is_managed(it));
        managed.retain(|rule| !found.iter().any(|it| is_about(it, rule)));
        diagnostics.extend(found);
        if file_errors {
            return Err(diagnostics);
        }
        if !errors {
            return Ok(Chosen { plan, files: files.to_vec(), diagnostics });
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;

    use super::super::managed::tests::managed;
    use super::*;

    const FILE: &str = "CREATE SINK hook TYPE webhook WITH (url = 'http://localhost:1/');\n\
                        CREATE RULE f INTO sqlite AS SELECT topic FROM \"f\";";

    fn env() -> SinkEnv {
        SinkEnv { data_dir: "/nowhere".into(), databases: Default::default(), clock: ManualClock::at(0) }
    }

    fn file(name: &str, text: &str) -> RuleFile {
        RuleFile { name: name.to_owned(), text: text.to_owned() }
    }

    fn shown(chosen: &Chosen) -> (Vec<String>, Vec<String>) {
        let pipelines = chosen.plan.pipelines.keys().map(ToString::to_string).collect();
        (pipelines, chosen.diagnostics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rules_of_both_kinds_run_side_by_side() {
        let select = "SELECT topic FROM \"a/#\"";
        let mut off = managed("off", select, &["sqlite:t"]);
        off.enable = false;
        let all = [
            managed("r", select, &["sqlite:t", "http:hook"]),
            off,
            managed("f", select, &["sqlite:t"]),
            managed("broken", "SELECT topic FRM \"a\"", &["sqlite:t"]),
            managed("lost", select, &["webhook:gone"]),
            managed("two", "SELECT 1; SELECT 2", &[]),
        ];
        let chosen =
            plan_all_files(&[file("f.sql", FILE)], &all.each_ref(), &env()).expect("the file is good");
        let (pipelines, problems) = shown(&chosen);
        assert_eq!(pipelines, ["f > sqlite.f", "r > hook", "r > sqlite.t"]);
        let first = problems.iter().take(4).map(|it| it.split(';').next().unwrap_or(it));
        assert_eq!(
            first.collect::<Vec<_>>(),
            [
                "rest:f:1:1: warning: the rule `f` made over REST does not run: f.sql:2 has a rule of this name",
                "rest:broken:1:18: error: expected FROM, found `\"a\"`",
                "rest:lost:1:1: error: actions[0]: there is no sink for \"webhook:gone\"",
                "rest:two:1:9: error: expected FROM, found `",
            ]
        );
    }

    #[test]
    fn a_file_with_errors_is_left_out_at_the_start_only() {
        let files = [file("f.sql", FILE), file("g.sql", "CREATE RULE g AS SELECT")];
        let rules = [managed("r", "SELECT topic FROM \"a\"", &["hook"])];
        assert!(plan_all_files(&files, &rules.each_ref(), &env()).is_err());
        let chosen = plan_what_can_run(&files, &rules.each_ref(), &env());
        assert_eq!(shown(&chosen).0, ["f > sqlite.f", "r > hook"]);
        assert_eq!(chosen.files, files[..1]);
        // Without the file that declares its sink a rule cannot run; the other files can.
        let files = [file("f.sql", "CREATE SINK hook TYPE nonsense"), file("g.sql", FILE)];
        let chosen = plan_what_can_run(&files, &rules.each_ref(), &env());
        assert!(chosen.diagnostics.iter().any(|it| it.file() == "g.sql"), "two sinks of one name");
        assert_eq!(shown(&chosen).0, Vec::<String>::new());
    }
}
