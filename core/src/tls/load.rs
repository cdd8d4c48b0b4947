//! From the bytes of the files to what rustls serves. It must never put a byte of the key into an error.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;

use super::{ClientCertificates, Current, TlsError, TlsFiles};

/// A file larger than this is no certificate.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the files hold.
pub(super) struct Contents {
    certificates: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { certificates: read(&files.certificates)?, key: read(&files.key)?, client_ca })
    }

    /// Equal only for equal files.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let client_ca = self.client_ca.as_deref().unwrap_or_default();
        for part in [&self.certificates[..], &self.key[..], client_ca] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    pub(super) fn into_current(self, files: &TlsFiles, alpn: &[Vec<u8>]) -> Result<Current, TlsError> {
        let digest = self.digest();
        let chain = certificates(&files.certificates, &self.certificates)?;
        let expires_at_ms = expires_at_ms(&files.certificates, &chain)?;
        // What the library says of a key that it cannot read may quote a line of the file.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            error(
                &files.key,
                "holds no private key in PEM",
                "it begins with BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY, and has no password",
            )
        })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| {
                because(&files.certificates, "cannot be served by TLS", "report this", source)
            })?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match files.client_certificates {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Required => verifier,
                };
                let verifier = verifier.build().map_err(|source| {
                    let what = "holds no certificate that can sign those of clients";
                    because(path, what, "give the certificate of the authority", source)
                })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|source| {
            let what = "and the key do not fit together";
            because(
                &files.certificates,
                what,
                "the key must be that of the first certificate in the file",
                source,
            )
        })?;
        config.alpn_protocols = alpn.to_vec();
        Ok(Current { config: Arc::new(config), digest, expires_at_ms })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| {
        because(
            path,
            "cannot be read",
            "it must be there and the user that runs muster must be able to read it",
            source,
        )
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(error(path, "is larger than 1 MiB", "give a file with a few certificates, or one key"));
    }
    std::fs::read(path).map_err(unreadable)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    // The library's words could quote a key that stands in the same file.
    let found = read.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| {
        error(path, "holds no certificate in PEM, or a broken one", "each begins with BEGIN CERTIFICATE")
    })
}

fn expires_at_ms(path: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let first = chain.first().and_then(|first| x509_cert::Certificate::from_der(first).ok());
    let first = first.ok_or_else(|| {
        error(path, "does not begin with an X.509 certificate", "make it anew; the first must be our own")
    })?;
    let end = first.tbs_certificate.validity.not_after.to_unix_duration();
    Ok(i64::try_from(end.as_millis()).unwrap_or(i64::MAX))
}

fn error(path: &Path, what: &'static str, hint: &'static str) -> TlsError {
    TlsError { path: path.to_owned(), what, hint, source: None }
}

fn because(
    path: &Path,
    what: &'static str,
    hint: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> TlsError {
    TlsError { source: Some(Box::new(source)), ..error(path, what, hint) }
}
