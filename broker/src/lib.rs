//! MQTT for Muster: listeners, sessions, and the embedded router behind them. Everything that happens to a client is
//! written to the event log, and a publish is acknowledged only when its event is durable.
//!
//! The way of a packet: `listener` -> `connect` (CONNECT, takeover, CONNACK) -> `session` (one task a client)
//! -> `hub` (log, retained messages, is anybody subscribed?) -> `keeper` (sessions that outlive connections, groups)
//! and `router` (all others) -> sessions of subscribers.
//!
//! It must never know rules, sinks or HTTP.
//!
//! Known limits, all of the embedded router: it keeps about 300 bytes for each topic that was ever delivered and 6 KiB
//! for each filter that was ever subscribed, until the process ends, besides the last messages of each filter
//! (`Limits::router_filter_bytes_max`). Sessions that outlive their connections, and shared groups, do without it: see
//! `keeper`.

mod access;
pub mod authn;
pub mod authz;
mod broker;
mod clients;
mod codec;
#[cfg(test)]
mod codec_check;
mod config;
mod connect;
mod envelope;
mod error;
mod frame;
mod groups;
mod hub;
mod info;
mod keeper;
mod listener;
mod record;
mod retained;
mod router;
mod session;
mod stats;
mod wanted;

pub use access::{
    Action, AllowAll, Answer, Authenticator, Authn, Authorizer, Authz, Credentials, Doorkeeper, Identity,
    Request, Subject, Visitor,
};
pub use broker::{Accepted, Broker, ClientView, Environment, PublishOutcome, PublishRequest};
pub use clients::ProxySubscribed;
pub use codec::Qos;
pub use config::{BrokerConfig, Limits, ListenerConfig, ListenerKind};
pub use error::BrokerError;
pub use info::{
    ClientInfo, Held, HeldMessage, HeldPage, HeldQuery, ListenerInfo, RetainedInfo, SubscriptionInfo,
};
pub use stats::{Counters, Stats};
pub use wanted::Wanted;
