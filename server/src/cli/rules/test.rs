//! `muster rules test`: the cases beside rule files, run on the code that pipelines run.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use muster_core::clock::{Clock, SharedClock, SystemClock};
use muster_core::value::Row;
use muster_rules::ast::Statement;
use muster_rules::cases::{self, Case, CaseError, Course, Difference};
use muster_rules::{AlarmProgram, RuleProgram};
use muster_sinks::delivery::Transform as _;
use serde_json::json;

use super::tell_errors;
use crate::alarms::play;
use crate::cli::failed_output;
use crate::error::{Error, ErrorKind};
use crate::pipelines::{EXTENSION, RuleFile, RuleTransform, eval_context};

/// What a file of cases is called, behind the name of its rule file.
const CASES: &str = ".test.jsonl";

/// Functions of chance begin here, so that a case gives the same each time.
const SEED: u64 = 1;

#[derive(Debug, Args)]
pub(in crate::cli) struct TestArgs {
    /// Rule files, files of cases, and folders of both.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only cases in whose name, or in whose rule's name, this stands.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// One JSON object a line: each case, each bad line, each note, and at last the summary.
    #[arg(long)]
    json: bool,
}

/// Runs the cases. Exit code 1 when one failed, 2 when a file or a line is wrong.
pub(super) fn test(args: &TestArgs) -> Result<(), Error> {
    let (rules, cases) = find(&args.paths)?;
    let texts = rules.iter().map(|file| (file.name.as_str(), file.text.as_str()));
    let (statements, diagnostics) = muster_rules::parse_files(texts);
    let mut bench =
        Bench { out: Vec::new(), json: args.json, passed: 0, failed: 0, bad: tell_errors(&diagnostics) };
    let programs = programs(&statements);
    let alarms = alarms(&statements);
    let broken = |file: &str| diagnostics.iter().any(|it| it.is_error() && it.file() == file);
    let mut tested = Vec::new();
    for file in &cases {
        let of_file = programs.get(&file.rules).map(Vec::as_slice).unwrap_or_default();
        let (found, errors) = cases::read(&file.text);
        for error in &errors {
            bench.bad_line(&file.name, error);
        }
        let alarms = alarms.get(&file.rules).map(Vec::as_slice).unwrap_or_default();
        for case in &found {
            let tried = match &case.course {
                None => choose(case, case.rule.as_ref(), "rule", of_file).map(Tried::Rule),
                Some(course) => {
                    choose(case, course.alarm.as_ref(), "alarm", alarms).map(|it| Tried::Alarm(it, course))
                }
            };
            let tried = match tried {
                Ok(tried) => tried,
                // What is wrong with the rule itself was said.
                Err(_) if broken(&file.rules) => continue,
                Err(error) => {
                    bench.bad_line(&file.name, &error);
                    continue;
                }
            };
            tested.push((file.rules.clone(), tried.name().to_owned()));
            let wanted = |part: &String| case.name.contains(part) || tried.name().contains(part);
            if args.filter.as_ref().is_none_or(wanted) {
                bench.case(&file.name, case, &tried);
            }
        }
    }
    let mut untested = |what: &str, file: &str, name: &str| {
        if !tested.contains(&(file.to_owned(), name.to_owned())) {
            bench.note(file, &format!("the {what} `{name}` has no cases"));
        }
    };
    for (file, programs) in &programs {
        programs.iter().for_each(|it| untested("rule", file, it.name()));
    }
    for (file, alarms) in &alarms {
        alarms.iter().for_each(|it| untested("alarm", file, it.named()));
    }
    bench.finish(args.filter.as_deref())
}

/// A file of cases, and the name of the rule file beside it.
struct CaseFile {
    name: String,
    rules: String,
    text: String,
}

/// The rule files and the files of cases that the paths name; each once, in the order of names within a folder.
fn find(paths: &[PathBuf]) -> Result<(Vec<RuleFile>, Vec<CaseFile>), Error> {
    let mut rules: Vec<PathBuf> = Vec::new();
    let mut add = |path: PathBuf| {
        if !rules.contains(&path) {
            rules.push(path);
        }
    };
    for path in paths {
        if path.is_dir() {
            let mut names = Vec::new();
            let entries = std::fs::read_dir(path).map_err(|error| cannot_read(path, error))?;
            for entry in entries {
                names.push(entry.map_err(|error| cannot_read(path, error))?.path());
            }
            names.sort();
            let hidden =
                |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            for path in names.into_iter().filter(|path| path.is_file() && !hidden(path)) {
                if path.extension().is_some_and(|it| it == EXTENSION) {
                    add(path);
                } else if let Some(rules) = rules_of(&path)? {
                    add(rules);
                }
            }
        } else {
            add(rules_of(path)?.unwrap_or_else(|| path.clone()));
        }
    }
    let (mut files, mut cases) = (Vec::new(), Vec::new());
    for path in rules {
        let text = std::fs::read_to_string(&path).map_err(|error| cannot_read(&path, error))?;
        let name = path.display().to_string();
        let beside = path.with_extension("").display().to_string() + CASES;
        if Path::new(&beside).is_file() {
            let text =
                std::fs::read_to_string(&beside).map_err(|error| cannot_read(Path::new(&beside), error))?;
            cases.push(CaseFile { name: beside, rules: name.clone(), text });
        }
        files.push(RuleFile { name, text });
    }
    Ok((files, cases))
}

/// The rule file of a file of cases; none where it is none.
fn rules_of(path: &Path) -> Result<Option<PathBuf>, Error> {
    let text = path.display().to_string();
    let Some(stem) = text.strip_suffix(CASES) else { return Ok(None) };
    let rules = PathBuf::from(format!("{stem}.{EXTENSION}"));
    if rules.is_file() {
        return Ok(Some(rules));
    }
    let message = format!("{text} has no rule file beside it; there should be {}", rules.display());
    Err(Error::new(ErrorKind::Config, message))
}

fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::because(ErrorKind::Config, format!("cannot read {}", path.display()), error)
}

/// The rules of each file.
fn programs(statements: &[Statement]) -> BTreeMap<String, Vec<Arc<RuleProgram>>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for statement in statements {
        if let Statement::CreateRule(rule) = statement
            && let Ok(program) = RuleProgram::compile(rule)
        {
            found.entry(rule.source.name.clone()).or_default().push(Arc::new(program));
        }
    }
    found
}

/// The alarms of each file.
fn alarms(statements: &[Statement]) -> BTreeMap<String, Vec<Alarm>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for statement in statements {
        if let Statement::CreateAlarm(it) = statement
            && let Ok(program) = AlarmProgram::compile(it)
            && let Ok(notices) = AlarmProgram::notices(it)
            && let Ok(notices) = RuleProgram::compile(&notices)
        {
            let alarm = Alarm { program: Arc::new(program), notices: Arc::new(notices) };
            found.entry(it.source.name.clone()).or_default().push(alarm);
        }
    }
    found
}

/// An alarm, and the rule that tells of it.
struct Alarm {
    program: Arc<AlarmProgram>,
    notices: Arc<RuleProgram>,
}

/// What a case is about.
enum Tried<'a> {
    Rule(&'a Arc<RuleProgram>),
    Alarm(&'a Alarm, &'a Course),
}

impl Tried<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Rule(program) => program.name(),
            Self::Alarm(alarm, _) => alarm.program.name(),
        }
    }
}

trait Named {
    fn named(&self) -> &str;
}

impl Named for Arc<RuleProgram> {
    fn named(&self) -> &str {
        self.name()
    }
}

impl Named for Alarm {
    fn named(&self) -> &str {
        self.program.name()
    }
}

fn choose<'a, T: Named>(
    case: &Case,
    wanted: Option<&String>,
    what: &str,
    all: &'a [T],
) -> Result<&'a T, CaseError> {
    let error = |message: String| CaseError { line: case.line, column: case.rule_column, message };
    let names = || all.iter().map(|it| format!("`{}`", it.named())).collect::<Vec<_>>().join(", ");
    match (wanted, all) {
        (_, []) => Err(error(format!("the rule file beside it has no {what}"))),
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(error(format!("the rule file has several {what}s; write \"{what}\": one of {}", names())))
        }
        (Some(name), _) => all
            .iter()
            .find(|it| it.named() == name)
            .ok_or_else(|| error(format!("the rule file has no {what} `{name}`; it has {}", names()))),
    }
}

/// Where results are gathered.
struct Bench {
    out: Vec<String>,
    json: bool,
    passed: usize,
    failed: usize,
    /// Files and lines that are wrong.
    bad: usize,
}

impl Bench {
    fn case(&mut self, file: &str, case: &Case, tried: &Tried<'_>) {
        let differences = match tried {
            Tried::Rule(program) => run(case, program),
            Tried::Alarm(alarm, course) => run_course(case, alarm, course),
        };
        let passed = differences.is_empty();
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        let (line, name, rule) = (case.line, case.name.as_str(), tried.name());
        let what = if case.course.is_some() { "alarm" } else { "rule" };
        if self.json {
            let differences: Vec<_> = differences
                .iter()
                .map(|it| json!({"at": it.at, "expected": it.expected, "got": it.got}))
                .collect();
            let told = json!({"file": file, "line": line, "case": name, what: rule, "passed": passed, "differences": differences});
            self.out.push(told.to_string());
        } else if !passed {
            self.out.push(format!("{file}:{line}: {name} ({what} {rule}) failed"));
            self.out.extend(differences.iter().flat_map(in_words));
        }
    }

    fn bad_line(&mut self, file: &str, error: &CaseError) {
        self.bad += 1;
        let CaseError { line, column, message } = error;
        if self.json {
            self.out
                .push(json!({"file": file, "line": line, "column": column, "error": message}).to_string());
        } else {
            self.out.push(format!("{file}:{line}:{column}: error: {message}"));
        }
    }

    fn note(&mut self, file: &str, text: &str) {
        if self.json {
            self.out.push(json!({"file": file, "note": text}).to_string());
        } else {
            self.out.push(format!("{file}: note: {text}"));
        }
    }

    fn finish(mut self, filter: Option<&str>) -> Result<(), Error> {
        let Self { passed, failed, bad, .. } = self;
        self.out.push(if self.json {
            json!({"passed": passed, "failed": failed, "errors": bad}).to_string()
        } else {
            format!("{passed} passed, {failed} failed")
        });
        let mut out = io::stdout().lock();
        for line in &self.out {
            if let Err(error) = writeln!(out, "{line}") {
                failed_output(error)?;
                break;
            }
        }
        if bad > 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} in the files", super::count(bad, "error")),
            ));
        }
        if let (Some(filter), 0) = (filter, passed + failed) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("--filter {filter}: no case has this in its name"),
            ));
        }
        if failed > 0 {
            return Err(Error::new(ErrorKind::Negative, super::count(failed, "case") + " failed"));
        }
        Ok(())
    }
}

/// Two values below each other, where they differ.
fn in_words(difference: &Difference) -> Vec<String> {
    let Difference { at, expected, got } = difference;
    let indent = if at.is_empty() { "  " } else { "    " };
    let head = (!at.is_empty()).then(|| format!("  {at}"));
    let lines = [format!("{indent}- expected {expected}"), format!("{indent}+ got      {got}")];
    head.into_iter().chain(lines).collect()
}

/// Runs one case as a pipeline would run the rule, at the case's own time.
fn run(case: &Case, program: &Arc<RuleProgram>) -> Vec<Difference> {
    let clock = Arc::new(StoppedClock { wall_ms: case.now_ms, machine: SystemClock::shared() });
    let mut transform = RuleTransform::alone(program.clone(), clock, SEED);
    let mut rows = Vec::new();
    let outcome = transform.apply(&case.event, &mut rows);
    match &outcome {
        Ok(()) => {
            let rows: Vec<Row> = rows.iter().map(|row| Row::clone(row)).collect();
            cases::judge(case, Ok(&rows))
        }
        Err(message) => cases::judge(case, Err(message)),
    }
}

/// Runs the alarm over the course as its engine would, and its notices as the pipelines to its targets would.
fn run_course(case: &Case, alarm: &Alarm, course: &Course) -> Vec<Difference> {
    let clock: SharedClock =
        Arc::new(StoppedClock { wall_ms: course.until_ms, machine: SystemClock::shared() });
    let mut context = eval_context(clock.clone(), SEED);
    let said = play(&alarm.program, &course.events, course.until_ms, &mut context);
    let mut transform = RuleTransform::alone(alarm.notices.clone(), clock, SEED);
    let mut rows = Vec::new();
    for event in said {
        if let Err(message) = transform.apply(&Arc::new(event), &mut rows) {
            return cases::judge(case, Err(&message));
        }
    }
    let rows: Vec<Row> = rows.iter().map(|row| Row::clone(row)).collect();
    cases::judge(case, Ok(&rows))
}

/// A wall clock that stands still; time limits go on.
struct StoppedClock {
    wall_ms: i64,
    machine: SharedClock,
}

impl Clock for StoppedClock {
    fn wall_ms(&self) -> i64 {
        self.wall_ms
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs_of(text: &str) -> Vec<Arc<RuleProgram>> {
        let (statements, diagnostics) = muster_rules::parse("t.sql", text);
        assert!(!diagnostics.iter().any(muster_rules::Diagnostic::is_error), "{diagnostics:?}");
        programs(&statements).remove("t.sql").unwrap_or_default()
    }

    #[test]
    fn a_case_has_its_own_time_and_chance() {
        let programs = programs_of(
            "SELECT now_timestamp() AS now, random() AS r, metadata.rule_id AS rule FROM \"t/a\"",
        );
        let line = r#"{"event":{},"now":"2026-01-02T03:04:05Z","rows":[{"now":1767323045,"rule":"t"}],"ignore":["r"]}"#;
        let (found, errors) = cases::read(line);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(run(&found[0], &programs[0]), []);
    }

    #[test]
    fn a_rule_is_chosen_by_name_where_there_are_several() {
        let two = programs_of(
            "CREATE RULE a AS SELECT 1 AS x FROM \"t\"; CREATE RULE b AS SELECT 1 AS x FROM \"t\"",
        );
        fn chosen<'a>(case: &Case, all: &'a [Arc<RuleProgram>]) -> Result<&'a Arc<RuleProgram>, CaseError> {
            choose(case, case.rule.as_ref(), "rule", all)
        }
        let case = |rule: &str| {
            let line = format!(r#"{{{rule}"event":{{}},"no_match":true}}"#);
            cases::read(&line).0.remove(0)
        };
        assert_eq!(chosen(&case(r#""rule":"b","#), &two).expect("b is there").name(), "b");
        assert!(chosen(&case(""), &two).expect_err("which?").message.contains("`a`, `b`"));
        assert!(chosen(&case(""), &two[..1]).is_ok());
        assert!(chosen(&case(r#""rule":"c","#), &two).expect_err("none").message.contains("no rule `c`"));
    }
}
