//! How devices reach us, out of the settings `mqtt.*`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_core::tls::{ClientCertificates, TlsFiles};

use super::{AllowAnonymous, Layers, config_error};
use crate::error::Error;

/// How devices reach us.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// Where MQTT is spoken.
    pub listen: Option<SocketAddr>,
    /// Where it is spoken over TLS.
    pub tls_listen: Option<SocketAddr>,
    /// Where it is spoken over WebSockets.
    pub ws_listen: Option<SocketAddr>,
    /// Where it is spoken over WebSockets over TLS.
    pub wss_listen: Option<SocketAddr>,
    /// The path of WebSockets.
    pub ws_path: String,
    /// Certificate and key; there where one of the listeners needs them.
    pub tls: Option<TlsFiles>,
    /// The common name in a device's certificate is its user name.
    pub username_from_certificate: bool,
    /// A load balancer in front says who the devices are.
    pub proxy_protocol: bool,
    /// From the TCP connection to the whole CONNECT.
    pub connect_timeout: Duration,
    /// Connections whose CONNECT is not there yet.
    pub handshakes_max: usize,
    /// Of these, those from one address.
    pub handshakes_per_address_max: usize,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most sessions, with or without a connection.
    pub sessions_max: usize,
    /// Largest packet that is read.
    pub packet_bytes_max: usize,
    /// Most messages that a client is sent and has not acknowledged.
    pub inflight_max: u16,
    /// Most messages that wait for a client.
    pub queue_messages_max: usize,
    /// Most bytes of topics and payloads that wait for a client.
    pub queue_bytes_max: usize,
    /// Whether clients that nobody knows are let in.
    pub allow_anonymous: AllowAnonymous,
}

impl Mqtt {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, Error> {
        let mqtt = Self {
            listen: layers.address_or_none("mqtt.listen")?,
            tls_listen: layers.address_or_none("mqtt.tls_listen")?,
            ws_listen: layers.address_or_none("mqtt.ws_listen")?,
            wss_listen: layers.address_or_none("mqtt.wss_listen")?,
            ws_path: layers.text("mqtt.ws_path")?.to_owned(),
            tls: tls(layers)?,
            username_from_certificate: layers.text("mqtt.username_from_certificate")? == "cn",
            proxy_protocol: layers.text("mqtt.proxy_protocol")? == "true",
            connect_timeout: layers.duration("mqtt.connect_timeout")?,
            handshakes_max: layers.count("mqtt.handshakes_max")?,
            handshakes_per_address_max: layers.count("mqtt.handshakes_per_address_max")?,
            connections_max: layers.count("mqtt.connections_max")?,
            sessions_max: layers.count("mqtt.sessions_max")?,
            packet_bytes_max: layers.bytes("mqtt.packet_bytes_max")?,
            inflight_max: u16::try_from(layers.count("mqtt.inflight_max")?).map_err(|_| {
                layers.wrong("mqtt.inflight_max", "is more than MQTT has identifiers for: 65535")
            })?,
            queue_messages_max: layers.count("mqtt.queue_messages_max")?,
            queue_bytes_max: layers.bytes("mqtt.queue_bytes_max")?,
            allow_anonymous: AllowAnonymous::parse(layers.text("mqtt.allow_anonymous")?)
                .map_err(|why| layers.wrong("mqtt.allow_anonymous", &why))?,
        };
        mqtt.check(layers)?;
        Ok(mqtt)
    }

    /// All addresses that devices can connect to.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        [self.listen, self.tls_listen, self.ws_listen, self.wss_listen].into_iter().flatten()
    }

    /// Whether devices can come from this machine alone.
    pub fn is_loopback(&self) -> bool {
        // What a load balancer passes on may come from anywhere.
        !self.proxy_protocol && self.addresses().all(|address| address.ip().is_loopback())
    }

    fn check(&self, layers: &Layers) -> Result<(), Error> {
        if self.addresses().next().is_none() {
            return Err(layers.wrong("mqtt.listen", "no device could connect: there is no other listener"));
        }
        for (key, address) in [("mqtt.tls_listen", self.tls_listen), ("mqtt.wss_listen", self.wss_listen)] {
            if address.is_some() && self.tls.is_none() {
                return Err(layers.wrong(key, "needs mqtt.tls_certificates and mqtt.tls_key"));
            }
        }
        let asks = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.username_from_certificate && !asks {
            let why =
                "needs mqtt.tls_client_certificates = optional or required, or no device shows a certificate";
            return Err(layers.wrong("mqtt.username_from_certificate", why));
        }
        Ok(())
    }
}

fn tls(layers: &Layers) -> Result<Option<TlsFiles>, Error> {
    let path = |key| layers.text(key).map(|text| (text != NONE).then(|| PathBuf::from(text)));
    let client_ca = path("mqtt.tls_client_ca")?;
    let asked = layers.text("mqtt.tls_client_certificates")?;
    if client_ca.is_some() != (asked != NONE) {
        return Err(layers.wrong(
            "mqtt.tls_client_certificates",
            "goes with mqtt.tls_client_ca: either both are none, or both are given",
        ));
    }
    let client_certificates =
        if asked == "required" { ClientCertificates::Required } else { ClientCertificates::Optional };
    match (path("mqtt.tls_certificates")?, path("mqtt.tls_key")?) {
        (Some(certificates), Some(key)) => {
            Ok(Some(TlsFiles { certificates, key, client_ca, client_certificates }))
        }
        (None, None) if client_ca.is_none() => Ok(None),
        _ => Err(config_error(
            "`mqtt.tls_certificates` and `mqtt.tls_key` go together; one of them is missing",
        )),
    }
}

/// What is written where there is nothing.
pub(super) const NONE: &str = "none";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn read(text: &str) -> Result<Mqtt, String> {
        let mut layers = Layers::default();
        layers
            .add_toml(Path::new("m.toml"), &format!("[mqtt]\n{text}"))
            .and_then(|()| Config::from_layers(&layers))
            .map(|config| config.mqtt)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn listeners_that_cannot_be_are_refused_with_what_is_missing() {
        for (text, want) in [
            ("listen = 'none'", "no device could connect"),
            ("inflight_max = 65536", "more than MQTT has identifiers for"),
            ("queue_messages_max = 0", "no whole number above 0"),
            ("tls_listen = '127.0.0.1:8883'", "needs mqtt.tls_certificates and mqtt.tls_key"),
            ("tls_certificates = 'c.pem'", "go together"),
            ("tls_client_certificates = 'required'", "goes with mqtt.tls_client_ca"),
            ("tls_client_ca = 'ca.pem'", "goes with mqtt.tls_client_ca"),
            ("username_from_certificate = 'cn'", "needs mqtt.tls_client_certificates"),
            ("username_from_certificate = 'dn'", "is none of none, cn"),
            ("ws_path = 'mqtt'", "begins with /"),
            ("proxy_protocol = 'v2'", "is none of false, true"),
            ("ws_listen = 'yes'", "or none"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn devices_come_from_this_machine_alone_only_where_every_listener_says_so() {
        for (text, is_loopback) in [
            ("", true),
            ("ws_listen = '127.0.0.1:8083'", true),
            ("ws_listen = '0.0.0.0:8083'", false),
            ("listen = '[::]:1883'", false),
            ("proxy_protocol = true", false),
            ("listen = 'none'\ntls_listen = '[::1]:8883'\ntls_certificates = 'c'\ntls_key = 'k'", true),
        ] {
            assert_eq!(read(text).expect(text).is_loopback(), is_loopback, "{text}");
        }
    }
}
