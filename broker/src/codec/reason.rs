//! Reason codes of MQTT 5, their names in events, and what MQTT 3.1.1 has instead.

pub(crate) const SUCCESS: u8 = 0x00;
pub(crate) const DISCONNECT_WITH_WILL: u8 = 0x04;
pub(crate) const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
pub(crate) const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
pub(crate) const UNSPECIFIED_ERROR: u8 = 0x80;
pub(crate) const MALFORMED_PACKET: u8 = 0x81;
pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
pub(crate) const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
pub(crate) const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
pub(crate) const BAD_USERNAME_OR_PASSWORD: u8 = 0x86;
pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
pub(crate) const SERVER_UNAVAILABLE: u8 = 0x88;
pub(crate) const SERVER_BUSY: u8 = 0x89;
pub(crate) const BANNED: u8 = 0x8A;
pub(crate) const SERVER_SHUTTING_DOWN: u8 = 0x8B;
pub(crate) const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
pub(crate) const SESSION_TAKEN_OVER: u8 = 0x8E;
pub(crate) const TOPIC_FILTER_INVALID: u8 = 0x8F;
pub(crate) const TOPIC_NAME_INVALID: u8 = 0x90;
pub(crate) const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
pub(crate) const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
pub(crate) const TOPIC_ALIAS_INVALID: u8 = 0x94;
pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;
pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;
pub(crate) const ADMINISTRATIVE_ACTION: u8 = 0x98;
pub(crate) const MAXIMUM_CONNECT_TIME: u8 = 0xA0;

/// The name of a CONNACK code in events.
pub(crate) const fn name(code: u8) -> &'static str {
    match code {
        SUCCESS => "success",
        MALFORMED_PACKET => "malformed_packet",
        PROTOCOL_ERROR => "protocol_error",
        UNSUPPORTED_PROTOCOL_VERSION => "unsupported_protocol_version",
        CLIENT_IDENTIFIER_NOT_VALID => "client_identifier_not_valid",
        BAD_USERNAME_OR_PASSWORD => "bad_username_or_password",
        NOT_AUTHORIZED => "not_authorized",
        SERVER_UNAVAILABLE => "server_unavailable",
        SERVER_BUSY => "server_busy",
        BANNED => "banned",
        SERVER_SHUTTING_DOWN => "server_shutting_down",
        BAD_AUTHENTICATION_METHOD => "bad_authentication_method",
        TOPIC_NAME_INVALID => "topic_name_invalid",
        PACKET_TOO_LARGE => "packet_too_large",
        QUOTA_EXCEEDED => "quota_exceeded",
        _ => "unspecified_error",
    }
}

/// The return code of MQTT 3.1.1's CONNACK for a reason code.
pub(crate) const fn connack_v4(code: u8) -> u8 {
    match code {
        SUCCESS => 0,
        UNSUPPORTED_PROTOCOL_VERSION => 1,
        CLIENT_IDENTIFIER_NOT_VALID => 2,
        BAD_USERNAME_OR_PASSWORD => 4,
        NOT_AUTHORIZED | BANNED => 5,
        _ => 3,
    }
}
