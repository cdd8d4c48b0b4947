//! The link that believes tokens: who signed one is checked in the broker's crate, what it says means something here.

use muster_broker::authn::{Claims, JwtKey, Token};
use muster_broker::authz::{Permission, Retain, Rule, RuleAction};
use muster_broker::{Authn, Credentials, Identity};
use muster_core::clock::SharedClock;
use serde_json::Value;

use super::Verdict;
use super::jwks::{Jwks, NoKeys};
use super::settings::{Jwt, TokenFrom};

/// Most permissions that a token may bring.
const RULES_MAX: usize = 256;

/// How tokens are looked at.
#[derive(Debug)]
pub(super) struct JwtLink {
    keys: Keys,
    from: TokenFrom,
    verify: Vec<(String, String)>,
    acl_claim: String,
    ends_sessions: bool,
}

/// Whose signatures are believed.
#[derive(Debug)]
pub(super) enum Keys {
    /// One key, written into the configuration.
    Fixed(JwtKey),
    /// Those that an endpoint shows.
    Endpoint(Box<Jwks>),
}

impl JwtLink {
    pub(super) fn new(keys: Keys, config: &Jwt) -> Self {
        Self {
            keys,
            from: config.from,
            verify: config.verify_claims.clone().into_iter().collect(),
            acl_claim: config.acl_claim_name.clone(),
            ends_sessions: config.disconnect_after_expire,
        }
    }

    /// Whether keys can be had.
    pub(super) fn is_reachable(&self) -> bool {
        match &self.keys {
            Keys::Fixed(_) => true,
            Keys::Endpoint(jwks) => jwks.is_reachable(),
        }
    }

    /// What a client with these credentials is now. What is no token of ours is somebody else's business.
    pub(super) async fn ask(&self, credentials: &Credentials<'_>, clock: &SharedClock) -> Verdict {
        let text = match self.from {
            TokenFrom::Password => credentials.password.and_then(|bytes| std::str::from_utf8(bytes).ok()),
            TokenFrom::Username => credentials.username,
        };
        let Some(token) = text.and_then(Token::parse) else { return Verdict::Ignore };
        let claims = match &self.keys {
            Keys::Fixed(key) => token.verified(key),
            Keys::Endpoint(jwks) => match jwks.verified(&token, clock.monotonic()).await {
                Ok(claims) => claims,
                Err(NoKeys) => return Verdict::Unavailable,
            },
        };
        let Some(claims) = claims else { return Verdict::Ignore };
        match self.identity(&claims, credentials, clock.wall_ms()) {
            Some(identity) => Verdict::Allow(identity),
            None => Verdict::Deny(Authn::BadCredentials),
        }
    }

    fn identity(&self, claims: &Claims, credentials: &Credentials<'_>, now_ms: i64) -> Option<Identity> {
        let expires_at_ms = time_ms(claims, "exp").ok()?;
        let not_before_ms = time_ms(claims, "nbf").ok()?;
        if expires_at_ms.is_some_and(|at| at <= now_ms) || not_before_ms.is_some_and(|at| at > now_ms) {
            return None;
        }
        for (claim, expected) in &self.verify {
            let expected = match expected.as_str() {
                "${clientid}" => credentials.clientid,
                "${username}" => credentials.username?,
                "${cert_common_name}" => credentials.cert_common_name?,
                text => text,
            };
            if claims.get(claim).and_then(Value::as_str) != Some(expected) {
                return None;
            }
        }
        let rules = match claims.get(&self.acl_claim) {
            Some(acl) => rules(acl)?,
            None => Vec::new(),
        };
        Some(Identity {
            is_superuser: claims.get("is_superuser").and_then(Value::as_bool).unwrap_or(false),
            attrs: super::text_attributes(claims.get("client_attrs")),
            expires_at_ms: expires_at_ms.filter(|_| self.ends_sessions),
            rules,
            ..Identity::default()
        })
    }
}

/// A time in seconds, as milliseconds; an error where something else stands there.
fn time_ms(claims: &Claims, name: &str) -> Result<Option<i64>, ()> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|it| it as i64));
    seconds.map(|it| Some(it.saturating_mul(1000))).ok_or(())
}

/// Permissions as they stand in a token or an answer: a list of rules, or `{"pub": [..], "sub": [..], "all": [..]}`,
/// which allows what it names and nothing else. None where it cannot be understood: then nothing is believed.
pub(super) fn rules(acl: &Value) -> Option<Vec<Rule>> {
    let rules = match acl {
        Value::Array(rules) => {
            let rules = rules.iter().map(rule).collect::<Option<Vec<_>>>()?;
            rules.into_iter().flatten().collect()
        }
        Value::Object(lists) => {
            let mut rules = Vec::new();
            for (name, topics) in lists {
                let action = match name.as_str() {
                    "pub" => RuleAction::Publish,
                    "sub" => RuleAction::Subscribe,
                    "all" => RuleAction::All,
                    _ => return None,
                };
                for topic in topics.as_array()? {
                    rules.push(plain(topic.as_str()?, Permission::Allow, action));
                }
            }
            rules.push(plain("#", Permission::Deny, RuleAction::All));
            rules
        }
        _ => return None,
    };
    (rules.len() <= RULES_MAX).then_some(rules)
}

/// One rule, which may name several topics, and write `pub` and `sub`.
fn rule(given: &Value) -> Option<Vec<Rule>> {
    let mut fields = given.as_object()?.clone();
    if let Some(action) = fields.get_mut("action") {
        match action.as_str()? {
            "pub" => *action = "publish".into(),
            "sub" => *action = "subscribe".into(),
            "pubsub" => *action = "all".into(),
            _ => {}
        }
    }
    if let Some(qos @ Value::Number(_)) = fields.get("qos").cloned() {
        fields.insert("qos".to_owned(), Value::Array(vec![qos]));
    }
    let topics = match fields.remove("topics") {
        Some(Value::Array(topics)) => topics,
        Some(_) => return None,
        None => vec![fields.remove("topic")?],
    };
    let each = topics.into_iter().map(|topic| {
        let mut fields = fields.clone();
        fields.insert("topic".to_owned(), topic);
        serde_json::from_value(Value::Object(fields)).ok()
    });
    each.collect()
}

fn plain(topic: &str, permission: Permission, action: RuleAction) -> Rule {
    Rule {
        topic: topic.to_owned(),
        permission,
        action,
        qos: Vec::new(),
        retain: Retain::All,
        clientid_re: None,
        username_re: None,
        ipaddr: None,
        listener: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn permissions_in_both_forms() {
        let lists = rules(&json!({"pub": ["a/${clientid}"], "sub": ["b/#"]})).expect("rules");
        assert_eq!(lists.len(), 3);
        assert_eq!((lists[0].topic.as_str(), lists[0].action), ("a/${clientid}", RuleAction::Publish));
        assert_eq!(lists[2].permission, Permission::Deny);
        let list = rules(&json!([
            {"permission": "allow", "action": "pub", "topic": "a", "qos": 1, "retain": true},
            {"permission": "deny", "action": "all", "topics": ["eq b/#", "c"]}
        ]));
        let list = list.expect("rules");
        assert_eq!(list.iter().map(|it| it.topic.as_str()).collect::<Vec<_>>(), ["a", "eq b/#", "c"]);
        assert_eq!((list[0].qos.as_slice(), list[0].retain), (&[1_u8][..], Retain::Only(true)));
        for wrong in
            [json!("x"), json!([{"permission": "maybe", "action": "pub", "topic": "a"}]), json!({"pub": 1})]
        {
            assert_eq!(rules(&wrong), None, "{wrong}");
        }
    }
}
