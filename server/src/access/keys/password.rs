//! Passwords of people, by argon2id: whoever steals the file pays 19 MiB and two passes for each guess.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::secret::{Digest, Secret, random};
use crate::error::{Error, ErrorKind};

/// Shortest password.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// Longest password.
pub const PASSWORD_BYTES_MAX: usize = 256;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
const MEMORY_KIB: u32 = 19 * 1024;
/// What a stored password may ask for: a file that was meddled with must not take all memory.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES: u32 = 2;
const PASSES_MAX: u32 = 16;

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password {
    argon2id: String,
    salt: String,
    memory_kib: u32,
    passes: u32,
}

impl Password {
    /// What is to be kept of `text`. Takes tens of milliseconds.
    ///
    /// # Errors
    /// It is too short or too long, or the system has no randomness.
    pub fn new(text: &str) -> Result<Self, Error> {
        if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&text.len()) {
            let message = format!("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Config, message));
        }
        let salt = random::<SALT_BYTES>()?;
        let hash = hash(text, &salt, MEMORY_KIB, PASSES)
            .ok_or_else(|| Error::new(ErrorKind::Fatal, "the password cannot be hashed"))?;
        let text = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        Ok(Self { argon2id: text(&hash), salt: text(&salt), memory_kib: MEMORY_KIB, passes: PASSES })
    }

    /// Whether it is of `text`. Takes tens of milliseconds.
    pub(super) fn is(&self, text: &str) -> bool {
        let kept = STANDARD_NO_PAD.decode(&self.argon2id);
        let salt = STANDARD_NO_PAD.decode(&self.salt).unwrap_or_default();
        let (memory_kib, passes) = (self.memory_kib.min(MEMORY_KIB_MAX), self.passes.min(PASSES_MAX));
        let found =
            if text.len() > PASSWORD_BYTES_MAX { None } else { hash(text, &salt, memory_kib, passes) };
        match (kept, found) {
            (Ok(kept), Some(found)) => kept.ct_eq(&found).into(),
            _ => false,
        }
    }

    /// What changes whenever the password is set anew.
    pub(super) fn mark(&self) -> Digest {
        Secret::digest_of(&self.argon2id)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// What no password is of, and costs as much to find out.
pub(super) fn nobody() -> Password {
    let salt = STANDARD_NO_PAD.encode([0; SALT_BYTES]);
    Password { argon2id: String::new(), salt, memory_kib: MEMORY_KIB, passes: PASSES }
}

fn hash(text: &str, salt: &[u8], memory_kib: u32, passes: u32) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(memory_kib, passes, 1, Some(HASH_BYTES)).ok()?;
    let mut hash = [0; HASH_BYTES];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(text.as_bytes(), salt, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_and_never_kept() {
        let password = Password::new("correct horse").expect("a hash");
        assert!(password.is("correct horse") && !password.is("correct horsf") && !nobody().is(""));
        let stored = serde_json::to_string(&password).expect("JSON");
        assert!(!stored.contains("horse") && !format!("{password:?}").contains(&password.argon2id));
        assert_eq!(serde_json::from_str::<Password>(&stored).expect("JSON"), password);
        let again = Password::new("correct horse").expect("a hash");
        assert!(again != password && !again.mark().is(&password.mark()), "another salt");
        assert!(Password::new("short").is_err() && Password::new(&"x".repeat(257)).is_err());
    }
}
