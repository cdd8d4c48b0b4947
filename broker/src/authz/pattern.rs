//! The topic of a rule: a filter whose levels may hold the client's own values, or, behind `eq `, the very text. A
//! value is data and never syntax: whatever a client calls itself, it gets no permission that the rule's author did not
//! see.

use super::RuleError;
use super::rule::Permission;
use crate::access::{Action, Subject};
use muster_core::topic;

/// A topic as it is compared.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Filter(Box<[Level]>),
    Text(Box<[Piece]>),
}

#[derive(Debug, Clone)]
enum Level {
    Literal(Box<str>),
    Plus,
    Hash,
    Template(Box<[Piece]>),
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(Box<str>),
    Clientid,
    Username,
    CertCommonName,
    Attr(Box<str>),
}

impl Pattern {
    pub(super) fn parse(written: &str) -> Result<Self, RuleError> {
        if let Some(text) = written.strip_prefix("eq ") {
            if text.is_empty() || text.contains('\0') || text.len() > topic::TOPIC_BYTES_MAX {
                return Err(RuleError::Topic);
            }
            return Ok(Self { kind: Kind::Text(pieces(text)?) });
        }
        // `$share/` in a rule would never be compared: the groups of subscriptions are left out.
        if topic::validate_filter(written).is_err() || written.starts_with("$share/") {
            return Err(RuleError::Topic);
        }
        let levels: Result<_, RuleError> = written.split('/').map(Level::parse).collect();
        Ok(Self { kind: Kind::Filter(levels?) })
    }

    /// Whether the rule speaks about this topic or filter. A subscription must lie within the pattern as a whole. One
    /// exception: `+` of a denial also takes the level `#`, as in the reference.
    pub(super) fn covers(
        &self,
        subject: &Subject,
        permission: Permission,
        action: Action,
        topic: &str,
    ) -> bool {
        let topic = match action {
            Action::Publish { .. } => topic,
            Action::Subscribe { .. } => bare(topic),
        };
        let denies = permission == Permission::Deny;
        match &self.kind {
            Kind::Text(pieces) => equals(pieces, subject, denies, topic),
            Kind::Filter(levels) => filter_covers(levels, subject, denies, topic),
        }
    }
}

impl Level {
    fn parse(written: &str) -> Result<Self, RuleError> {
        Ok(match written {
            "+" => Self::Plus,
            "#" => Self::Hash,
            _ if written.contains("${") => Self::Template(pieces(written)?),
            _ => Self::Literal(written.into()),
        })
    }
}

/// A subscription's filter without its group.
fn bare(filter: &str) -> &str {
    if let Some(share) = topic::Share::parse(filter) {
        return share.filter;
    }
    filter.strip_prefix("$exclusive/").unwrap_or(filter)
}

fn pieces(written: &str) -> Result<Box<[Piece]>, RuleError> {
    let mut found = Vec::new();
    let mut rest = written;
    while let Some((before, behind)) = rest.split_once("${") {
        let Some((name, after)) = behind.split_once('}') else { return Err(RuleError::Placeholder) };
        if !before.is_empty() {
            found.push(Piece::Literal(before.into()));
        }
        found.push(match name {
            "clientid" => Piece::Clientid,
            "username" => Piece::Username,
            "cert_common_name" => Piece::CertCommonName,
            _ => match name.strip_prefix("client_attrs.") {
                Some(attr) if !attr.is_empty() => Piece::Attr(attr.into()),
                _ => return Err(RuleError::Placeholder),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        found.push(Piece::Literal(rest.into()));
    }
    Ok(found.into())
}

impl Piece {
    /// Its text for a client; none where the client has no such value.
    fn text<'a>(&'a self, subject: &'a Subject) -> Option<&'a str> {
        let value = match self {
            Self::Literal(text) => return Some(text),
            Self::Clientid => Some(subject.clientid.as_str()),
            Self::Username => subject.username.as_deref(),
            Self::CertCommonName => subject.cert_common_name.as_deref(),
            Self::Attr(name) => subject.identity.attrs.get(&**name).map(String::as_str),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Whether its value has characters that mean something in a filter.
    fn is_odd(&self, subject: &Subject) -> bool {
        !matches!(self, Self::Literal(_))
            && self.text(subject).is_some_and(|value| value.contains(['+', '#', '/']))
    }
}

/// Whether the pieces make up `text`. A permission with an odd value says nothing.
fn equals(pieces: &[Piece], subject: &Subject, denies: bool, text: &str) -> bool {
    let mut rest = text;
    for piece in pieces {
        if !denies && piece.is_odd(subject) {
            return false;
        }
        let after = piece.text(subject).and_then(|value| rest.strip_prefix(value));
        let Some(after) = after else { return false };
        rest = after;
    }
    rest.is_empty()
}

fn filter_covers(levels: &[Level], subject: &Subject, denies: bool, topic: &str) -> bool {
    if topic.starts_with('$') && matches!(levels.first(), Some(Level::Plus | Level::Hash)) {
        return false;
    }
    let mut rest = Some(topic);
    for level in levels {
        if let Level::Hash = level {
            return true;
        }
        let Some(left) = rest else { return false };
        // A denial's odd value may have more than one level.
        let more = match level {
            Level::Template(pieces) if denies => {
                let slashes = |it: &Piece| it.text(subject).map_or(0, |value| value.matches('/').count());
                pieces.iter().map(slashes).sum()
            }
            _ => 0,
        };
        let (this, after) = split_levels(left, more);
        let fits = match level {
            Level::Hash => true,
            Level::Plus => denies || this != "#",
            Level::Literal(text) => **text == *this,
            Level::Template(pieces) => equals(pieces, subject, denies, this),
        };
        if !fits {
            return false;
        }
        rest = after;
    }
    rest.is_none()
}

/// The first level and `more` of those behind it, and what follows.
fn split_levels(topic: &str, more: usize) -> (&str, Option<&str>) {
    match topic.match_indices('/').nth(more) {
        Some((at, _)) => (&topic[..at], Some(&topic[at + 1..])),
        None => (topic, None),
    }
}
