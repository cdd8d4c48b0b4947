//! The settings of REST's listener: where, by which certificate, and how much of whom. It must never know what is asked
//! there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_core::tls::{ClientCertificates, TlsFiles};

use super::Layers;
use super::mqtt::NONE;
use crate::error::Error;

/// How operators reach us.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where REST and metrics are served.
    pub listen: SocketAddr,
    /// By which certificate; none speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most of them of one address.
    pub connections_per_address_max: usize,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Largest body of a request with many messages.
    pub bulk_body_bytes_max: usize,
    /// Wrong keys, tokens and passwords that one address may show in a minute.
    pub failures_max: usize,
    /// Longest time for TLS to agree, and then for the head of a request.
    pub header_timeout: Duration,
    /// Longest time between two requests of a connection.
    pub idle_timeout: Duration,
    /// Longest time for one request.
    pub request_timeout: Duration,
}

impl Http {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, Error> {
        Ok(Self {
            listen: layers.address("http.listen")?,
            tls: tls(layers)?,
            connections_max: layers.count("http.connections_max")?,
            connections_per_address_max: layers.count("http.connections_per_address_max")?,
            body_bytes_max: layers.bytes("http.body_bytes_max")?,
            bulk_body_bytes_max: layers.bytes("http.bulk_body_bytes_max")?,
            failures_max: layers.count("http.failures_max")?,
            header_timeout: layers.duration("http.header_timeout")?,
            idle_timeout: layers.duration("http.idle_timeout")?,
            request_timeout: layers.duration("http.request_timeout")?,
        })
    }
}

/// Certificate and key belong together.
fn tls(layers: &Layers) -> Result<Option<TlsFiles>, Error> {
    let file = |key| layers.text(key).map(|path| (path != NONE).then(|| PathBuf::from(path)));
    match (file("http.tls_certificates")?, file("http.tls_key")?) {
        (Some(certificates), Some(key)) => Ok(Some(TlsFiles {
            certificates,
            key,
            client_ca: None,
            client_certificates: ClientCertificates::Optional,
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(layers.wrong("http.tls_certificates", "needs http.tls_key beside it")),
        (None, Some(_)) => Err(layers.wrong("http.tls_key", "needs http.tls_certificates beside it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(certificates: &str, key: &str) -> Result<Http, Error> {
        let mut layers = Layers::default();
        layers.add_flag("--set", "http.tls_certificates", certificates.to_owned())?;
        layers.add_flag("--set", "http.tls_key", key.to_owned())?;
        Http::from_layers(&layers)
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert_eq!(read("none", "none").unwrap().tls, None);
        let files = read("c.pem", "k.pem").unwrap().tls.unwrap();
        assert_eq!((files.certificates, files.key), ("c.pem".into(), "k.pem".into()));
        for (certificates, key, missing) in
            [("c.pem", "none", "tls_key"), ("none", "k.pem", "tls_certificates")]
        {
            let refused = read(certificates, key).unwrap_err().to_string();
            assert!(refused.contains(&format!("needs http.{missing}")), "{refused}");
        }
    }
}
