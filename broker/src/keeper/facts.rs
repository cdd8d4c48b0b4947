//! What is stored of clients and subscriptions beside their names: JSON, so that a later version can add to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use muster_core::event::proto;
use serde::{Deserialize, Serialize};

use crate::access::{Identity, Subject};
use crate::authz::Rule;
use crate::codec::Qos;
use crate::info::ClientInfo;

/// What has to be known of a client that is away: who it is, for events and permissions, and what it asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    pub(crate) created_at_ms: i64,
    pub(crate) expiry_seconds: u32,
    username: Option<String>,
    /// The number of its last connection in events.
    pub(crate) connection: u64,
    peername: String,
    sockname: String,
    listener: String,
    proto_name: String,
    proto_ver: u8,
    connected_at_ms: i64,
    clean_start: bool,
    keepalive_seconds: u16,
    is_bridge: bool,
    inflight_max: usize,
    cert_common_name: Option<String>,
    is_anonymous: bool,
    is_superuser: bool,
    attrs: BTreeMap<String, String>,
    rules: Vec<Rule>,
}

/// A subscription as the client made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Its number in the session; stands beside the options in the store.
    #[serde(skip)]
    pub(crate) number: u32,
    #[serde(with = "qos")]
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: u8,
    pub(crate) id: Option<u32>,
}

impl Memory {
    pub(crate) fn new(info: &ClientInfo, subject: &Subject, expiry_seconds: u32) -> Self {
        let ClientInfo { username, peername, sockname, proto_name, .. } = info.clone();
        let identity = &subject.identity;
        Self {
            created_at_ms: info.created_at_ms,
            expiry_seconds,
            username,
            connection: info.session,
            peername,
            sockname,
            listener: info.listener.clone(),
            proto_name,
            proto_ver: info.proto_ver,
            connected_at_ms: info.connected_at_ms,
            clean_start: info.clean_start,
            keepalive_seconds: info.keepalive_seconds,
            is_bridge: info.is_bridge,
            inflight_max: info.inflight_max,
            cert_common_name: subject.cert_common_name.clone(),
            is_anonymous: identity.is_anonymous,
            is_superuser: identity.is_superuser,
            attrs: identity.attrs.clone(),
            rules: identity.rules.clone(),
        }
    }

    pub(crate) fn encode(&self) -> String {
        // Strings, numbers and lists of them: nothing of it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What was stored; of what cannot be read, nothing is known.
    pub(crate) fn decode(clientid: &str, text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::warn!(clientid, %error, "what is stored of a client cannot be read");
            Self::default()
        })
    }

    /// The client of its events. What is written of it now comes after all that was written of it before.
    pub(crate) fn client(&self, clientid: &str, seq: u64) -> proto::Client {
        proto::Client {
            clientid: clientid.to_owned(),
            username: self.username.clone(),
            session: self.connection,
            seq,
            peername: self.peername.clone(),
            sockname: self.sockname.clone(),
            proto_name: self.proto_name.clone(),
            proto_ver: u32::from(self.proto_ver),
            attrs: self.attrs.clone().into_iter().collect(),
            mountpoint: None,
        }
    }

    /// What others are told of it; limits and what changes are not there.
    pub(crate) fn info(&self, clientid: &str, node: &str) -> ClientInfo {
        ClientInfo {
            clientid: clientid.to_owned(),
            username: self.username.clone(),
            node: node.to_owned(),
            peername: self.peername.clone(),
            sockname: self.sockname.clone(),
            listener: self.listener.clone(),
            proto_name: self.proto_name.clone(),
            proto_ver: self.proto_ver,
            connected_at_ms: self.connected_at_ms,
            created_at_ms: self.created_at_ms,
            clean_start: self.clean_start,
            expiry_interval_seconds: self.expiry_seconds,
            keepalive_seconds: self.keepalive_seconds,
            is_bridge: self.is_bridge,
            session: self.connection,
            inflight_max: self.inflight_max,
            ..ClientInfo::default()
        }
    }

    /// Whose permissions count.
    pub(crate) fn subject(&self, clientid: &str) -> Subject {
        let identity = Identity {
            is_anonymous: self.is_anonymous,
            is_superuser: self.is_superuser,
            attrs: self.attrs.clone(),
            // A connection ends when credentials do; what is left of the session outlives both.
            expires_at_ms: None,
            rules: self.rules.clone(),
        };
        let address = self.peername.parse().ok().map(|it: SocketAddr| it.ip().to_canonical());
        Subject {
            clientid: clientid.to_owned(),
            username: self.username.clone(),
            address,
            listener: self.listener.clone(),
            cert_common_name: self.cert_common_name.clone(),
            rules: Subject::rules_of(&identity),
            identity: Arc::new(identity),
        }
    }
}

impl Options {
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn decode(number: u32, text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(|options| Self { number, ..options })
    }
}

mod qos {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use crate::codec::Qos;

    pub(super) fn serialize<S: Serializer>(qos: &Qos, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(qos.as_u8())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Qos, D::Error> {
        let qos = u8::deserialize(from)?;
        Qos::from_u8(qos).ok_or_else(|| de::Error::custom("a QoS is 0, 1 or 2"))
    }
}
