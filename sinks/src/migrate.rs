//! What a target needs before rows fit into it: tables, indexes, buckets. Each kind of sink that has such a thing keeps
//! numbered steps in `migrations/KIND/`; which of them were taken stands in the target itself. It must never know a
//! particular target.

use crate::error::SinkError;
use crate::sink::BoxFuture;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number; steps are taken in the order of their numbers, each once.
    pub version: u32,
    /// What it is for, in a few words.
    pub name: String,
    /// What the target is told, as an operator would read it.
    pub text: String,
}

impl Migration {
    /// A step with the text of its file.
    pub fn new(version: u32, name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { version, name: name.into(), text: text.into() }
    }
}

/// The schema of one target.
pub trait Migrate: Send {
    /// Every step there is, in order, with the sink's options filled in.
    fn migrations(&self) -> Vec<Migration>;

    /// The numbers of the steps that the target has taken. Changes nothing.
    fn applied(&mut self) -> BoxFuture<'_, Result<Vec<u32>, SinkError>>;

    /// Takes a step and writes down that it was taken: both or neither where the target has transactions, else in
    /// this order, with a step that may be taken twice.
    fn apply<'a>(&'a mut self, migration: &'a Migration) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// Takes every step that was not taken, unless `dry_run`; answers with those. `before` is told of each before it is
/// taken.
///
/// # Errors
/// When the target cannot be asked or refuses a step; the steps before it stay taken.
pub async fn migrate(
    target: &mut dyn Migrate,
    dry_run: bool,
    mut before: impl FnMut(&Migration),
) -> Result<Vec<Migration>, SinkError> {
    let applied = target.applied().await?;
    let mut missing = target.migrations();
    missing.retain(|migration| !applied.contains(&migration.version));
    for migration in &missing {
        before(migration);
        if !dry_run {
            target.apply(migration).await?;
        }
    }
    Ok(missing)
}
