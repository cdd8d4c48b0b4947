//! What is wrong with a rule file, told to a person: file, line, column, the line itself with a caret, one sentence on
//! what is wrong and one on what to write instead.

use std::fmt;
use std::sync::Arc;

use ariadne::{CharSet, Config, IndexType, Label, Report, ReportKind};

/// A rule file as it was read; shared by everything that points into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// How messages name it: a path, or what stands for one.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// Where something stands in its source, in bytes. Two spans are always equal, so that syntax trees compare by what
/// they say and not by where they say it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// From `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that holds both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement cannot be used.
    Error,
    /// The statement can be used, but probably does not say what was meant.
    Warning,
}

/// What is wrong, before it is known in which file.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span, message: message.into(), help: None }
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::new(span, message) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn at(self, source: &Arc<Source>) -> Diagnostic {
        Diagnostic {
            severity: self.severity,
            source: source.clone(),
            span: self.span,
            message: self.message,
            help: self.help,
        }
    }
}

/// One finding in a rule file.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub source: Arc<Source>,
    /// The place in it.
    pub span: Span,
    /// What is wrong, one sentence.
    pub message: String,
    /// What to write instead, one sentence.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Whether the statement cannot be used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.before().matches('\n').count() + 1
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        let before = self.before();
        before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1
    }

    /// The message with the line of the file and a caret under the place, with colours if asked for.
    pub fn render(&self, color: bool) -> String {
        let name = self.file().to_owned();
        let end = self.span.end.min(self.source.text.len());
        let range = self.span.start.min(end)..end;
        let kind = match self.severity {
            Severity::Error => ReportKind::Error,
            Severity::Warning => ReportKind::Warning,
        };
        let config = Config::default()
            .with_color(color)
            .with_char_set(CharSet::Ascii)
            .with_index_type(IndexType::Byte)
            .with_compact(true);
        let mut report = Report::build(kind, (name.clone(), range.clone()))
            .with_config(config)
            .with_message(&self.message)
            .with_label(Label::new((name.clone(), range)).with_message("here"));
        if let Some(help) = &self.help {
            report.set_help(help);
        }
        let mut out = Vec::new();
        let written = report.finish().write((name, ariadne::Source::from(&self.source.text)), &mut out);
        match (written, String::from_utf8(out)) {
            (Ok(()), Ok(text)) => text.lines().map(|line| format!("{}\n", line.trim_end())).collect(),
            _ => format!("{self}\n"),
        }
    }

    fn before(&self) -> &str {
        let text = &self.source.text;
        let mut at = self.span.start.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.get(..at).unwrap_or_default()
    }
}

/// One line: `file:line:column: message`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.is_error() { "error" } else { "warning" };
        write!(f, "{}:{}:{}: {severity}: {}", self.file(), self.line(), self.column(), self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// The candidate that a mistyped `word` most likely meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let scored = candidates.map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name));
    let limit = (word.chars().count() / 3).max(1);
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}
