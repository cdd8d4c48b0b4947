//! The name in a client's certificate. The library has checked who signed it; here it is only read. It must never give
//! a name that two readers could understand differently.

use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Tag, Tagged as _, asn1::ObjectIdentifier};

/// Longest name that is taken (the standard allows 64).
const NAME_BYTES_MAX: usize = 256;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The common name of whom the certificate is for; none where it has none, several, or one that is no plain text.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let parts = certificate.tbs_certificate.subject.0.iter().flat_map(|it| it.0.iter());
    let mut names = parts.filter(|it| it.oid == COMMON_NAME);
    let (Some(name), None) = (names.next(), names.next()) else { return None };
    if !matches!(name.value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String) {
        return None;
    }
    let name = std::str::from_utf8(name.value.value()).ok()?;
    let is_plain = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
    is_plain.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn made(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "not this");
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_name_is_given_only_where_it_is_one_and_plain() {
        let long = "x".repeat(257);
        for (names, expected) in [
            (&["pump-7"][..], Some("pump-7")),
            (&["Grüße"], Some("Grüße")),
            (&[], None),
            (&["line\nbreak"], None),
            (&["nul\0"], None),
            (&[&long], None),
        ] {
            assert_eq!(common_name(&made(names)).as_deref(), expected, "{names:?}");
        }
        assert_eq!(common_name(b"no certificate"), None);
    }
}
