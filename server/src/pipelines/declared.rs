//! A sink as a rule file declares it: how it is built, what prepares its target, how it is shown. It must never open
//! one.

use std::collections::BTreeMap;

use muster_rules::ast::SinkDef;
use muster_rules::{Diagnostic, Severity};
use muster_sinks::migrate::Migrate;
use muster_sinks::{Built, COMMON, SinkEnv, SinkError, SinkSpec, build, kinds, migrator};

/// In the place of a rule where none is meant.
const NO_RULE: &str = "check";
/// What stands where a secret would.
const MASK: &str = "******";

/// A sink that rules can name. Holds secrets, so its options are never shown as they are.
pub struct Declared {
    /// None for the sink that exists without being declared.
    pub(super) def: Option<SinkDef>,
    pub(super) kind: String,
    /// Their references resolved.
    pub(super) options: BTreeMap<String, String>,
    /// Whether an error in the declaration was reported already.
    pub(super) broken: bool,
}

impl std::fmt::Debug for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declared").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Declared {
    /// The word after `TYPE`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether its declaration has an error, which was reported.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// `file:line`; none for the sink that exists without being declared.
    pub fn place(&self) -> Option<String> {
        let def = self.def.as_ref()?;
        let (source, span, message) = (def.source.clone(), def.name.span, String::new());
        let at = Diagnostic { severity: Severity::Warning, source, span, message, help: None };
        Some(format!("{}:{}", at.file(), at.line()))
    }

    /// Its options as they were written, secrets masked. A reference to where a secret is kept is none itself.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let mut written = self.def.as_ref().map(|def| def.options.to_map()).unwrap_or_default();
        for (name, value) in &mut written {
            if self.is_secret(name) && !is_reference(value) {
                MASK.clone_into(value);
            }
        }
        written
    }

    /// Whether the value of this option is shown to nobody: also where nobody knows the option.
    fn is_secret(&self, name: &str) -> bool {
        let own = kinds().iter().find(|kind| kind.name == self.kind).map_or(&[][..], |kind| kind.options);
        let covers =
            |option: &str| if option.ends_with('.') { name.starts_with(option) } else { name == option };
        own.iter().chain(COMMON).find(|option| covers(option.name)).is_none_or(|option| option.secret)
    }

    /// Makes the sink as if a rule wrote into it, for those that none writes into.
    ///
    /// # Errors
    /// What is wrong with its options.
    pub fn build_alone(&self, name: &str, env: &SinkEnv) -> Result<Built, SinkError> {
        build(&self.spec(name, None, NO_RULE), env)
    }

    /// Makes the sink, for what `rule` writes into `target`.
    ///
    /// # Errors
    /// What is wrong with its options.
    pub fn build(
        &self,
        name: &str,
        target: Option<&str>,
        rule: &str,
        env: &SinkEnv,
    ) -> Result<Built, SinkError> {
        build(&self.spec(name, target, rule), env)
    }

    /// Makes what prepares its target for rows; none where there is nothing to prepare.
    ///
    /// # Errors
    /// As [`Declared::build`].
    pub fn migrator(&self, name: &str, env: &SinkEnv) -> Result<Option<Box<dyn Migrate>>, SinkError> {
        migrator(&self.spec(name, None, NO_RULE), env)
    }

    fn spec<'a>(&'a self, name: &'a str, target: Option<&'a str>, rule: &'a str) -> SinkSpec<'a> {
        SinkSpec { kind: &self.kind, name, target, rule, options: &self.options }
    }
}

/// Whether all of a value is one reference, such as `${env:NAME}`.
fn is_reference(value: &str) -> bool {
    let inner = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| {
        !inner.contains(['{', '}']) && (inner.starts_with("env:") || inner.starts_with("file:"))
    })
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;

    use super::super::plan::{RuleFile, plan};
    use super::*;

    #[test]
    fn what_is_shown_holds_no_secret() {
        let env =
            SinkEnv { data_dir: "/nowhere".into(), databases: Default::default(), clock: ManualClock::at(0) };
        let text = "CREATE SINK hook TYPE webhook WITH (\n  url = 'http://u:hunter2@localhost/',\n  \
                    secret = '${env:PATH}', header.X = 'hunter3${env:PATH}', batch_rows = 7);";
        let (plan, _) = plan(&[RuleFile { name: "a.sql".to_owned(), text: text.to_owned() }], &env);
        let hook = plan.sinks.get("hook").expect("it is declared");
        let shown: Vec<_> = hook.shown().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["batch_rows=7", "header.X=******", "secret=${env:PATH}", "url=******"]);
        assert_eq!(hook.place().as_deref(), Some("a.sql:1"));
        assert!(!format!("{hook:?}{plan:?}").contains("hunter"), "{hook:?}");
    }
}
