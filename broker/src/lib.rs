//! MQTT for Muster: listeners, sessions, and the way of messages between them. Everything that happens to a client is
//! written to the event log, and a publish is acknowledged only when its event is durable.
//!
//! The way of a packet: `listener` -> `connect` (CONNECT, takeover, CONNACK) -> `session` (one task a client)
//! -> `hub` (log, retained messages) -> `subscribers` (who gets it) -> inboxes -> sessions of subscribers. What must
//! outlive connections and the process goes by `keeper`.
//!
//! It must never know rules, sinks or HTTP.

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
mod inbox;
mod info;
mod keeper;
mod listener;
mod record;
mod retained;
mod session;
mod stats;
mod subscribers;
mod under_way;
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
