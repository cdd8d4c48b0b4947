//! TLS of the webhook sink: whom it trusts, and the certificate that it shows. The library is rustls; hosts' names
//! are always checked. It must never know a request.

use std::error::Error;
use std::io;
use std::path::Path;

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::AlertDescription as Alert;

use super::config::Tls;
use crate::error::SinkError;

/// `builder` with what the files say.
pub(super) async fn configured(mut builder: ClientBuilder, tls: &Tls) -> Result<ClientBuilder, SinkError> {
    if let Some(file) = &tls.ca_file {
        let authorities = Certificate::from_pem_bundle(&read("ca_file", file).await?).ok();
        let authorities = authorities.filter(|authorities| !authorities.is_empty());
        let authorities =
            authorities.ok_or_else(|| useless("ca_file", file, "holds no certificate in PEM"))?;
        builder = builder.tls_certs_only(authorities);
    }
    if let Some((cert, key)) = &tls.identity {
        let mut pem = read("cert_file", cert).await?;
        pem.push(b'\n');
        pem.extend(read("key_file", key).await?);
        let what = "and `key_file` hold no certificate and no key without a password, in PEM";
        let identity =
            Identity::from_pem(&pem).map_err(|error| useless("cert_file", cert, what).caused_by(error))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

async fn read(option: &str, file: &Path) -> Result<Vec<u8>, SinkError> {
    tokio::fs::read(file).await.map_err(|error| useless(option, file, "cannot be read").caused_by(error))
}

fn useless(option: &str, file: &Path, what: &str) -> SinkError {
    SinkError::misconfigured(format!("the `{option}` of the webhook, {}, {what}", file.display()))
}

/// What an operator can do where TLS fails for a reason that waiting does not mend; none where it is something else.
pub(super) fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match cause(error)? {
        rustls::Error::InvalidCertificate(_) => Some(
            "see that the receiver's certificate is valid for the host of `url`, and that `ca_file` signed it",
        ),
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::AccessDenied
            | Alert::HandshakeFailure,
        ) => Some("the receiver wants another certificate of us: see `cert_file` and `key_file`"),
        _ => None,
    }
}

/// What rustls says, somewhere among the causes. An error of input and output hides what it is made of.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}
