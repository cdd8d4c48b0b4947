//! Secrets that we draw ourselves. 256 random bits need no slow hash: there is nothing to guess, no dictionary to try,
//! so that one SHA-256 keeps a stolen file from opening anything, and each request from costing what a password costs.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;

use crate::error::{Error, ErrorKind};

/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// Random bytes of the public half of a key.
const ID_BYTES: usize = 12;

/// A secret in the open: shown once, never printed by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn draw() -> Result<Self, Error> {
        random::<SECRET_BYTES>().map(|bytes| Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The secret as text, for the one who is to have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.0)
    }

    /// What would be kept of `text`.
    pub fn digest_of(text: &str) -> Digest {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Digest(bytes)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The public half of a new key.
///
/// # Errors
/// The system has no randomness.
pub(super) fn id() -> Result<String, Error> {
    random::<ID_BYTES>().map(|bytes| hex(&bytes))
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Error::because(ErrorKind::Start, "the system has no randomness", error))?;
    Ok(bytes)
}

/// The SHA-256 of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest([u8; SHA256_OUTPUT_LEN]);

/// The digest of nothing that can be found.
pub(super) static NOBODY: Digest = Digest([0; SHA256_OUTPUT_LEN]);

impl Digest {
    /// Whether they are the same; takes as long whatever it finds.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The bytes, as a key of a table: who does not know the secret cannot steer them.
    pub(super) const fn bytes(&self) -> [u8; SHA256_OUTPUT_LEN] {
        self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom("no SHA-256 in hexadecimal digits"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    if text.len() != 2 * SHA256_OUTPUT_LEN || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_and_never_printed() {
        let secret = Secret::draw().expect("randomness");
        assert!(secret.reveal().len() >= 43, "32 bytes as text");
        assert_ne!(secret.reveal(), Secret::draw().expect("randomness").reveal());
        let stored = serde_json::to_string(&secret.digest()).expect("JSON");
        let back: Digest = serde_json::from_str(&stored).expect("a digest");
        assert!(back.is(&Secret::digest_of(secret.reveal())));
        assert!(!back.is(&Secret::digest_of("another")) && !back.is(&NOBODY));
        let printed = format!("{secret:?} {back:?}");
        assert!(!printed.contains(secret.reveal()) && !printed.contains(stored.trim_matches('"')));
        assert!(serde_json::from_str::<Digest>("\"abc\"").is_err());
    }
}
