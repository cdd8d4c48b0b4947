//! Who may manage: API keys, people, and what a role may do.

use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

use crate::config::Config;
use crate::error::Error;

/// What somebody may ask of REST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Administrator,
    /// Whatever changes nothing.
    Viewer,
    /// Publishing, and nothing else.
    Publisher,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name in the audit: of a key or a person; `rest` where nobody is asked for one.
    pub name: String,
    /// What they may.
    pub role: Role,
}

/// Keys and people.
#[derive(Debug)]
pub struct Keys {}

impl Keys {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(_config: &Config, _registry: &Registry, _clock: &SharedClock) -> Result<Self, Error> {
        Ok(Self {})
    }
}
