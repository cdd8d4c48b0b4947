//! What can go wrong at a target, and what is done about it. A sink says only *what kind* of trouble it has; the one
//! table here ([`directive`]) says what follows, so that no sink decides alone what "retry" means. It must never know
//! a particular target.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

/// The kind of trouble a target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not reachable, restarting, out of space, locked: it passes, or somebody repairs it.
    Unavailable,
    /// The target asks for fewer or later requests.
    Throttled {
        /// How long it asks us to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// One row is refused for what it is; trying again gives the same answer.
    RejectedRow,
    /// A batch is refused, and the target does not say for which row.
    RejectedBatch,
    /// The target answers, but not as configured: wrong credentials, a missing table, a wrong address.
    Misconfigured,
    /// The target says that it does not want to hear from us again.
    Gone,
    /// Almost every row is refused: the fault is hardly in the rows.
    RefusesAll,
    /// Another process has taken the pipeline over.
    Fenced,
    /// Nothing that waiting or configuration could mend, such as a damaged file.
    Fatal,
}

/// What the delivery engine does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Try the same batch again, after a backoff or after the time that the target asked for.
    Retry {
        /// The least time to wait.
        after: Option<Duration>,
    },
    /// Try again at the slowest pace until the configuration or the target is put right; shown as stalled.
    RetrySlowly,
    /// Halve the batch until the refused row stands alone; it goes to the dead letters.
    Split,
    /// Stop and keep everything where it is until an operator resumes.
    Hold,
}

/// A policy and what to tell the operator.
#[derive(Debug, Clone, Copy)]
pub struct Directive {
    /// What the engine does.
    pub policy: Policy,
    /// What the operator can do.
    pub hint: &'static str,
}

/// The table of policies. No branch loses a row: each retries, sets one row aside, or waits for a person.
pub fn directive(kind: ErrorKind) -> Directive {
    let (policy, hint) = match kind {
        ErrorKind::Unavailable => (
            Policy::Retry { after: None },
            "nothing to do if the target is being restarted; else look at it and at the way to it",
        ),
        ErrorKind::Throttled { retry_after } => (
            Policy::Retry { after: retry_after },
            "the target asks for less; give it more room or lower `batch_rows`",
        ),
        ErrorKind::RejectedRow | ErrorKind::RejectedBatch => (
            Policy::Split,
            "the refused row is in the dead letters with its reason; correct the rule or the table, then replay it",
        ),
        ErrorKind::Misconfigured => (
            Policy::RetrySlowly,
            "correct the sink's options or the target; delivery goes on by itself once it answers",
        ),
        ErrorKind::Gone => (
            Policy::Hold,
            "the target asked not to be called again; correct the address or ask its owner, then resume",
        ),
        ErrorKind::Fenced => {
            (Policy::Hold, "another process delivers this pipeline; stop one of the two, then resume")
        }
        ErrorKind::RefusesAll => (
            Policy::Hold,
            "look at the reasons in the dead letters, correct the rule or the target, then resume",
        ),
        ErrorKind::Fatal => (Policy::Hold, "repair the target, then resume; nothing is lost meanwhile"),
    };
    Directive { policy, hint }
}

/// An error of a sink: its kind, what happened in words, and the cause. It holds neither a secret nor a payload.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SinkError {
    /// An error of `kind`; `message` says what was being done and what happened.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// [`ErrorKind::Misconfigured`] with a message.
    pub fn misconfigured(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Misconfigured, message)
    }

    /// [`ErrorKind::Unavailable`] with a message.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a hint that is better than the kind's general one.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the operator can do.
    pub fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or(directive(self.kind).hint)
    }

    /// What the engine does about it.
    pub fn policy(&self) -> Policy {
        directive(self.kind).policy
    }

    /// The message and its causes in one line, for a status page or a dead letter.
    pub fn in_words(&self) -> String {
        in_words(self)
    }
}

/// An error and its causes in one line; a cause that the line already says is not repeated.
pub fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = SinkError::unavailable("connection refused");
        let error = SinkError::unavailable("POST failed: connection refused").caused_by(cause);
        assert_eq!(error.in_words(), "POST failed: connection refused");
        let error = SinkError::unavailable("POST failed").caused_by(SinkError::unavailable("no route"));
        assert_eq!(error.in_words(), "POST failed: no route");
    }
}
