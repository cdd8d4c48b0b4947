//! One permission as an operator writes it, in the object form of EMQX v5 (`{"topic", "permission", "action", ...}`).

use serde::{Deserialize, Serialize};

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// Publishing.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    All,
}

/// Which publishes a rule is about, by their retain flag: `true`, `false` or `"all"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retain {
    /// Any.
    #[default]
    All,
    /// Those with this flag.
    Only(bool),
}

impl Retain {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl Serialize for Retain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Only(flag) => serializer.serialize_bool(*flag),
        }
    }
}

impl<'de> Deserialize<'de> for Retain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Flag(bool),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Flag(flag) => Ok(Self::Only(flag)),
            Written::Word(word) => match word.as_str() {
                "all" => Ok(Self::All),
                "true" => Ok(Self::Only(true)),
                "false" => Ok(Self::Only(false)),
                _ => Err(serde::de::Error::custom("`retain` is true, false or \"all\"")),
            },
        }
    }
}

/// A rule as it is written and stored; what is absent restricts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A topic filter, with `${clientid}` and `${username}` for the client's own; behind `eq ` the very text.
    pub topic: String,
    /// What it says.
    pub permission: Permission,
    /// What it is about.
    pub action: RuleAction,
    /// Only these QoS; all where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub qos: Vec<u8>,
    /// Only publishes with this retain flag.
    #[serde(default, skip_serializing_if = "Retain::is_all")]
    pub retain: Retain,
    /// Only clients whose identifier this regular expression finds something in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clientid_re: Option<String>,
    /// Only clients whose user name this regular expression finds something in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_re: Option<String>,
    /// Only clients from this address or range (`10.0.0.0/8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipaddr: Option<String>,
    /// Only clients of this listener (`tcp:default`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}
