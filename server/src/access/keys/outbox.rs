//! What commands changed in the registry, until the log knows it: written with the change, in one transaction, and
//! taken by the server that runs or by the next one that starts. A crash between log and registry writes an entry
//! twice, never not at all. It must never know what a change means.

use std::collections::BTreeMap;

use muster_core::registry::{DocumentChange, Registry};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::secret;
use crate::access::Collection;
use crate::error::Error;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// What.
    pub action: String,
    /// By whom.
    pub actor: String,
    /// To what.
    pub object: String,
    /// An object without secrets.
    pub details: Value,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// What was done and not told yet.
#[derive(Debug)]
pub struct Outbox(Collection<Noted>);

impl Outbox {
    /// That of a registry.
    pub fn new(registry: &Registry) -> Self {
        Self(Collection::new("audit_outbox", registry))
    }

    /// The change that notes something down.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn note(&self, noted: &Noted) -> Result<DocumentChange, Error> {
        // In the order of time, as ids are read.
        self.0.put(&format!("{:016}-{}", noted.at_ms.max(0), secret::id()?), noted)
    }

    /// All of it, oldest first, by what it is forgotten by.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(&self) -> Result<BTreeMap<String, Noted>, Error> {
        self.0.load()
    }

    /// It is told.
    ///
    /// # Errors
    /// The registry refused.
    pub async fn forget(&self, id: &str) -> Result<(), Error> {
        self.0.commit(vec![self.0.remove(id)]).await
    }
}
