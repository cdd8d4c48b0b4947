//! What a client asked for, what it gets, and how it is told, shown and recorded. It must never wait for anything.

use std::sync::atomic::{AtomicI64, AtomicU16};

use bytes::BytesMut;
use muster_core::event::proto;

use super::Handshake;
use crate::access::Identity;
use crate::clients::Facts;
use crate::codec::encode::{self, ConnAck};
use crate::codec::{Connect, Version, reason};
use crate::info::ClientInfo;
use crate::record::Recorder;
use crate::session::Session;

/// What a client asked for, and what it gets.
pub(super) struct Terms {
    pub(super) keep_alive_seconds: u16,
    pub(super) expiry_seconds: u32,
    pub(super) receive_maximum: u32,
    pub(super) inflight_max: usize,
    pub(super) packet_bytes_max: usize,
}

impl Handshake {
    pub(super) fn terms(&self) -> Terms {
        let limits = &self.hub.config.limits;
        let Connect { version, clean_start, props, .. } = &self.connect;
        let expiry_max = limits.session_expiry_seconds_max;
        let expiry_seconds = match version {
            Version::V5 => props.session_expiry_interval.unwrap_or(0).min(expiry_max),
            Version::V3 | Version::V4 if *clean_start => 0,
            Version::V3 | Version::V4 => expiry_max,
        };
        let asked = self.connect.keep_alive_seconds;
        let max = limits.keep_alive_seconds_max;
        // Only MQTT 5 can be told that it gets another keep-alive than it asked for.
        let is_shortened = *version == Version::V5 && max > 0 && (asked == 0 || asked > max);
        let receive_maximum = match version {
            Version::V5 => props.receive_maximum.unwrap_or(u32::from(u16::MAX)),
            Version::V3 | Version::V4 => u32::from(limits.inflight_max),
        };
        let inflight_max = usize::try_from(receive_maximum).unwrap_or(usize::MAX);
        let packet_bytes_max = props.maximum_packet_size.and_then(|bytes| usize::try_from(bytes).ok());
        Terms {
            keep_alive_seconds: if is_shortened { max } else { asked },
            expiry_seconds,
            receive_maximum,
            inflight_max: inflight_max.min(usize::from(limits.inflight_max)),
            packet_bytes_max: packet_bytes_max.unwrap_or(usize::MAX),
        }
    }

    pub(super) fn connack(&self, terms: &Terms, session_present: bool, assigned: bool) -> BytesMut {
        let Connect { version, clientid, keep_alive_seconds, props, .. } = &self.connect;
        let limits = &self.hub.config.limits;
        let is_other = |seconds: u32| seconds != terms.expiry_seconds;
        let ack = ConnAck {
            session_present,
            code: reason::SUCCESS,
            session_expiry_seconds: props
                .session_expiry_interval
                .filter(|seconds| is_other(*seconds))
                .map(|_| terms.expiry_seconds),
            receive_maximum: limits.receive_maximum,
            packet_bytes_max: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
            topic_alias_maximum: limits.topic_alias_maximum,
            assigned_clientid: assigned.then_some(clientid),
            server_keep_alive_seconds: (terms.keep_alive_seconds != *keep_alive_seconds)
                .then_some(terms.keep_alive_seconds),
        };
        let mut out = BytesMut::new();
        encode::connack(&mut out, *version, &ack);
        out
    }

    pub(super) fn recorder(&self, identity: &Identity) -> Recorder {
        let client = proto::Client {
            clientid: self.connect.clientid.clone(),
            username: self.connect.username.clone(),
            peername: self.endpoints.peername.clone(),
            sockname: self.endpoints.sockname.clone(),
            proto_name: self.connect.version.name().to_owned(),
            proto_ver: u32::from(self.connect.version.level()),
            attrs: identity.attrs.clone().into_iter().collect(),
            ..Default::default()
        };
        Recorder::begin(&self.hub.journal, &self.hub.clock, &self.hub.config.node, client)
    }

    pub(super) fn connection(&self, terms: &Terms, code: u8, connected_at_ms: i64) -> proto::Connection {
        proto::Connection {
            keepalive_seconds: u32::from(terms.keep_alive_seconds),
            clean_start: self.connect.clean_start,
            receive_maximum: terms.receive_maximum,
            expiry_interval_seconds: u64::from(terms.expiry_seconds),
            is_bridge: self.connect.is_bridge,
            props: (self.connect.version == Version::V5).then(|| self.connect.props.clone()),
            connected_at_ms,
            reason_code: reason::name(code).to_owned(),
        }
    }

    pub(super) fn facts(
        &self,
        recorder: &Recorder,
        session: &Session,
        terms: &Terms,
        connected_at_ms: i64,
    ) -> Facts {
        let limits = &self.hub.config.limits;
        let fixed = ClientInfo {
            clientid: self.connect.clientid.clone(),
            username: self.connect.username.clone(),
            node: self.hub.config.node.clone(),
            peername: self.endpoints.peername.clone(),
            sockname: self.endpoints.sockname.clone(),
            listener: self.endpoints.listener.to_owned(),
            proto_name: self.connect.version.name().to_owned(),
            proto_ver: self.connect.version.level(),
            connected_at_ms,
            created_at_ms: session.created_at_ms,
            clean_start: self.connect.clean_start,
            expiry_interval_seconds: terms.expiry_seconds,
            keepalive_seconds: terms.keep_alive_seconds,
            is_bridge: self.connect.is_bridge,
            session: recorder.client().session,
            subscriptions_max: limits.subscriptions_max,
            inflight_max: terms.inflight_max,
            queue_max: limits.queue_messages_max,
            awaiting_release_max: usize::from(limits.receive_maximum),
            ..ClientInfo::default()
        };
        let keepalive_seconds = AtomicU16::new(fixed.keepalive_seconds);
        let (disconnected_at_ms, is_kept) = (AtomicI64::new(0), session.kept().is_some());
        Facts { fixed, is_kept, disconnected_at_ms, keepalive_seconds, ..Facts::default() }
    }
}
