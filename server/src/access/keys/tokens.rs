//! Tokens of people who have logged in: random, kept hashed and in memory only, so that a restart ends them all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Denied;
use super::secret::{Digest, Secret};

/// How long a token is good for.
const TOKEN_TIME: Duration = Duration::from_secs(60 * 60);
/// How long after that it is still remembered, so that its owner is told what is the matter.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens that are remembered; the oldest goes for a new one.
const TOKENS_MAX: usize = 10_000;

#[derive(Debug)]
struct Token {
    username: String,
    /// Of the password that it was given for: with another one it is good for nothing.
    password: Digest,
    until: Duration,
}

/// Those that were given.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<[u8; 32], Token>>);

impl Tokens {
    /// A new one; none where the system has no randomness.
    pub(super) fn give(&self, username: &str, password: Digest, now: Duration) -> Option<Secret> {
        let secret = Secret::draw().ok()?;
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, token| token.until + REMEMBERED > now);
            let oldest = tokens.iter().min_by_key(|(_, token)| token.until).map(|(key, _)| *key);
            if let (true, Some(oldest)) = (tokens.len() >= TOKENS_MAX, oldest) {
                tokens.remove(&oldest);
            }
        }
        let token = Token { username: username.to_owned(), password, until: now + TOKEN_TIME };
        tokens.insert(secret.digest().bytes(), token);
        Some(secret)
    }

    /// Whose it is. `password_of` tells the mark of somebody's password as it is now.
    pub(super) fn check(
        &self,
        token: &str,
        now: Duration,
        password_of: impl Fn(&str) -> Option<Digest>,
    ) -> Result<String, Denied> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tokens.get(&Secret::digest_of(token).bytes()).ok_or(Denied::BadToken)?;
        if !password_of(&found.username).is_some_and(|password| password.is(&found.password)) {
            return Err(Denied::BadToken);
        }
        if found.until <= now { Err(Denied::TokenTimeOut) } else { Ok(found.username.clone()) }
    }

    /// Takes it back, if it is `username`'s.
    pub(super) fn revoke(&self, token: &str, username: &str) -> bool {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Secret::digest_of(token).bytes();
        let is_theirs = tokens.get(&key).is_some_and(|token| token.username == username);
        is_theirs && tokens.remove(&key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_by_time_by_word_and_with_the_password() {
        let tokens = Tokens::default();
        let (old, new) = (Secret::digest_of("old"), Secret::digest_of("new"));
        let give = || tokens.give("ann", old.clone(), Duration::ZERO).expect("a token");
        let token = give();
        let check = |token: &Secret, now, is: &Digest| {
            tokens.check(token.reveal(), now, |name| (name == "ann").then(|| is.clone()))
        };
        assert_eq!(check(&token, Duration::ZERO, &old), Ok("ann".to_owned()));
        assert_eq!(check(&token, TOKEN_TIME, &old), Err(Denied::TokenTimeOut));
        assert_eq!(check(&token, Duration::ZERO, &new), Err(Denied::BadToken));
        assert!(!tokens.revoke(token.reveal(), "bob"));
        assert!(tokens.revoke(token.reveal(), "ann"));
        assert_eq!(check(&token, Duration::ZERO, &old), Err(Denied::BadToken));
        for _ in 0..=TOKENS_MAX {
            give();
        }
        assert_eq!(tokens.0.lock().expect("a lock").len(), TOKENS_MAX);
    }
}
