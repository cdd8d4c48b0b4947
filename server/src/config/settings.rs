//! The one table of settings: adding a row here and reading it in [`super::Config`] is all that a new setting takes.
//! File, environment, flags, unknown-key errors and `muster config show` follow from it.

use std::net::SocketAddr;

use super::mqtt::NONE;
use super::{AllowAnonymous, Compress, Durability, WhenFull, units};

/// A setting that an operator can give.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its key in TOML, dots between tables.
    pub key: &'static str,
    /// What it is when nobody gives it.
    pub default: &'static str,
    /// What may be written there.
    pub kind: Kind,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// What it is for, in the words of `muster config show`.
    pub help: &'static str,
}

/// What may be written for a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Path,
    Address,
    /// An address, or `none`.
    AddressOrNone,
    /// `true` or `false`.
    Flag,
    /// The path of a URL.
    UrlPath,
    /// `none`, `optional` or `required`.
    ClientCertificates,
    /// `none` or `cn`.
    UsernameFrom,
    Duration,
    Size,
    Count,
    Durability,
    /// A duration above 0, or `never`.
    DurationOrNever,
    /// A size above 0, or `never`.
    SizeOrNever,
    WhenFull,
    /// `none` or the name of a method.
    Compress,
    CompressLevel,
    /// `auto`, `true` or `false`.
    AllowAnonymous,
}

impl Kind {
    /// Whether `text` can be read as this kind; if not, why.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Text | Self::Path if text.is_empty() => Err("may not be empty".to_owned()),
            Self::Text | Self::Path => Ok(()),
            Self::Address => text.parse::<SocketAddr>().map(drop).map_err(|_| {
                format!("`{text}` is no address; write for example 127.0.0.1:1883 or [::1]:1883")
            }),
            Self::AddressOrNone if text == NONE => Ok(()),
            Self::AddressOrNone => Self::Address.check(text).map_err(|why| format!("{why}, or none")),
            Self::Flag => one_of(text, &["false", "true"]),
            Self::UrlPath if text.starts_with('/') && !text.contains(['?', '#', ' ']) => Ok(()),
            Self::UrlPath => Err(format!("`{text}` is no path of a URL; it begins with /")),
            Self::ClientCertificates => one_of(text, &[NONE, "optional", "required"]),
            Self::UsernameFrom => one_of(text, &[NONE, "cn"]),
            Self::Duration => units::duration(text).map(drop),
            Self::Size => units::size(text).map(drop),
            Self::Count => match text.parse::<u64>() {
                Ok(1..) => Ok(()),
                _ => Err(format!("`{text}` is no whole number above 0")),
            },
            Self::Durability => Durability::parse(text).map(drop),
            Self::DurationOrNever => units::or_never(text, units::duration).map(drop),
            Self::SizeOrNever => units::or_never(text, units::size).map(drop),
            Self::WhenFull => WhenFull::parse(text).map(drop),
            Self::Compress => Compress::parse(text).map(drop),
            Self::CompressLevel => Compress::parse_level(text).map(drop),
            Self::AllowAnonymous => AllowAnonymous::parse(text).map(drop),
        }
    }
}

fn one_of(text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) { Ok(()) } else { Err(format!("`{text}` is none of {}", words.join(", "))) }
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default, kind, secret: false, help }
}

/// Every setting, in the order in which `muster config show` prints them: those without a table first.
pub(super) const SETTINGS: &[Setting] = &[
    setting("data", Kind::Path, "./data", "where everything durable lives"),
    setting("rules", Kind::Path, "./rules", "folder of rule files (*.sql)"),
    setting("node", Kind::Text, "muster@127.0.0.1", "name of this node in events and in REST"),
    setting(
        "stop_timeout",
        Kind::Duration,
        "4s",
        "longest orderly stop; what is not done by then is done after the restart",
    ),
    setting(
        "mqtt.listen",
        Kind::AddressOrNone,
        "127.0.0.1:1883",
        "where devices connect; port 0 takes a free one; none: only by one of the following",
    ),
    setting(
        "mqtt.tls_listen",
        Kind::AddressOrNone,
        "none",
        "where devices connect by TLS, e.g. 0.0.0.0:8883",
    ),
    setting(
        "mqtt.ws_listen",
        Kind::AddressOrNone,
        "none",
        "where devices connect by WebSocket, e.g. 0.0.0.0:8083",
    ),
    setting(
        "mqtt.wss_listen",
        Kind::AddressOrNone,
        "none",
        "where devices connect by WebSocket over TLS, e.g. 0.0.0.0:8084",
    ),
    setting("mqtt.ws_path", Kind::UrlPath, "/mqtt", "the path of WebSockets; any other is answered with 404"),
    setting(
        "mqtt.tls_certificates",
        Kind::Path,
        "none",
        "file with our certificate and those up to its authority, in PEM; read again when it changes",
    ),
    setting(
        "mqtt.tls_key",
        Kind::Path,
        "none",
        "file with the key of the certificate, in PEM, without a password",
    ),
    setting(
        "mqtt.tls_client_ca",
        Kind::Path,
        "none",
        "file with the certificates of those who sign the certificates of devices, in PEM",
    ),
    setting(
        "mqtt.tls_client_certificates",
        Kind::ClientCertificates,
        "none",
        "whether devices are asked for a certificate by TLS: none, optional, required",
    ),
    setting(
        "mqtt.username_from_certificate",
        Kind::UsernameFrom,
        "none",
        "cn: the common name in a device's certificate is its user name, whatever it says itself; none: only what it \
         says counts",
    ),
    setting(
        "mqtt.proxy_protocol",
        Kind::Flag,
        "false",
        "true: every connection begins with a header of the PROXY protocol (version 1 or 2), as a load balancer sends \
         it; whoever sends none is not heard",
    ),
    setting(
        "mqtt.connect_timeout",
        Kind::Duration,
        "10s",
        "longest time from the connection to the whole CONNECT, TLS and WebSocket included",
    ),
    setting(
        "mqtt.handshakes_max",
        Kind::Count,
        "4096",
        "most connections whose CONNECT is not there yet; for a further one the oldest goes, of the address that has \
         the most",
    ),
    setting(
        "mqtt.handshakes_per_address_max",
        Kind::Count,
        "1024",
        "most of these from one address (of IPv6: from one /64); for a further one its oldest goes",
    ),
    setting("mqtt.connections_max", Kind::Count, "10000", "most connections at a time"),
    setting("mqtt.sessions_max", Kind::Count, "100000", "most sessions, with or without a connection"),
    setting("mqtt.packet_bytes_max", Kind::Size, "1MiB", "largest MQTT packet that is read"),
    setting(
        "mqtt.inflight_max",
        Kind::Count,
        "32",
        "most messages with QoS 1 and 2 that a client is sent and has not acknowledged, unless it asks for fewer; at \
         most 65535. More where one client takes a great deal from afar",
    ),
    setting(
        "mqtt.queue_messages_max",
        Kind::Count,
        "1000",
        "most messages that wait for a client, connected or not; beyond it the oldest is dropped and counted",
    ),
    setting(
        "mqtt.queue_bytes_max",
        Kind::Size,
        "16MiB",
        "most bytes of topics and payloads that wait for a client; beyond it the oldest message is dropped and counted",
    ),
    setting(
        "mqtt.allow_anonymous",
        Kind::AllowAnonymous,
        "auto",
        "whether devices that no authenticator knows are let in: true, false, or auto (only while devices can connect \
         from this machine alone and there is neither a user nor an authenticator)",
    ),
    setting(
        "http.listen",
        Kind::Address,
        "127.0.0.1:18083",
        "where REST and metrics are served; without an API key only requests of this machine are answered",
    ),
    setting(
        "http.tls_certificates",
        Kind::Path,
        "none",
        "file with our certificate and those up to its authority, in PEM; with it http.listen speaks HTTPS and nothing \
         else; read again when it changes",
    ),
    setting(
        "http.tls_key",
        Kind::Path,
        "none",
        "file with the key of the certificate, in PEM, without a password",
    ),
    setting("http.connections_max", Kind::Count, "1024", "most connections to REST at a time"),
    setting(
        "http.connections_per_address_max",
        Kind::Count,
        "256",
        "most connections of one address (of one /64 of IPv6); where there are more, the one that has waited longest \
         without a request is closed",
    ),
    setting("http.body_bytes_max", Kind::Size, "1MiB", "largest request body"),
    setting(
        "http.bulk_body_bytes_max",
        Kind::Size,
        "64MiB",
        "largest body of a request with many messages (/publish/bulk)",
    ),
    setting(
        "http.failures_max",
        Kind::Count,
        "20",
        "wrong keys, tokens and passwords that one address may show in a minute before REST answers 429; more where \
         many people share an address",
    ),
    setting(
        "http.header_timeout",
        Kind::Duration,
        "10s",
        "longest time for TLS to agree, and then for the head of a request to arrive",
    ),
    setting("http.idle_timeout", Kind::Duration, "60s", "longest time between two requests of a connection"),
    setting(
        "http.request_timeout",
        Kind::Duration,
        "10s",
        "longest time for one request, with the arrival of its body",
    ),
    setting(
        "journal.durability",
        Kind::Durability,
        "always",
        "when a publish is acknowledged: always (after fsync), interval(100ms), os",
    ),
    setting(
        "journal.gather",
        Kind::Duration,
        "1ms",
        "with journal.durability = always: while events wait for the disk, a sync begins up to so long after the last one \
         began, so that more of them share it; 0 for as soon as the disk is free, at most 100ms",
    ),
    setting(
        "journal.segment_bytes_max",
        Kind::Size,
        "64MiB",
        "size at which the event log starts a new file",
    ),
    setting(
        "journal.compress",
        Kind::Compress,
        "none",
        "zstd: files of the event log that are full are compressed in the background; none: they stay as they are. Both \
         are read in any case",
    ),
    setting(
        "journal.compress_level",
        Kind::CompressLevel,
        "3",
        "with journal.compress = zstd: how hard it tries, 1 (fast) to 19 (small)",
    ),
    setting(
        "journal.compress_after",
        Kind::Duration,
        "1m",
        "with journal.compress = zstd: how long a full file stays as it is, for those who read near the end",
    ),
    setting(
        "journal.queue_bytes_max",
        Kind::Size,
        "32MiB",
        "events waiting for the disk before sessions are slowed down",
    ),
    setting(
        "journal.heartbeat",
        Kind::Duration,
        "5s",
        "after so long without an event, one says that the node is alive: by so much, at most, the end of sessions that a \
         crash left open is told too early; at least 100ms",
    ),
    setting(
        "journal.retention_age",
        Kind::DurationOrNever,
        "never",
        "whole files of the event log whose newest event is older are removed once every rule and presence have passed \
         them, e.g. 30d; never keeps everything",
    ),
    setting(
        "journal.retention_bytes",
        Kind::SizeOrNever,
        "never",
        "the oldest files are removed while the event log is larger, once every rule and presence have passed them, \
         e.g. 50GiB; never keeps everything",
    ),
    setting(
        "journal.cap_bytes",
        Kind::SizeOrNever,
        "never",
        "the event log never grows beyond this, at least two segments: there the oldest files go that nobody needs, then see \
         when_full; never lets it grow until the disk is full",
    ),
    setting(
        "journal.when_full",
        Kind::WhenFull,
        "refuse",
        "at cap_bytes: refuse (publishes are not acknowledged until rules have moved on) or drop_oldest (the oldest \
         file goes, delivered or not)",
    ),
    setting(
        "delivery.retry_wait_max",
        Kind::Duration,
        "30s",
        "longest wait before a sink that failed is tried again",
    ),
];

/// The setting of this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The known key that is most like `key`, when one is like it at all.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let leaf = |key: &'static str| key.rsplit_once('.').map_or(key, |(_, leaf)| leaf);
    let by_distance = |setting: &&Setting| {
        // A key given without its table, or in the wrong one, is as near as its last part is.
        let typed_leaf = key.rsplit_once('.').map_or(key, |(_, leaf)| leaf);
        strsim::damerau_levenshtein(key, setting.key)
            .min(1 + strsim::damerau_levenshtein(typed_leaf, leaf(setting.key)))
    };
    let best = SETTINGS.iter().min_by_key(by_distance)?;
    (by_distance(&best) <= 1 + key.len() / 3).then_some(best.key)
}

/// The environment variable of a key: `mqtt.listen` is `MUSTER_MQTT__LISTEN`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// What every variable of ours begins with.
pub(super) const PREFIX: &str = "MUSTER_";

/// Variables that are no settings: read by the command line before there is a configuration.
pub(super) const VARIABLES_ASIDE: &[&str] =
    &["MUSTER_CONFIG", "MUSTER_LOG", "MUSTER_API_KEY", "MUSTER_API_SECRET"];

/// The key of an environment variable.
pub(super) fn key_of_variable(variable: &str) -> Option<String> {
    variable.strip_prefix(PREFIX).map(|rest| rest.replace("__", ".").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_valid_and_every_key_has_a_variable_of_its_own() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.kind.check(setting.default), Ok(()), "{}", setting.key);
            assert_eq!(key_of_variable(&variable(setting.key)).as_deref(), Some(setting.key));
            assert!(SETTINGS[..at].iter().all(|other| other.key != setting.key), "{} twice", setting.key);
            assert!(!VARIABLES_ASIDE.contains(&variable(setting.key).as_str()), "{}", setting.key);
        }
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_key() {
        for (typed, meant) in [
            ("mqtt.lisen", Some("mqtt.listen")),
            ("datta", Some("data")),
            ("segment_bytes_max", Some("journal.segment_bytes_max")),
            ("log.durability", Some("journal.durability")),
            ("quite.something_else", None),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }
}
