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
const OID_ED25519: &str = "1.3.101.112";
/// Bytes of an Ed25519 public key.
const ED25519_BYTES: usize = 32;

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
    EdDsa,
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
            "EdDSA" => Self::EdDsa,
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
    /// An RSA public key as modulus and exponent, big endian.
    RsaParts(Vec<u8>, Vec<u8>),
    /// A point of a curve: of P-256 with 65 bytes, of P-384 with 97.
    Ec(Vec<u8>),
    /// An Ed25519 public key.
    Ed25519(Vec<u8>),
}

/// The kind alone.
impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "JwtKey::Secret",
            Self::Rsa(_) | Self::RsaParts(..) => "JwtKey::Rsa",
            Self::Ec(_) => "JwtKey::Ec",
            Self::Ed25519(_) => "JwtKey::Ed25519",
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
            (OID_ED25519, ED25519_BYTES) => Ok(Self::Ed25519(key)),
            _ => Err(Invalid("this public key is neither RSA nor of the curves P-256, P-384 and Ed25519")),
        }
    }

    /// A public key as a JSON Web Key (RFC 7517).
    ///
    /// # Errors
    /// It is none for signatures, or of a type that is not known here. A secret is no public key.
    pub fn from_jwk(jwk: &Claims) -> Result<Self, Invalid> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| {
            let decoded = text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            decoded.filter(|it| !it.is_empty()).ok_or(Invalid("a part of the key is missing or no base64"))
        };
        if text("use").is_some_and(|it| it != "sig") {
            return Err(Invalid("this key is not for signatures"));
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != length || y.len() != length {
                return Err(Invalid("a coordinate has not the curve's length"));
            }
            // A point that is not compressed (SEC 1, 2.3.3).
            Ok(Self::Ec([vec![4], x, y].concat()))
        };
        match (text("kty"), text("crv")) {
            (Some("RSA"), _) => Ok(Self::RsaParts(bytes("n")?, bytes("e")?)),
            (Some("EC"), Some("P-256")) => point(32),
            (Some("EC"), Some("P-384")) => point(48),
            (Some("OKP"), Some("Ed25519")) => match bytes("x")? {
                key if key.len() == ED25519_BYTES => Ok(Self::Ed25519(key)),
                _ => Err(Invalid("a coordinate has not the curve's length")),
            },
            _ => Err(Invalid("this key is neither RSA nor of the curves P-256, P-384 and Ed25519")),
        }
    }

    fn verify(&self, algorithm: JwtAlgorithm, message: &[u8], signed: &[u8]) -> bool {
        use JwtAlgorithm as It;
        let public = |how: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(how, key).verify(message, signed).is_ok()
        };
        let parts = |how: &'static signature::RsaParameters, n: &[u8], e: &[u8]| {
            signature::RsaPublicKeyComponents { n, e }.verify(how, message, signed).is_ok()
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
            (Self::RsaParts(n, e), It::Rs256) => parts(&signature::RSA_PKCS1_2048_8192_SHA256, n, e),
            (Self::RsaParts(n, e), It::Rs384) => parts(&signature::RSA_PKCS1_2048_8192_SHA384, n, e),
            (Self::RsaParts(n, e), It::Rs512) => parts(&signature::RSA_PKCS1_2048_8192_SHA512, n, e),
            (Self::RsaParts(n, e), It::Ps256) => parts(&signature::RSA_PSS_2048_8192_SHA256, n, e),
            (Self::RsaParts(n, e), It::Ps384) => parts(&signature::RSA_PSS_2048_8192_SHA384, n, e),
            (Self::RsaParts(n, e), It::Ps512) => parts(&signature::RSA_PSS_2048_8192_SHA512, n, e),
            (Self::Ed25519(key), It::EdDsa) => public(&signature::ED25519, key),
            (Self::Ec(key), It::Es256) if key.len() == 65 => public(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Self::Ec(key), It::Es384) if key.len() == 97 => public(&signature::ECDSA_P384_SHA384_FIXED, key),
            _ => false,
        }
    }
}

/// A token with its parts apart, believed by nobody yet.
#[derive(Clone)]
pub struct Token<'a> {
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
    algorithm: JwtAlgorithm,
    key_id: Option<String>,
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
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Some(Self { signed, claims, signature, algorithm, key_id })
    }

    /// Which of its owner's keys has signed it, as the token says.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
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

    const EDDSA: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJkMSIsImV4cCI6NDEwMjQ0NDgwMH0.6jp6IcmNKBXOO\
        xZgMk0ODinj4VePfgjOvQ4Popb8G4TsufMsgyVM7GsPrukGYLBtIsHX9zfVUz43LJbPwNOyBw";
    const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA3T8nCbiGm8t2mVi0iPyg7eFgjRCwtyrwmxtkGYwZYng=\n\
        -----END PUBLIC KEY-----";

    /// The same public keys as JSON Web Keys.
    #[test]
    fn keys_in_json() {
        let RsaAndEc { modulus, x, y } = parts_of_the_keys();
        let jwk = |value: Value| JwtKey::from_jwk(value.as_object().expect("an object"));
        let ed = "3T8nCbiGm8t2mVi0iPyg7eFgjRCwtyrwmxtkGYwZYng";
        for (token, key) in [
            (RS256, serde_json::json!({"kty": "RSA", "n": modulus, "e": "AQAB", "use": "sig"})),
            (ES256, serde_json::json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})),
            (EDDSA, serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": ed})),
        ] {
            let key = jwk(key).expect("a key");
            for other in [RS256, ES256, EDDSA, HS256] {
                let is_signed = Token::parse(other).expect("a token").verified(&key).is_some();
                assert_eq!(is_signed, token == other, "{key:?}");
            }
        }
        for wrong in [
            serde_json::json!({}),
            serde_json::json!({"kty": "oct", "k": "bXVzdGVy"}),
            serde_json::json!({"kty": "RSA", "n": modulus, "e": "AQAB", "use": "enc"}),
            serde_json::json!({"kty": "RSA", "n": modulus}),
            serde_json::json!({"kty": "EC", "crv": "P-256", "x": x, "y": "AQAB"}),
            serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
            serde_json::json!({"kty": "EC", "crv": "secp256k1", "x": x, "y": y}),
        ] {
            assert!(jwk(wrong.clone()).is_err(), "{wrong}");
        }
    }

    struct RsaAndEc {
        modulus: String,
        x: String,
        y: String,
    }

    fn parts_of_the_keys() -> RsaAndEc {
        let Ok(JwtKey::Rsa(rsa)) = JwtKey::from_public_key_pem(RSA_PEM) else { panic!("a key") };
        let Ok(JwtKey::Ec(ec)) = JwtKey::from_public_key_pem(EC_PEM) else { panic!("a key") };
        // SEQUENCE, INTEGER (257 bytes with a zero before), INTEGER 65537: 9 and 5 bytes around the modulus.
        let modulus = URL_SAFE_NO_PAD.encode(&rsa[9..rsa.len() - 5]);
        RsaAndEc { modulus, x: URL_SAFE_NO_PAD.encode(&ec[1..33]), y: URL_SAFE_NO_PAD.encode(&ec[33..]) }
    }

    #[test]
    fn signatures_of_foreign_tools() {
        let secret = JwtKey::from_secret("muster", false).expect("a secret");
        let rsa = JwtKey::from_public_key_pem(RSA_PEM).expect("a key");
        let ec = JwtKey::from_public_key_pem(EC_PEM).expect("a key");
        let ed = JwtKey::from_public_key_pem(ED_PEM).expect("a key");
        let keys = [&secret, &rsa, &ec, &ed];
        for (at, token) in [HS256, RS256, ES256, EDDSA].into_iter().enumerate() {
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
