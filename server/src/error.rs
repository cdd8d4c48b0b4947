//! What can go wrong in the server, by kind: the kind decides the exit code, the source chain says why.

use std::error::Error as StdError;

/// Why the process cannot start or go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A command did its work and the answer is "no": a rule file has errors, a check failed.
    Negative,
    /// The configuration or the command line is wrong; nothing was touched.
    Config,
    /// Something that the platform needs cannot be had: the data directory, an address, the log.
    Start,
    /// A part that everything depends on died while running.
    Fatal,
}

impl ErrorKind {
    /// The exit code of the process; documented in `muster --help`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Negative => 1,
            Self::Config => 2,
            Self::Start => 3,
            Self::Fatal => 4,
        }
    }
}

/// An error of the server: what was tried, and beneath it why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with nothing beneath it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn because(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What sort of failure it is.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The error and everything beneath it on one line, for a person; a cause that its parent already quotes is not said
/// twice.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
