//! Alarms, planned: which events raise and clear them, for which clients, and what is said then. Their run-time
//! (waiting, raising, clearing) is not here.

use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::topic;
use muster_core::value::Map;

use crate::ast::{AlarmDef, Name, OptionEntry, Options, Rule, Statement, Trigger};
use crate::check::read_rule;
use crate::diagnostic::{Diagnostic, Problem, nearest};
use crate::plan;
use crate::program::Node;
use crate::program::context::EvalContext;
use crate::program::env::{Base, Env};
use crate::program::eval::condition;
use crate::program::run::{EvalError, Stage};
use crate::program::source::Wants;
use crate::template::{Context, Missing, Template};

/// Longest grace time: a year.
pub const GRACE_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Most events that FLAPPING counts for one client.
pub const FLAPS_MAX: u64 = 1_000;
/// How many of an alarm are active at a time, unless `max_active` says another number.
pub const ACTIVE_MAX_DEFAULT: u64 = 10_000;
/// How many of an alarm are raised in a minute, unless `storm_per_minute` says another number.
pub const STORM_PER_MINUTE_DEFAULT: u64 = 100;

/// The options that are the alarm's own; others are those of its targets.
pub(crate) const OPTIONS: &[&str] = &[
    "severity",
    "message",
    "clientid",
    "username",
    "topic",
    "max_active",
    "storm_per_minute",
    "clear_after",
];
/// Those that say whom it is about.
const SCOPE: &[&str] = &["clientid", "username", "topic"];
/// What a message may name.
const PLACES: &[&str] =
    &["name", "kind", "severity", "clientid", "username", "since", "activated_at", "count"];

/// How an alarm is raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    /// An event does not come.
    Absence,
    /// No message comes.
    Silence,
    /// An event comes.
    Presence,
    /// An event comes too often.
    Flapping,
}

impl AlarmKind {
    /// Its name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absence => "absence",
            Self::Silence => "silence",
            Self::Presence => "presence",
            Self::Flapping => "flapping",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmSeverity {
    /// `critical`.
    Critical,
    /// `major`.
    Major,
    /// `minor`.
    Minor,
    /// `warning`.
    Warning,
    /// `info`.
    Info,
}

impl AlarmSeverity {
    const ALL: [Self; 5] = [Self::Critical, Self::Major, Self::Minor, Self::Warning, Self::Info];

    /// Its name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Major => "major",
            Self::Minor => "minor",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// A compiled alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmProgram {
    name: String,
    of: Wants,
    after: Option<Wants>,
    grace_ms: u64,
    flaps: u64,
    condition: Option<Node>,
    kind: AlarmKind,
    identity: String,
    settings: Settings,
}

/// What its options say.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    severity: AlarmSeverity,
    message: Option<Template>,
    clientid: Option<String>,
    username: Option<String>,
    topic: Option<String>,
    max_active: u64,
    storm_per_minute: u64,
    clear_after_ms: u64,
}

pub(crate) fn problems(alarm: &AlarmDef) -> Vec<Problem> {
    build(alarm).1
}

fn build(alarm: &AlarmDef) -> (AlarmProgram, Vec<Problem>) {
    let (of, after, grace_ms, flaps) = match &alarm.trigger {
        Trigger::Absence { of, grace_ms, after } => (of, Some(after), *grace_ms, 0),
        Trigger::Flapping { of, times, window_ms } => (of, None, *window_ms, *times),
        Trigger::Presence { of } => (of, None, 0, 0),
    };
    let (of_wants, mut problems) = plan::sources(of);
    let mut names = of.clone();
    let after_wants = after.map(|after| {
        let (wants, more) = plan::sources(after);
        problems.extend(more);
        names.extend(after.iter().cloned());
        wants
    });
    problems.extend(names.iter().filter(|name| tells_of_alarms(name)).map(|name| {
        let problem = Problem::new(name.span, "an alarm cannot be about what alarms say");
        problem.help("it would answer itself; a rule may read `$events/sys/alarm_activated`")
    }));
    let kind = match &alarm.trigger {
        Trigger::Absence { .. } if of_wants.kinds == EventKinds::NONE.with(EventKind::MessagePublish) => {
            AlarmKind::Silence
        }
        Trigger::Absence { .. } => AlarmKind::Absence,
        Trigger::Flapping { .. } => AlarmKind::Flapping,
        Trigger::Presence { .. } => AlarmKind::Presence,
    };
    if kind != AlarmKind::Presence && (grace_ms == 0 || grace_ms > GRACE_MS_MAX) {
        let problem = Problem::new(alarm.name.span, "the grace time is above zero and at most a year");
        problems.push(problem.help(if flaps > 0 { "write 5 TIMES IN 10m" } else { "write FOR 60s" }));
    }
    if kind == AlarmKind::Flapping && !(2..=FLAPS_MAX).contains(&flaps) {
        let message = format!("FLAPPING counts to at least 2 and at most {FLAPS_MAX}");
        problems.push(Problem::new(alarm.name.span, message).help("write 5 TIMES IN 10m"));
    }
    let (settings, more) = settings(&alarm.options);
    problems.extend(more);
    let node = alarm.condition.as_ref().map(|expr| {
        let (node, more) = plan::condition(expr, &names);
        problems.extend(more);
        node
    });
    let program = AlarmProgram {
        name: alarm.name.text.clone(),
        of: of_wants,
        after: after_wants,
        grace_ms,
        flaps,
        condition: node,
        kind,
        identity: identity(alarm),
        settings,
    };
    (program, problems)
}

/// Whether it names events that alarms are told with.
fn tells_of_alarms(source: &Name) -> bool {
    let (wants, _) = plan::sources(std::slice::from_ref(source));
    [EventKind::AlarmActivated, EventKind::AlarmDeactivated].iter().any(|kind| wants.kinds.contains(*kind))
}

/// What decides which devices it is on for, as text: what was kept under the same text goes on.
fn identity(alarm: &AlarmDef) -> String {
    let mut bare = alarm.clone();
    bare.into.clear();
    bare.options.0.retain(|entry| SCOPE.contains(&entry.key.text.as_str()));
    Statement::CreateAlarm(bare).to_string()
}

fn settings(options: &Options) -> (Settings, Vec<Problem>) {
    let mut found = Settings {
        severity: AlarmSeverity::Major,
        message: None,
        clientid: None,
        username: None,
        topic: None,
        max_active: ACTIVE_MAX_DEFAULT,
        storm_per_minute: STORM_PER_MINUTE_DEFAULT,
        clear_after_ms: 0,
    };
    let mut problems = Vec::new();
    for entry in options.0.iter().filter(|entry| OPTIONS.contains(&entry.key.text.as_str())) {
        if let Err((why, help)) = found.set(entry) {
            problems.push(Problem::new(entry.span, why).help(help));
        }
    }
    (found, problems)
}

type Refused = (String, String);

impl Settings {
    fn set(&mut self, OptionEntry { key, value, .. }: &OptionEntry) -> Result<(), Refused> {
        let key = key.text.as_str();
        let text = || {
            let text = value.as_str().filter(|text| !text.is_empty());
            text.ok_or_else(|| (format!("`{key}` is a text"), format!("write {key} = '...'")))
        };
        let count = |min: i64| match value.as_i64().filter(|count| *count >= min) {
            Some(count) => Ok(count.unsigned_abs()),
            None => Err((format!("`{key}` is a number, at least {min}"), format!("write {key} = 100"))),
        };
        match key {
            "severity" => {
                let known = AlarmSeverity::ALL.into_iter();
                let all = "critical, major, minor, warning, info";
                let found = known.clone().find(|it| Some(it.name()) == value.as_str());
                self.severity = found.ok_or_else(|| {
                    let near = value.as_str().and_then(|text| nearest(text, known.map(AlarmSeverity::name)));
                    let help = near
                        .map_or_else(|| format!("it is one of {all}"), |it| format!("did you mean `{it}`?"));
                    ("there is no such severity".to_owned(), help)
                })?;
            }
            "message" => {
                let template = Template::new(text()?);
                if let Some(name) = template.names().find(|name| !PLACES.contains(&name.as_str())) {
                    let help = format!("it may name {}", PLACES.join(", "));
                    return Err((format!("a message cannot name `{name}`"), help));
                }
                self.message = Some(template);
            }
            "clientid" => self.clientid = Some(text()?.to_owned()),
            "username" => self.username = Some(text()?.to_owned()),
            "topic" => {
                let filter = text()?;
                if topic::validate_filter(filter).is_err() {
                    return Err((
                        format!("`{filter}` is no topic filter"),
                        "write topic = 'sensors/+/up'".to_owned(),
                    ));
                }
                self.topic = Some(filter.to_owned());
            }
            "max_active" => self.max_active = count(1)?,
            "storm_per_minute" => self.storm_per_minute = count(1)?,
            "clear_after" => {
                let ms = crate::syntax::parse_duration(text()?).filter(|ms| *ms <= GRACE_MS_MAX);
                let refused =
                    || ("`clear_after` is a duration of at most a year".to_owned(), "write '10m'".to_owned());
                self.clear_after_ms = ms.ok_or_else(refused)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl AlarmProgram {
    /// Plans an alarm.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(alarm: &AlarmDef) -> Result<Self, Vec<Diagnostic>> {
        let (program, problems) = build(alarm);
        let found: Vec<_> = problems.into_iter().map(|problem| problem.at(&alarm.source)).collect();
        if found.iter().any(Diagnostic::is_error) {
            return Err(found.into_iter().filter(Diagnostic::is_error).collect());
        }
        Ok(program)
    }

    /// The rule that brings its notices to its targets: its own events, column by column.
    ///
    /// # Errors
    /// Never for an alarm that was read.
    pub fn notices(alarm: &AlarmDef) -> Result<Rule, Diagnostic> {
        let name = alarm.name.text.replace('\\', "\\\\").replace('\'', "\\'");
        let sql = format!(
            "SELECT event, event_id, offset, timestamp, node, name, kind, severity, clientid, username, message, \
             details, since, activated_at, deactivated_at, duration \
             FROM \"$events/sys/alarm_activated\", \"$events/sys/alarm_deactivated\" \
             WHERE name = '{name}' AND kind <> 'system' AND details.silenced IS NULL"
        );
        let mut rule = read_rule(&alarm.name.text, &alarm.source.name, &sql)?;
        rule.select.span = alarm.name.span;
        rule.name = alarm.name.clone();
        rule.source = alarm.source.clone();
        rule.into.clone_from(&alarm.into);
        rule.options = alarm.options.clone();
        rule.options.0.retain(|entry| !OPTIONS.contains(&entry.key.text.as_str()));
        Ok(rule)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is raised.
    pub fn kind(&self) -> AlarmKind {
        self.kind
    }

    /// How bad it is.
    pub fn severity(&self) -> AlarmSeverity {
        self.settings.severity
    }

    /// What decides which devices it is on for, as text.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What is missed, or what raises it.
    pub fn of(&self) -> &Wants {
        &self.of
    }

    /// What starts the wait; none for an alarm that is raised by presence.
    pub fn after(&self) -> Option<&Wants> {
        self.after.as_ref()
    }

    /// Every kind of event that it looks at.
    pub fn kinds(&self) -> EventKinds {
        self.after.as_ref().map_or(self.of.kinds, |after| self.of.kinds.union(after.kinds))
    }

    /// How long it waits; the window of FLAPPING.
    pub fn grace_ms(&self) -> u64 {
        self.grace_ms
    }

    /// How many are too many, for FLAPPING.
    pub fn flaps(&self) -> u64 {
        self.flaps
    }

    /// How many may be active at a time.
    pub fn max_active(&self) -> u64 {
        self.settings.max_active
    }

    /// How many are raised in a minute.
    pub fn storm_per_minute(&self) -> u64 {
        self.settings.storm_per_minute
    }

    /// After how long one raised by presence is over.
    pub fn clear_after_ms(&self) -> u64 {
        self.settings.clear_after_ms
    }

    /// Whether it is about the client of this event.
    pub fn is_about(&self, event: &Event) -> bool {
        let matches = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| like(pattern.as_bytes(), text.as_bytes()))
        };
        let Some(client) = &event.body.client else { return false };
        matches(&self.settings.clientid, &client.clientid)
            && matches(&self.settings.username, client.username.as_deref().unwrap_or_default())
            && (event.kind != EventKind::MessagePublish
                || self.settings.topic.as_ref().is_none_or(|filter| topic::matches(filter, &event.topic)))
    }

    /// What is said when it is raised; `row` has what a message may name.
    pub fn message(&self, row: &Map) -> Option<String> {
        let template = self.settings.message.as_ref()?;
        let text = template.render(row, Context::Text, Missing::Undefined);
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether the event counts.
    ///
    /// # Errors
    /// Where the condition fails on this event.
    pub fn holds(&self, event: &Event, ctx: &mut EvalContext) -> Result<bool, EvalError> {
        let Some(node) = &self.condition else { return Ok(true) };
        let env = Env { base: Base::Event(event, &self.name), over: None, out: None };
        condition(node, &env, ctx)
            .map_err(|fault| EvalError { stage: Stage::Where, message: fault.0.into_owned() })
    }
}

/// Whether `text` fits `pattern`, in which `*` and `+` stand for anything.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*' | b'+') => {
                back = Some((p, t));
                p += 1;
            }
            Some(byte) if text.get(t) == Some(byte) => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (p, t) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|byte| matches!(byte, b'*' | b'+')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_alarm_is_about_alarms() {
        for (of, after) in [
            ("$events/sys/alarm_deactivated", "$events/sys/alarm_activated"),
            ("$events/client/connected", "$events/sys/alarm_activated"),
            ("$events/sys/alarm_deactivated", "$events/client/disconnected"),
            ("$events/client/connected", "$events/client/disconnected"),
        ] {
            let sql = format!("CREATE ALARM a AS ABSENCE OF \"{of}\" FOR 60s AFTER \"{after}\";");
            let (_, found) = crate::parse("a.sql", &sql);
            let said = format!("{found:?}");
            let refused = said.contains("cannot be about what alarms say");
            assert_eq!(refused, sql.contains("sys/alarm"), "{sql}: {said}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("boiler-+", "boiler-7", true),
            ("boiler-+", "pump-7", false),
            ("*-7", "boiler-7", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbc", false),
            ("a", "a", true),
            ("", "a", false),
        ] {
            assert_eq!(like(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
