//! Who is shut out, and until when.

use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

use crate::config::Config;
use crate::error::Error;

/// The bans.
#[derive(Debug)]
pub struct Bans {}

impl Bans {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(_config: &Config, _registry: &Registry, _clock: &SharedClock) -> Result<Self, Error> {
        Ok(Self {})
    }
}
