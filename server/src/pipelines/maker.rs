//! Makes the sink of a pipeline as often as it is needed: one for each lane, and another for a replay. It holds
//! secrets, so it is never shown.

use std::collections::BTreeMap;

use muster_sinks::{Built, SinkEnv, SinkError, SinkSpec, build};

/// A sink as a rule wants it, to be made.
#[derive(Clone)]
pub struct SinkMaker {
    kind: String,
    name: String,
    target: Option<String>,
    rule: String,
    options: BTreeMap<String, String>,
    env: SinkEnv,
}

impl SinkMaker {
    /// A sink of `kind` with these options, for the target and the rule of these names.
    pub(super) fn new(
        kind: String,
        (name, target, rule): (String, Option<String>, String),
        options: BTreeMap<String, String>,
        env: SinkEnv,
    ) -> Self {
        Self { kind, name, target, rule, options, env }
    }

    /// A fresh one, not opened.
    ///
    /// # Errors
    /// As [`build`]: none once it was made.
    pub fn make(&self) -> Result<Built, SinkError> {
        let Self { kind, name, target, rule, options, env } = self;
        build(&SinkSpec { kind, name, target: target.as_deref(), rule, options }, env)
    }
}
