//! Rule files become a plan: every pipeline that is to run, with its program and its sink ready to be opened, and
//! everything that is wrong, each with its place. Nothing is connected here, so that `muster rules check` says offline
//! what `muster run` would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_core::event::EventKinds;
use muster_rules::ast::{
    AlarmDef, OptionEntry, Options, Rule, Select, SinkDef, Source, Span, Statement, Target,
};
use muster_rules::{AlarmProgram, Diagnostic, Republish, RuleProgram, Severity};
use muster_sinks::delivery::Limits;
use muster_sinks::{Built, COMMON, PipelineId, SinkEnv, kinds};

use super::beside;
use super::declared::Declared;
use super::maker::SinkMaker;
use super::managed::{ManagedRule, PLACE};
use super::recipes::{Recipes, RuleRecipe, SinkRecipe};
use super::texts::{select_text, version};
use super::{republish, secrets, start};

/// The sink that exists without being declared, and its kind.
pub(super) const EMBEDDED: &str = "sqlite";
/// Its table that the presence projection writes.
const DEVICES: &str = "devices";

/// The option of a rule that says where it begins.
pub(super) const START: &str = "start";

/// A rule file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFile {
    /// How messages name it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Everything that is to run.
#[derive(Debug, Default)]
pub struct Plan {
    /// One pipeline a rule and target.
    pub pipelines: BTreeMap<PipelineId, Planned>,
    /// How many rules there are.
    pub rules: usize,
    /// What `COMMENT ON RULE` says of them.
    pub comments: BTreeMap<String, String>,
    /// The rules without errors, by name.
    pub listed: BTreeMap<String, Listed>,
    /// The sinks that are declared or used, by name.
    pub sinks: BTreeMap<String, Declared>,
    /// The alarms, by name.
    pub alarms: BTreeMap<String, Arc<AlarmProgram>>,
    /// What replays are made of.
    pub(super) recipes: Recipes,
}

/// A rule without errors, as it is shown.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Where it stands: `file:line`, or `rest:ID:1`.
    pub place: String,
    /// Its SELECT or FOREACH as written.
    pub sql: String,
    /// Topic filters and event topics.
    pub from: Vec<String>,
    /// Where its rows go.
    pub targets: Vec<ListedTarget>,
}

impl Listed {
    /// Whether it was made over REST.
    pub fn is_managed(&self) -> bool {
        self.place.starts_with(PLACE)
    }
}

/// A target, as it is shown.
#[derive(Debug, Clone)]
pub enum ListedTarget {
    /// A sink.
    Sink {
        /// Its kind.
        kind: String,
        /// The pipeline to it.
        id: PipelineId,
    },
    /// `REPUBLISH TO`.
    Republish {
        /// The topic's template.
        topic: String,
        /// Its options.
        options: BTreeMap<String, String>,
    },
}

impl Plan {
    /// The kinds of events that some rule wants.
    pub fn kinds(&self) -> EventKinds {
        let all = self.pipelines.values().map(|it| it.program.wants().kinds);
        let alarms = self.alarms.values().map(|it| it.kinds());
        all.chain(alarms).fold(EventKinds::NONE, EventKinds::union)
    }
}

/// A pipeline that is to run.
#[derive(Debug)]
pub struct Planned {
    /// What the rule does.
    pub program: Arc<RuleProgram>,
    /// Where its rows go.
    pub outlet: Outlet,
    /// When its batches are full.
    pub limits: Limits,
    /// The longest wait between attempts, where options say it.
    pub retry_wait_max: Option<Duration>,
    /// How many of them are under way at a time.
    pub lanes: u32,
    /// What it does, to be compared with what is running.
    pub identity: Identity,
    /// Where it begins if it never ran.
    pub start: Option<String>,
    /// A hash of the rule's text.
    pub rule_version: String,
}

/// Where the rows of a pipeline go.
pub enum Outlet {
    /// Into a sink.
    Sink(SinkMaker),
    /// To the broker.
    Republish {
        /// What is published for a row.
        message: Arc<Republish>,
        /// Which REPUBLISH of the rule it is, from 0.
        number: u32,
    },
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sink(_) => f.write_str("Sink"),
            Self::Republish { number, .. } => f.debug_struct("Republish").field("number", number).finish(),
        }
    }
}

/// Everything that decides what a pipeline does. Equal identities are the same pipeline: it is left alone when rules
/// are loaded anew, whatever else changed in the files. Holds secrets, so it is never shown.
#[derive(Clone, PartialEq)]
pub struct Identity {
    pub(super) select: Select,
    pub(super) rule_options: Options,
    pub(super) kind: String,
    pub(super) sink_options: BTreeMap<String, String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Plans `files` together. What is wrong is in the second part; the plan then lacks what is wrong, and should only be
/// run if the caller knows why.
pub fn plan(files: &[RuleFile], env: &SinkEnv) -> (Plan, Vec<Diagnostic>) {
    plan_with(files, &[], env)
}

/// As [`plan`], with the rules made over REST that are enabled.
pub(super) fn plan_with(
    files: &[RuleFile],
    managed: &[&ManagedRule],
    env: &SinkEnv,
) -> (Plan, Vec<Diagnostic>) {
    let texts = files.iter().map(|file| (file.name.as_str(), file.text.as_str()));
    let (statements, diagnostics) =
        muster_rules::parse_files_and(texts, |statements| beside::rules(managed, statements));
    let mut planner = Planner { env, sinks: BTreeMap::new(), diagnostics, plan: Plan::default() };
    // Sinks first: a rule may name one that stands below it, or in another file.
    let (sinks, others): (Vec<_>, Vec<_>) =
        statements.into_iter().partition(|it| matches!(it, Statement::CreateSink(_)));
    for statement in sinks {
        if let Statement::CreateSink(def) = statement {
            planner.sink(def);
        }
    }
    for statement in others {
        planner.statement(statement);
    }
    let Planner { diagnostics, mut plan, sinks, .. } = planner;
    let sound = sinks.iter().filter(|(_, it)| !it.broken);
    let recipe = |it: &Declared| SinkRecipe { kind: it.kind.clone(), options: it.options.clone() };
    plan.recipes.sinks = sound.map(|(name, it)| (name.clone(), recipe(it))).collect();
    plan.sinks = sinks;
    (plan, diagnostics)
}

struct Planner<'a> {
    env: &'a SinkEnv,
    sinks: BTreeMap<String, Declared>,
    diagnostics: Vec<Diagnostic>,
    plan: Plan,
}

impl Planner<'_> {
    fn sink(&mut self, def: SinkDef) {
        let source = def.source.clone();
        let name = def.name.text.clone();
        if name == republish::SINK {
            let help =
                "REPUBLISH TO 'topic' is known by it where pipelines are shown; give yours another name";
            self.error(&source, def.name.span, format!("no sink can be named `{name}`"), help);
            return;
        }
        if name == EMBEDDED {
            let help = "it writes to muster.db in the data directory; give yours another name";
            self.error(
                &source,
                def.name.span,
                format!("the sink `{name}` exists without being declared"),
                help,
            );
            return;
        }
        let mut broken = false;
        let mut options = def.options.to_map();
        for OptionEntry { key, span, .. } in &def.options.0 {
            let Some(value) = options.get_mut(&key.text) else { continue };
            let env = |name: &str| std::env::var(name).ok();
            match secrets::resolve(value, env, |path| std::fs::read_to_string(path)) {
                Ok(resolved) => *value = resolved,
                Err(why) => {
                    broken = true;
                    self.error(&source, *span, why, "the sink can be built once it is there");
                }
            }
        }
        let kind = def.kind.text.clone();
        let mut declared = Declared { def: Some(def), kind, options, broken };
        if !broken {
            // Nothing is opened; this finds mistakes also in a sink that no rule uses yet.
            if let Err(error) = declared.build_alone(&name, self.env) {
                declared.broken = true;
                self.sink_error(&declared, &error);
            }
        }
        self.sinks.insert(name, declared);
    }

    fn statement(&mut self, statement: Statement) {
        match statement {
            Statement::CreateSink(_) => {}
            Statement::CreateRule(rule) => {
                self.plan.rules += 1;
                self.rule(&rule);
            }
            Statement::CreateAlarm(alarm) => {
                self.alarm(&alarm);
            }
            Statement::CommentOnRule { rule, comment } => {
                self.plan.comments.insert(rule.text, comment);
            }
        }
    }

    /// An alarm runs in the engine of alarms; what it has to say goes to its targets as a rule's rows do.
    fn alarm(&mut self, alarm: &AlarmDef) {
        let program = match AlarmProgram::compile(alarm) {
            Ok(program) => Arc::new(program),
            Err(diagnostics) => return self.diagnostics.extend(diagnostics),
        };
        let rule = match AlarmProgram::notices(alarm) {
            Ok(rule) => rule,
            Err(diagnostic) => return self.diagnostics.push(diagnostic),
        };
        if rule.into.is_empty() {
            if !self.rule_options(&rule) {
                return;
            }
        } else {
            self.rule(&rule);
            let sql = Statement::CreateAlarm(alarm.clone()).to_string();
            if let Some(listed) = self.plan.listed.get_mut(program.name()) {
                listed.sql = sql;
            }
        }
        self.plan.alarms.insert(program.name().to_owned(), program);
    }

    fn rule(&mut self, rule: &Rule) {
        let program = match RuleProgram::compile(rule) {
            Ok(program) => Arc::new(program),
            Err(diagnostics) => {
                self.diagnostics.extend(diagnostics);
                return;
            }
        };
        if !self.rule_options(rule) {
            return;
        }
        if rule.into.is_empty() {
            self.diagnostics.push(Diagnostic {
                severity: Severity::Warning,
                source: rule.source.clone(),
                span: rule.name.span,
                message: format!("the rule `{}` writes nowhere", rule.name.text),
                help: Some("CREATE RULE name INTO sqlite.table AS SELECT ... gives it a table".to_owned()),
            });
        }
        let rule_version = version(rule);
        let mut targets = Vec::with_capacity(rule.into.len());
        let mut republished = 0;
        for target in &rule.into {
            match target {
                Target::Sink { sink, table } => {
                    let table = table.as_ref().map(|table| table.text.as_str());
                    let planned = self.target(rule, &sink.text, sink.span, table, &program, &rule_version);
                    let Some((id, planned)) = planned else { continue };
                    targets.push(ListedTarget::Sink { kind: planned.identity.kind.clone(), id: id.clone() });
                    if self.plan.pipelines.insert(id, planned).is_some() {
                        let message = "the rule writes to this target twice";
                        self.error(&rule.source, sink.span, message, "remove one of the two");
                    }
                }
                Target::Republish { topic, options } => {
                    let (text, listed) = (topic.text.clone(), options.to_map());
                    targets.push(ListedTarget::Republish { topic: text, options: listed });
                    let number = republished;
                    republished += 1;
                    match republish::planned(rule, (topic, options), number, &program, &rule_version) {
                        Ok((id, planned)) => drop(self.plan.pipelines.insert(id, planned)),
                        Err(diagnostics) => self.diagnostics.extend(diagnostics),
                    }
                }
            }
        }
        self.plan
            .recipes
            .rules
            .insert(rule.name.text.clone(), RuleRecipe::new(rule, &program, rule_version, &targets));
        let listed = Listed {
            place: beside::place_of(rule),
            sql: select_text(rule).to_owned(),
            from: rule.select.from.iter().map(|name| name.text.clone()).collect(),
            targets,
        };
        self.plan.listed.insert(rule.name.text.clone(), listed);
    }

    /// Whether each option of the rule is one that rules have.
    fn rule_options(&mut self, rule: &Rule) -> bool {
        let mut good = true;
        for OptionEntry { key, value, span } in &rule.options.0 {
            let name = key.text.as_str();
            if name == START {
                let text = value.as_str().map_or_else(|| value.to_json(), str::to_owned);
                if let Err(why) = start::parse(&text) {
                    good = false;
                    self.error(&rule.source, *span, why, "it says where a rule begins that never ran");
                }
            } else if !COMMON.iter().any(|option| option.name == name) {
                good = false;
                let known = COMMON.iter().map(|option| option.name).chain([START]);
                let near =
                    known.min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or(START);
                let help = format!("did you mean `{near}`?");
                self.error(&rule.source, key.span, format!("a rule has no option `{name}`"), &help);
            }
        }
        good
    }

    fn target(
        &mut self,
        rule: &Rule,
        sink: &str,
        span: Span,
        table: Option<&str>,
        program: &Arc<RuleProgram>,
        rule_version: &str,
    ) -> Option<(PipelineId, Planned)> {
        if sink == EMBEDDED {
            self.sinks.entry(EMBEDDED.to_owned()).or_insert_with(|| Declared {
                def: None,
                kind: EMBEDDED.to_owned(),
                options: BTreeMap::new(),
                broken: false,
            });
            if table.unwrap_or(&rule.name.text).eq_ignore_ascii_case(DEVICES) {
                let help = "it says who is online, and can be read at any time; choose another table";
                self.error(&rule.source, span, "the table `devices` is kept by Muster itself", help);
                return None;
            }
        }
        let Some(declared) = self.sinks.get(sink) else {
            let names = self.sinks.keys().map(String::as_str).chain([EMBEDDED]);
            let near = names.min_by_key(|name| strsim::damerau_levenshtein(name, sink)).unwrap_or(EMBEDDED);
            let help = format!("did you mean `{near}`? CREATE SINK {sink} TYPE ... declares a new one");
            self.error(&rule.source, span, format!("there is no sink named `{sink}`"), &help);
            return None;
        };
        if declared.broken {
            return None;
        }
        let identity = Identity {
            select: rule.select.clone(),
            rule_options: rule.options.clone(),
            kind: declared.kind.clone(),
            sink_options: declared.options.clone(),
        };
        let mut rule_options = rule.options.to_map();
        let start = rule_options.remove(START);
        // What the rule says of its batches goes before what its sink says.
        let mut options = declared.options.clone();
        options.extend(rule_options);
        let kind = declared.kind.clone();
        let names = (sink.to_owned(), table.map(str::to_owned), rule.name.text.clone());
        let maker = SinkMaker::new(kind.clone(), names, options, self.env.clone());
        match maker.make() {
            Ok(Built { limits, lanes, target, retry_wait_max, .. }) => {
                let id = PipelineId::new(&rule.name.text, sink, target);
                let (program, rule_version) = (program.clone(), rule_version.to_owned());
                let outlet = Outlet::Sink(maker);
                let planned =
                    Planned { program, outlet, limits, retry_wait_max, lanes, identity, start, rule_version };
                Some((id, planned))
            }
            Err(error) => {
                let (source, message) = (rule.source.clone(), error.in_words());
                let help = help(&kind, &message);
                self.diagnostics.push(Diagnostic { severity: Severity::Error, source, span, message, help });
                None
            }
        }
    }

    /// Points to the part of the declaration that the error speaks of.
    fn sink_error(&mut self, declared: &Declared, error: &muster_sinks::SinkError) {
        let Some(def) = &declared.def else { return };
        let message = error.in_words();
        let spoken_of = |name: &str| message.contains(&format!("`{name}`"));
        let option =
            def.options.0.iter().find(|entry| spoken_of(&entry.key.text)).map(|entry| entry.key.span);
        let kind = spoken_of(&def.kind.text).then_some(def.kind.span);
        let span = option.or(kind).unwrap_or(def.name.span);
        let source = def.source.clone();
        let help = help(&def.kind.text, &message);
        self.diagnostics.push(Diagnostic { severity: Severity::Error, source, span, message, help });
    }

    fn error(&mut self, source: &Arc<Source>, span: Span, message: impl Into<String>, help: &str) {
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            source: source.clone(),
            span,
            message: message.into(),
            help: Some(help.to_owned()),
        });
    }
}

/// How a sink of this kind is declared, unless the message says already what was meant.
fn help(kind: &str, message: &str) -> Option<String> {
    let kind = kinds().iter().find(|it| it.name == kind).filter(|_| !message.contains("did you mean"))?;
    Some(format!("for example: {}", kind.example))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use muster_core::clock::ManualClock;
    use muster_sinks::database::Databases;

    use super::super::beside::{Chosen, plan_what_can_run};
    use super::*;

    fn env() -> SinkEnv {
        SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: ManualClock::at(0) }
    }

    fn files(texts: &[&str]) -> Vec<RuleFile> {
        let named =
            |(at, text): (usize, &&str)| RuleFile { name: format!("{at}.sql"), text: (*text).to_owned() };
        texts.iter().enumerate().map(named).collect()
    }

    /// The pipelines planned, then what is wrong.
    fn check(texts: &[&str], expect: Expect) {
        let (plan, diagnostics) = plan(&files(texts), &env());
        let pipelines = plan.pipelines.keys().map(ToString::to_string);
        let lines: Vec<_> = pipelines.chain(diagnostics.iter().map(ToString::to_string)).collect();
        expect.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn sinks_may_stand_in_another_file_and_sqlite_needs_none() {
        check(
            &[
                "CREATE RULE a INTO sqlite.t, hook AS SELECT topic FROM \"a/#\";\n\
                 CREATE RULE b INTO sqlite AS SELECT topic FROM \"b\";",
                "CREATE SINK hook TYPE webhook WITH (url = 'http://localhost:1/');",
            ],
            expect![[r#"
                a > hook
                a > sqlite.t
                b > sqlite.b"#]],
        );
    }

    #[test]
    fn what_is_wrong_with_sinks_has_its_place() {
        check(
            &["CREATE SINK hook TYPE webhok WITH (url = 'http://localhost:1/');\n\
               CREATE SINK hook2 TYPE webhook WITH (\n  url = 'http://localhost:1/',\n  timeot_ms = 5);\n\
               CREATE SINK hook3 TYPE webhook WITH (url = '${env:MUSTER_TEST_NOWHERE}');\n\
               CREATE SINK sqlite TYPE sqlite;"],
            expect![[r#"
                0.sql:1:23: error: there is no sink of type `webhok`; did you mean `webhook`?
                0.sql:4:3: error: a webhook sink has no option `timeot_ms`; did you mean `timeout_ms`?
                0.sql:5:44: error: the environment variable MUSTER_TEST_NOWHERE is not set; the sink can be built once it is there
                0.sql:6:13: error: the sink `sqlite` exists without being declared; it writes to muster.db in the data directory; give yours another name"#]],
        );
    }

    #[test]
    fn what_is_wrong_with_targets_has_its_place() {
        check(
            &["CREATE RULE a INTO sqlit.t AS SELECT topic FROM \"a\";\n\
               CREATE RULE b INTO sqlite.devices AS SELECT topic FROM \"a\";\n\
               CREATE RULE c INTO sqlite.t, sqlite.t AS SELECT topic FROM \"a\";\n\
               CREATE RULE d INTO sqlite.t WITH (strat = 'latest') AS SELECT topic FROM \"a\";\n\
               CREATE RULE e INTO sqlite.t WITH (start = 'soon') AS SELECT topic FROM \"a\";\n\
               CREATE RULE f INTO sqlite.t WITH (start = 'earliest', batch_rows = 7) AS SELECT topic FROM \"a\";"],
            expect![[r#"
                c > sqlite.t
                f > sqlite.t
                0.sql:5:43: error: a rule cannot start there; write 'earliest', 'latest', an offset such as 1200, or a time such as '2026-01-31T00:00:00Z'
                0.sql:1:20: error: there is no sink named `sqlit`; did you mean `sqlite`? CREATE SINK sqlit TYPE ... declares a new one
                0.sql:2:20: error: the table `devices` is kept by Muster itself; it says who is online, and can be read at any time; choose another table
                0.sql:3:30: error: the rule writes to this target twice; remove one of the two
                0.sql:4:35: error: a rule has no option `strat`; did you mean `start`?"#]],
        );
    }

    #[test]
    fn at_the_start_a_broken_file_does_not_stop_the_others() {
        let texts = [
            "CREATE RULE a INTO sqlite AS SELECT topic FROM \"a\";",
            "CREATE RULE b INTO sqlite AS SELECT topic FRM \"a\";",
            "CREATE SINK s TYPE nonsense;",
            "CREATE RULE c INTO s AS SELECT topic FROM \"a\";",
        ];
        let Chosen { plan, diagnostics, .. } = plan_what_can_run(&files(&texts), &[], &env());
        let pipelines: Vec<_> = plan.pipelines.keys().map(ToString::to_string).collect();
        assert_eq!(pipelines, ["a > sqlite.a"]);
        let broken: Vec<_> = diagnostics.iter().map(Diagnostic::file).collect();
        assert_eq!(broken, ["1.sql", "2.sql", "3.sql"]);
    }

    #[test]
    fn a_comment_is_kept_with_the_plan() {
        let texts = [
            "CREATE RULE a INTO sqlite AS SELECT topic FROM \"a\";",
            "COMMENT ON RULE a IS 'for the support desk';",
        ];
        let (plan, diagnostics) = plan(&files(&texts), &env());
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(plan.comments.get("a").map(String::as_str), Some("for the support desk"));
    }

    #[test]
    fn the_same_rule_in_other_words_is_the_same_and_another_one_is_not() {
        let identity = |texts: &[&str]| {
            let (mut plan, diagnostics) = plan(&files(texts), &env());
            assert!(diagnostics.is_empty(), "{diagnostics:?}");
            plan.pipelines.pop_first().expect("a pipeline").1.identity
        };
        let one = identity(&["CREATE RULE a INTO sqlite.t AS SELECT topic FROM \"a\" WHERE qos = 1;"]);
        let same = identity(&[
            "-- a comment\ncreate rule a into sqlite.t as\n  select topic from \"a\" where qos = 1;",
        ]);
        assert!(one == same);
        for other in [
            "CREATE RULE a INTO sqlite.t AS SELECT topic FROM \"a\" WHERE qos = 2;",
            "CREATE RULE a INTO sqlite.t WITH (batch_rows = 1) AS SELECT topic FROM \"a\" WHERE qos = 1;",
        ] {
            assert!(one != identity(&[other]), "{other}");
        }
    }
}
