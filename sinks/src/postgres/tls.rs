//! TLS as libpq means it: `require` asks for a secret line and trusts whoever answers, `verify-ca` asks who signed,
//! `verify-full` also who it is. It must never trust more than the option says.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::{Server, Tls};
use crate::error::SinkError;

/// Reads the certificates that `server` names.
pub(super) fn connector(server: &Server) -> Result<MakeRustlsConnect, SinkError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| SinkError::misconfigured("TLS cannot be set up").caused_by(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(server, provider)?);
    let config = match &server.own {
        None => builder.with_no_client_auth(),
        Some((certs, key)) => {
            let chain = certificates("sslcert", certs)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                SinkError::misconfigured("`sslcert` and `sslkey` do not fit").caused_by(error)
            })?
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn verifier(
    server: &Server,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, SinkError> {
    let by = |root: &Path| {
        let roots = Arc::new(roots(root)?);
        WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|error| {
            SinkError::misconfigured("`sslrootcert` holds no certificate that can be used").caused_by(error)
        })
    };
    Ok(match (server.tls, &server.root) {
        (Tls::VerifyFull, Some(root)) => by(root)?,
        // As libpq: with a root at hand, `require` verifies who signed.
        (Tls::VerifyCa | Tls::Require, Some(root)) => Arc::new(AnyName(by(root)?)),
        // The options were checked: without a root, nothing is to be verified.
        _ => Arc::new(Anybody(provider)),
    })
}

fn roots(path: &Path) -> Result<RootCertStore, SinkError> {
    let mut store = RootCertStore::empty();
    let found = if path == Path::new("system") {
        rustls_native_certs::load_native_certs().certs
    } else {
        certificates("sslrootcert", path)?
    };
    store.add_parsable_certificates(found);
    if store.is_empty() {
        let message = format!("`sslrootcert` ({}) holds no certificate that can be used", path.display());
        return Err(SinkError::misconfigured(message));
    }
    Ok(store)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => {
            Err(SinkError::misconfigured(format!("`{option}` ({}) holds no certificate", path.display())))
        }
        Err(error) => Err(unreadable(option, path, error)),
    }
}

fn unreadable(option: &str, path: &Path, error: rustls::pki_types::pem::Error) -> SinkError {
    SinkError::misconfigured(format!("`{option}` ({}) cannot be read as PEM", path.display()))
        .caused_by(error)
        .with_hint("let the user that runs Muster read the file")
}

/// Verifies who signed, not the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, after the chain was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes any certificate, as long as who shows it has its key: what `prefer` and `require` mean in libpq.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
