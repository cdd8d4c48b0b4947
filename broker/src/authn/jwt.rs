//! JSON Web Tokens: whether one was signed by somebody we trust, and what it says. Signatures are checked by ring. A
//! token names its algorithm itself; it is believed only where that is one of the algorithms that the key is for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::{hmac, signature};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value};
use x509_cert::der::Decode as _;
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Object identifiers of key types.
const OID_RSA: &str = "1.2.840.113549.1.1.1";
const OID_EC: &str = "1.2.840.10045.2.1";

/// What is said of whom.
pub type Claims = Map<String, Value>;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of RFC 7518")]
pub enum JwtAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
}

impl JwtAlgorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            _ => return None,
        })
    }
}

/// What signatures are checked with.
#[derive(Clone)]
pub enum JwtKey {
    /// A shared secret.
    Secret(Vec<u8>),
    /// An RSA public key, as PKCS#1 has it.
    Rsa(Vec<u8>),
    /// A point of a curve: of P-256 with 65 bytes, of P-384 with 97.
    Ec(Vec<u8>),
}

/// The kind alone.
impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "JwtKey::Secret",
            Self::Rsa(_) => "JwtKey::Rsa",
            Self::Ec(_) => "JwtKey::Ec",
        })
    }
}

/// Why nothing is made of a token or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(&'static str);

impl JwtKey {
    /// A secret, or one that stands there in base64.
    ///
    /// # Errors
    /// It is empty, or no base64.
    pub fn from_secret(text: &str, is_base64: bool) -> Result<Self, Invalid> {
        let bytes = if is_base64 {
            let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text));
            decoded.map_err(|_| Invalid("the secret is no base64"))?
        } else {
            text.as_bytes().to_vec()
        };
        if bytes.is_empty() {
            return Err(Invalid("the secret is empty"));
        }
        Ok(Self::Secret(bytes))
    }

    /// A public key in PEM (`BEGIN PUBLIC KEY`).
    ///
    /// # Errors
    /// It is none, or of a type that is not known here.
    pub fn from_public_key_pem(pem: &str) -> Result<Self, Invalid> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| Invalid("this is no public key in PEM (BEGIN PUBLIC KEY)"))?;
        let info = SubjectPublicKeyInfoRef::from_der(&der);
        let info = info.map_err(|_| Invalid("this public key cannot be read"))?;
        let key =
            info.subject_public_key.as_bytes().ok_or(Invalid("this public key cannot be read"))?.to_vec();
        match (info.algorithm.oid.to_string().as_str(), key.len()) {
            (OID_RSA, _) => Ok(Self::Rsa(key)),
            (OID_EC, 65 | 97) => Ok(Self::Ec(key)),
            _ => Err(Invalid("this public key is neither RSA nor of the curves P-256 and P-384")),
        }
    }

    fn verify(&self, algorithm: JwtAlgorithm, message: &[u8], signed: &[u8]) -> bool {
        use JwtAlgorithm as It;
        let public = |how: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(how, key).verify(message, signed).is_ok()
        };
        let shared = |how, secret: &[u8]| hmac::verify(&hmac::Key::new(how, secret), message, signed).is_ok();
        match (self, algorithm) {
            (Self::Secret(secret), It::Hs256) => shared(hmac::HMAC_SHA256, secret),
            (Self::Secret(secret), It::Hs384) => shared(hmac::HMAC_SHA384, secret),
            (Self::Secret(secret), It::Hs512) => shared(hmac::HMAC_SHA512, secret),
            (Self::Rsa(key), It::Rs256) => public(&signature::RSA_PKCS1_2048_8192_SHA256, key),
            (Self::Rsa(key), It::Rs384) => public(&signature::RSA_PKCS1_2048_8192_SHA384, key),
            (Self::Rsa(key), It::Rs512) => public(&signature::RSA_PKCS1_2048_8192_SHA512, key),
            (Self::Rsa(key), It::Ps256) => public(&signature::RSA_PSS_2048_8192_SHA256, key),
            (Self::Rsa(key), It::Ps384) => public(&signature::RSA_PSS_2048_8192_SHA384, key),
            (Self::Rsa(key), It::Ps512) => public(&signature::RSA_PSS_2048_8192_SHA512, key),
            (Self::Ec(key), It::Es256) if key.len() == 65 => public(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Self::Ec(key), It::Es384) if key.len() == 97 => public(&signature::ECDSA_P384_SHA384_FIXED, key),
            _ => false,
        }
    }
}

/// A token with its parts apart, believed by nobody yet.
#[derive(Clone, Copy)]
pub struct Token<'a> {
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
    algorithm: JwtAlgorithm,
}

/// The algorithm alone.
impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl<'a> Token<'a> {
    /// Takes a text for a token, if it looks like one.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // What must be understood and is not known here.
        if header.contains_key("crit") {
            return None;
        }
        let algorithm = JwtAlgorithm::named(header.get("alg")?.as_str()?)?;
        Some(Self { signed, claims, signature, algorithm })
    }

    /// What the token says, where the key's owner has signed it. Times are not looked at.
    pub fn verified(&self, key: &JwtKey) -> Option<Claims> {
        let signature = URL_SAFE_NO_PAD.decode(self.signature).ok()?;
        if !key.verify(self.algorithm, self.signed.as_bytes(), &signature) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(self.claims).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with Python and OpenSSL: header `{"alg":"HS256","typ":"JWT"}`, claims `{"sub":"d1","exp":4102444800}`,
    /// secret `muster`.
    const HS256: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJkMSIsImV4cCI6NDEwMjQ0NDgwMH0.-GEBeDo-ZOXN9\
        PB60oaLio-cihu97JxM6epyDxXbo-8";
    const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJkMSIsImV4cCI6NDEwMjQ0NDgwMH0.sdmPH3XPpubxW\
        ZQsZoHfPaga9RIda-xvWi2vTOsyiYQf8klXhVgCxcduB4avqbdLUxGEMwsDpWqfHIH1fKGQ8xbO_BU7TBMFb6IY2rK\
        sWcyouV3rlO1uDkpcTOLBhcibNRDPyd5Cft0Snp4ywGMgP_qyZb_oFaNot8DEMmxfBkhy5AY2Bo8SfP2XmTuNox2Vf\
        mLPPvCLUnlOcB_zdMjCvok_Tw410I7VPDrr0MetEDA_tWIlqKT2AliVSH98thIybIovBUQ1UbxcWi1cBKOBpxlVf95\
        cS9IxItBoBJzZ8P3n--S1_HG3CsKK4AAHPc8urmka6-4LbBaBMQOcSRBkMQ";
    const ES256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJkMSIsImV4cCI6NDEwMjQ0NDgwMH0.8QiaCDnTFqv3t\
        8mSkpUAds8x4ArOZSBZdS1WNKT8quUXWZ5R3RTJxV3-00L20xkG9fX48JOKNsyBMVyj_Nu9vg";
    const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1raDTDQzYjq4PxQcRGPf\n\
        kjkWVvMv0Atz/fCRfxRjS6gkSj1aLkalxriQzGYlvV4Rzx2PTW3CGoeOvUE5ClFz\n\
        nRJ+kC9J/oX3riEjB7/hJAOKUuBt9aztoAFrvvEaevWuxxQMSn66xkHa0QVpkwcR\n\
        PGrUoKoHPXSNOwmaHIfXSh6qxK5CP48Gj53b0syUqqNVAssXRejHTTWdB2w4ALCa\n\
        5gaP+SBk9vWmchx1hogktjiun/M9MLtUrnN6q1i/dXT2igxxPivzZbJaW7ud2UrS\n\
        FfpsuvDIuZpBBZEsUjQKWsPjovU1nE1tzgl7ZOBHzuJIJPO7QKmPyWC4tVhPMksl\n\
        fwIDAQAB\n\
        -----END PUBLIC KEY-----";
    const EC_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQuzgn+bmOegkYf0ePYc7rakkrWUu\n\
        RTmGaV6mxQtee1aWFHURzYshWLHGG1IfHlgVHBEjHEjSzqAr0qNHJf9Ekg==\n\
        -----END PUBLIC KEY-----";

    #[test]
    fn signatures_of_foreign_tools() {
        let secret = JwtKey::from_secret("muster", false).expect("a secret");
        let rsa = JwtKey::from_public_key_pem(RSA_PEM).expect("a key");
        let ec = JwtKey::from_public_key_pem(EC_PEM).expect("a key");
        let keys = [&secret, &rsa, &ec];
        for (at, token) in [HS256, RS256, ES256].into_iter().enumerate() {
            let parsed = Token::parse(token).expect("a token");
            for (other, key) in keys.iter().enumerate() {
                let claims = parsed.verified(key);
                assert_eq!(claims.is_some(), at == other, "token {at} with key {other}");
                assert_eq!(claims.map(|it| it["sub"].clone()), (at == other).then(|| "d1".into()));
            }
            let (signed, _) = token.rsplit_once('.').expect("three parts");
            assert!(Token::parse(&format!("{signed}.")).expect("a token").verified(keys[at]).is_none());
            let forged = token.replacen('.', ".e30", 1);
            assert!(Token::parse(&forged).is_none_or(|it| it.verified(keys[at]).is_none()));
        }
        assert_eq!(format!("{secret:?}"), "JwtKey::Secret");
    }

    #[test]
    fn no_algorithm_is_no_signature_and_a_public_key_is_no_secret() {
        // {"alg":"none"}
        assert!(Token::parse("eyJhbGciOiJub25lIn0.e30.").is_none());
        // A token by HMAC whose secret is the public key's text: the oldest trick there is.
        let rsa = JwtKey::from_public_key_pem(RSA_PEM).expect("a key");
        let head = "eyJhbGciOiJIUzI1NiJ9.e30";
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, RSA_PEM.as_bytes()), head.as_bytes());
        let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert!(Token::parse(&forged).expect("a token").verified(&rsa).is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_a_token_by_accident(text in ".{0,80}") {
            let key = JwtKey::Secret(b"muster".to_vec());
            prop_assert!(Token::parse(&text).is_none_or(|it| it.verified(&key).is_none()));
        }
    }
}
