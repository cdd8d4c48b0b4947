//! Which server a command believes to be the right one. It must never know what it is asked.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::error::{Error, ErrorKind};

/// Largest file of certificates.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The certificates of authorities in a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub(super) fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let found = reqwest::Certificate::from_pem_bundle(&read(path)?);
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| no_certificate(path))
}

/// Believes the server of this machine alone: the one that shows the first certificate of this file, whatever name
/// stands in it and whoever signed it. The file was named by the server, where only its owner can write.
///
/// # Errors
/// It cannot be read, or holds none.
pub(super) fn exactly(path: &Path) -> Result<ClientConfig, Error> {
    let certificate = CertificateDer::from_pem_slice(&read(path)?).map_err(|_| no_certificate(path))?;
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder =
        builder.map_err(|error| Error::because(ErrorKind::Start, "cannot set up a client of TLS", error))?;
    let exactly = Arc::new(Exactly { certificate, algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(exactly).with_no_client_auth())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::because(ErrorKind::Config, format!("cannot read certificates in {}", path.display()), error)
    })?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(no_certificate(path));
    }
    Ok(bytes)
}

fn no_certificate(path: &Path) -> Error {
    let message = format!("{} holds no certificate in PEM", path.display());
    Error::new(ErrorKind::Config, message)
}

/// One certificate and no other; that the server has its key is checked as ever.
#[derive(Debug)]
struct Exactly {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
