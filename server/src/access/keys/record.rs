//! What is stored of a key and of a person, and the names that they may have.

use serde::{Deserialize, Serialize};

use super::password::Password;
use super::secret::Digest;

/// Longest name of a key or a person.
const NAME_BYTES_MAX: usize = 256;

/// What somebody may ask of REST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Administrator,
    /// Whatever changes nothing.
    Viewer,
    /// Publishing, and nothing else.
    Publisher,
}

impl Role {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Viewer => "viewer",
            Self::Publisher => "publisher",
        }
    }

    /// The role of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Administrator, Self::Viewer, Self::Publisher].into_iter().find(|role| role.as_str() == text)
    }
}

/// A key as it is stored, under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public half.
    pub key: String,
    /// What is kept of its secret half.
    pub secret_sha256: Digest,
    /// What it may.
    pub role: Role,
    /// What it is for.
    pub desc: String,
    /// Whether it may be used at all.
    pub enable: bool,
    /// From when on it may not be used, milliseconds since 1970.
    pub expired_at_ms: Option<i64>,
    /// Since when it is there, milliseconds since 1970.
    pub created_at_ms: i64,
}

impl KeyRecord {
    /// Whether its time is over.
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expired_at_ms.is_some_and(|at| at <= now_ms)
    }

    /// Whether it opens anything.
    pub fn is_usable(&self, now_ms: i64) -> bool {
        self.enable && !self.is_expired(now_ms)
    }
}

/// A person as they are stored, under their name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRecord {
    /// What is kept of their password.
    pub password: Password,
    /// What they may.
    pub role: Role,
    /// Who they are.
    pub description: String,
    /// Since when they are there, milliseconds since 1970.
    pub created_at_ms: i64,
}

/// Whether a key or a person may be called so: what can stand in a path, a header and a line of a log as it is.
pub fn is_name(text: &str) -> bool {
    let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let rest = |c: u8| c.is_ascii_alphanumeric() || b"-_.@".contains(&c);
    starts_well && text.len() <= NAME_BYTES_MAX && text.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "7", "gate-1", "ann@example.org", "A_b.c"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", ".", "..", "a b", "a/b", "a\r\nX: y", "ä", "a%2f", long.as_str()] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn roles_are_written_one_way() {
        for role in [Role::Administrator, Role::Viewer, Role::Publisher] {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).expect("JSON"), role.as_str());
        }
        assert_eq!(Role::parse("Viewer"), None);
    }
}
