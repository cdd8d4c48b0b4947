//! Passwords as they are kept: the hashes that EMQX v5 knows, and argon2id. A password that is set is hashed as the
//! settings say; one that is checked, as its own row says, so that a change of the settings locks nobody out. Nothing
//! here is quick on purpose: see [`super::HashPool`] for where it may run.

use std::fmt;

use argon2::{Argon2, Params};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

/// Random bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// Longest password that is looked at.
const PASSWORD_BYTES_MAX: usize = 4096;
const BCRYPT_COST_DEFAULT: u32 = 10;
const BCRYPT_COST_MAX: u32 = 15;
const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;
const PBKDF2_KEY_BYTES_DEFAULT: usize = 32;
const PBKDF2_KEY_BYTES_MAX: usize = 1024;
/// What OWASP asks of argon2id: 19 MiB, two passes, one lane.
const ARGON2_MEMORY_KIB: u32 = 19_456;
const ARGON2_PASSES: u32 = 2;
const ARGON2_LANES: u32 = 1;
/// The most that a hash made elsewhere may ask of us.
const ARGON2_MEMORY_KIB_MAX: u32 = 262_144;
const ARGON2_PASSES_MAX: u32 = 64;
const ARGON2_LANES_MAX: u32 = 16;
const ARGON2_HASH_BYTES: usize = 32;
const ARGON2_HASH_BYTES_MAX: usize = 64;

/// Where the salt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaltPosition {
    /// Before the password.
    #[default]
    Prefix,
    /// Behind the password.
    Suffix,
    /// Nowhere.
    Disable,
}

/// The hash in PBKDF2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of hashes")]
pub enum MacFunction {
    Sha,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// How a password is hashed, as it stands in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Algorithm {
    /// Not at all.
    Plain {
        /// Means nothing here; clients write it.
        #[serde(default = "disabled")]
        salt_position: SaltPosition,
    },
    /// MD5, in hexadecimal digits as the three below.
    Md5 {
        /// Where the salt stands.
        #[serde(default)]
        salt_position: SaltPosition,
    },
    /// SHA-1.
    Sha {
        /// Where the salt stands.
        #[serde(default)]
        salt_position: SaltPosition,
    },
    /// SHA-256.
    Sha256 {
        /// Where the salt stands.
        #[serde(default)]
        salt_position: SaltPosition,
    },
    /// SHA-512.
    Sha512 {
        /// Where the salt stands.
        #[serde(default)]
        salt_position: SaltPosition,
    },
    /// bcrypt.
    Bcrypt {
        /// The cost.
        #[serde(default = "bcrypt_cost")]
        salt_rounds: u32,
    },
    /// PBKDF2, in hexadecimal digits.
    Pbkdf2 {
        /// The hash in it.
        mac_fun: MacFunction,
        /// How often.
        iterations: u32,
        /// Bytes of the result.
        #[serde(default = "key_bytes")]
        dk_length: usize,
    },
    /// Argon2id, as a PHC string.
    Argon2id {},
}

const fn disabled() -> SaltPosition {
    SaltPosition::Disable
}

const fn bcrypt_cost() -> u32 {
    BCRYPT_COST_DEFAULT
}

const fn key_bytes() -> usize {
    PBKDF2_KEY_BYTES_DEFAULT
}

/// What is wrong with a hash or a wish for one. Names no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HashError(&'static str);

impl Algorithm {
    /// Whether its numbers can be used.
    ///
    /// # Errors
    /// Which number is out of its range.
    pub fn check(&self) -> Result<(), HashError> {
        match self {
            Self::Bcrypt { salt_rounds } if !(4..=BCRYPT_COST_MAX).contains(salt_rounds) => {
                Err(HashError("salt_rounds is from 4 to 15"))
            }
            Self::Pbkdf2 { iterations, .. } if !(1..=PBKDF2_ITERATIONS_MAX).contains(iterations) => {
                Err(HashError("iterations is from 1 to 10000000"))
            }
            Self::Pbkdf2 { dk_length, .. } if !(1..=PBKDF2_KEY_BYTES_MAX).contains(dk_length) => {
                Err(HashError("dk_length is from 1 to 1024"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a check takes so long that it may not run where sessions do.
    pub const fn is_slow(&self) -> bool {
        matches!(self, Self::Bcrypt { .. } | Self::Pbkdf2 { .. } | Self::Argon2id {})
    }

    /// Hashes a password. `salt` is fresh randomness.
    ///
    /// # Errors
    /// The password is too long.
    pub fn hash(&self, password: &[u8], salt: [u8; SALT_BYTES]) -> Result<Hashed, HashError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(HashError("the password is longer than 4096 bytes"));
        }
        let text = hex(&salt);
        let (hash, salt) = match self {
            Self::Plain { .. } => {
                let password =
                    std::str::from_utf8(password).map_err(|_| HashError("the password is no text"))?;
                (password.to_owned(), String::new())
            }
            Self::Md5 { salt_position } => salted::<Md5>(*salt_position, password, text),
            Self::Sha { salt_position } => salted::<Sha1>(*salt_position, password, text),
            Self::Sha256 { salt_position } => salted::<Sha256>(*salt_position, password, text),
            Self::Sha512 { salt_position } => salted::<Sha512>(*salt_position, password, text),
            Self::Bcrypt { salt_rounds } => {
                let parts = bcrypt::hash_with_salt(password, *salt_rounds, salt);
                let parts = parts.map_err(|_| HashError("the password cannot be hashed by bcrypt"))?;
                (parts.to_string(), String::new())
            }
            Self::Pbkdf2 { mac_fun, iterations, dk_length } => {
                (hex(&derive(*mac_fun, *iterations, *dk_length, password, text.as_bytes())), text)
            }
            Self::Argon2id {} => (Phc::make(password, salt)?, String::new()),
        };
        Ok(Hashed { algorithm: self.clone(), hash, salt })
    }
}

/// A hash as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    algorithm: Algorithm,
    hash: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    salt: String,
}

/// The algorithm alone.
impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashed").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Hashed {
    /// A hash that was made elsewhere.
    ///
    /// # Errors
    /// It is none of this algorithm, or asks for more work than is given to anybody.
    pub fn made_elsewhere(algorithm: Algorithm, hash: String, salt: String) -> Result<Self, HashError> {
        let digits = match &algorithm {
            Algorithm::Plain { .. } => None,
            Algorithm::Md5 { .. } => Some(32),
            Algorithm::Sha { .. } => Some(40),
            Algorithm::Sha256 { .. } => Some(64),
            Algorithm::Sha512 { .. } => Some(128),
            Algorithm::Pbkdf2 { dk_length, .. } => Some(dk_length * 2),
            Algorithm::Bcrypt { .. } => {
                let parts: bcrypt::HashParts =
                    hash.parse().map_err(|_| HashError("this is no hash of bcrypt"))?;
                if parts.get_cost() > BCRYPT_COST_MAX {
                    return Err(HashError("the cost of this hash is above 15"));
                }
                None
            }
            Algorithm::Argon2id {} => {
                Phc::parse(&hash)?;
                None
            }
        };
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits.is_some_and(|digits| hash.len() != digits || !is_hex(&hash)) {
            return Err(HashError("this is no hash of the authenticator's algorithm in hexadecimal digits"));
        }
        Ok(Self { algorithm, hash, salt })
    }

    /// How it was made.
    pub const fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Whether this is the password. Takes as long whatever differs.
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        let salt = self.salt.as_bytes();
        let digest = match &self.algorithm {
            Algorithm::Plain { .. } => return self.hash.as_bytes().ct_eq(password).into(),
            Algorithm::Md5 { salt_position } => digest::<Md5>(*salt_position, password, salt),
            Algorithm::Sha { salt_position } => digest::<Sha1>(*salt_position, password, salt),
            Algorithm::Sha256 { salt_position } => digest::<Sha256>(*salt_position, password, salt),
            Algorithm::Sha512 { salt_position } => digest::<Sha512>(*salt_position, password, salt),
            Algorithm::Bcrypt { .. } => return bcrypt::verify(password, &self.hash).unwrap_or(false),
            Algorithm::Pbkdf2 { mac_fun, iterations, dk_length } => {
                derive(*mac_fun, *iterations, *dk_length, password, salt)
            }
            Algorithm::Argon2id {} => return Phc::parse(&self.hash).is_ok_and(|phc| phc.verify(password)),
        };
        // Digits may have been written by others, in either case.
        hex(&digest).as_bytes().ct_eq(self.hash.to_ascii_lowercase().as_bytes()).into()
    }
}

fn salted<D: Digest>(position: SaltPosition, password: &[u8], salt: String) -> (String, String) {
    let salt = if position == SaltPosition::Disable { String::new() } else { salt };
    (hex(&digest::<D>(position, password, salt.as_bytes())), salt)
}

fn digest<D: Digest>(position: SaltPosition, password: &[u8], salt: &[u8]) -> Vec<u8> {
    let digest = D::new();
    let digest = match position {
        SaltPosition::Prefix => digest.chain_update(salt).chain_update(password),
        SaltPosition::Suffix => digest.chain_update(password).chain_update(salt),
        SaltPosition::Disable => digest.chain_update(password),
    };
    digest.finalize().to_vec()
}

fn derive(mac: MacFunction, iterations: u32, bytes: usize, password: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut key = vec![0; bytes.min(PBKDF2_KEY_BYTES_MAX)];
    match mac {
        MacFunction::Sha => pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut key),
        MacFunction::Sha224 => pbkdf2::pbkdf2_hmac::<Sha224>(password, salt, iterations, &mut key),
        MacFunction::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut key),
        MacFunction::Sha384 => pbkdf2::pbkdf2_hmac::<Sha384>(password, salt, iterations, &mut key),
        MacFunction::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut key),
    }
    key
}

/// Argon2id in its usual notation: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
struct Phc {
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Phc {
    fn make(password: &[u8], salt: [u8; SALT_BYTES]) -> Result<String, HashError> {
        let wrong = |_| HashError("the password cannot be hashed by argon2id");
        let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, Some(ARGON2_HASH_BYTES));
        let mut hash = [0; ARGON2_HASH_BYTES];
        argon2(params.map_err(wrong)?).hash_password_into(password, &salt, &mut hash).map_err(wrong)?;
        let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
        Ok(format!("$argon2id$v=19$m={ARGON2_MEMORY_KIB},t={ARGON2_PASSES},p={ARGON2_LANES}${salt}${hash}"))
    }

    fn parse(text: &str) -> Result<Self, HashError> {
        Self::try_parse(text).ok_or(HashError("this is no hash of argon2id, or it asks for too much work"))
    }

    fn try_parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$argon2id$v=19$")?.split('$');
        let (numbers, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let mut numbers = numbers.split(',');
        let mut number = |name: &str, max: u32| {
            let value: u32 = numbers.next()?.strip_prefix(name)?.parse().ok()?;
            (value <= max).then_some(value)
        };
        let memory = number("m=", ARGON2_MEMORY_KIB_MAX)?;
        let passes = number("t=", ARGON2_PASSES_MAX)?;
        let lanes = number("p=", ARGON2_LANES_MAX)?;
        let salt = STANDARD_NO_PAD.decode(salt).ok()?;
        let hash = STANDARD_NO_PAD.decode(hash).ok()?;
        if numbers.next().is_some() || hash.len() > ARGON2_HASH_BYTES_MAX {
            return None;
        }
        let params = Params::new(memory, passes, lanes, Some(hash.len())).ok()?;
        Some(Self { params, salt, hash })
    }

    fn verify(self, password: &[u8]) -> bool {
        let mut hash = vec![0; self.hash.len()];
        let made = argon2(self.params).hash_password_into(password, &self.salt, &mut hash);
        made.is_ok() && bool::from(hash.ct_eq(&self.hash))
    }
}

fn argon2(params: Params) -> Argon2<'static> {
    Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |at: u8| char::from(DIGITS.get(usize::from(at)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod hash_tests;
