//! Who may manage, who may connect, who may do what, who is shut out, and which requests were made already: everything
//! of it in memory, where it is asked, and in the registry, where it survives. A change is durable before it counts. It
//! must never know HTTP's requests nor MQTT's packets.

use std::sync::Arc;

use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use muster_core::registry::Registry;

mod authn;
mod authz;
mod bans;
mod collection;
mod keys;
mod requests;

pub use authn::{
    Authn, AuthnCounters, ChangeError, ImportRow, ImportType, Imported, Place, UserFilter, UserIdType,
    rows_of_csv, rows_of_json,
};
pub use authz::{
    Authz, RefusedRules, Settings as AuthzSettings, Source as AuthzSource, SourceType as AuthzSourceType,
};
pub use bans::{Ban, BanError, BanKind, Bans};
pub use collection::Collection;
pub use keys::{
    Caller, Denied, KeyRecord, Keys, LocalAccess, LocalTls, Means, NewKey, Noted, Outbox, PASSWORD_BYTES_MAX,
    PASSWORD_BYTES_MIN, Password, PersonRecord, Role, Secret, Stored, is_name, read_local,
};

pub use requests::{Answer, Begun, RequestKey, Requests, Search, UnderWay, hash};

use crate::config::Config;
use crate::error::Error;

/// All of it. Clones share it.
#[derive(Debug, Clone)]
pub struct Access {
    /// Who may manage.
    pub keys: Arc<Keys>,
    /// Who may connect.
    pub authn: Arc<Authn>,
    /// Who may publish and subscribe where.
    pub authz: Arc<Authz>,
    /// Who is shut out.
    pub bans: Arc<Bans>,
    /// Which requests were made already.
    pub requests: Arc<Requests>,
}

impl Access {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read, or holds what this program does not understand.
    pub fn load(
        config: &Config,
        registry: &Registry,
        journal: &Journal,
        clock: &SharedClock,
    ) -> Result<Self, Error> {
        Ok(Self {
            keys: Arc::new(Keys::load(config, registry, clock)?),
            authn: Arc::new(Authn::load(config, registry, clock)?),
            authz: Arc::new(Authz::load(config, registry, clock)?),
            bans: Arc::new(Bans::load(config, registry, clock)?),
            requests: Arc::new(Requests::load(registry, journal, clock)?),
        })
    }
}
