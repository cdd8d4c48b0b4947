//! Permissions as a table (`data/authz_cases.jsonl`), and topics against a model that is too simple to be wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_broker::authz::{Authority, Owner, Permission, Policy, Retain, Rule, RuleAction, RuleSet};
use muster_broker::{Action, Identity, Qos, Request, Subject};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(rename = "do")]
    what: String,
    topic: String,
    expect: Permission,
    #[serde(default = "c1")]
    clientid: String,
    #[serde(default = "u1")]
    username: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    #[serde(default)]
    client_rules: Vec<Rule>,
    #[serde(default)]
    user_rules: Vec<Rule>,
    #[serde(default)]
    all_rules: Vec<Rule>,
    #[serde(default)]
    token_rules: Vec<Rule>,
    #[serde(default)]
    superuser: bool,
    #[serde(default = "address")]
    address: Option<String>,
    #[serde(default = "listener")]
    listener: String,
    #[serde(default = "deny")]
    no_match: Permission,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

fn c1() -> String {
    "c1".to_owned()
}

fn u1() -> Option<String> {
    Some("u1".to_owned())
}

fn address() -> Option<String> {
    Some("10.1.2.3".to_owned())
}

fn listener() -> String {
    "tcp:default".to_owned()
}

fn deny() -> Permission {
    Permission::Deny
}

fn compiled(rules: Vec<Rule>) -> RuleSet {
    RuleSet::compile(rules).expect("good rules")
}

impl Case {
    fn answer(self) -> Permission {
        let authority = Authority::default();
        authority.set_policy(Policy { no_match: self.no_match, ..Policy::default() });
        authority.put(Owner::Client, vec![(self.clientid.clone(), compiled(self.client_rules))]);
        if let Some(name) = &self.username {
            authority.put(Owner::User, vec![(name.clone(), compiled(self.user_rules))]);
        }
        authority.put_all(compiled(self.all_rules));
        let identity = Identity {
            is_superuser: self.superuser,
            attrs: self.attrs,
            rules: self.token_rules,
            ..Identity::default()
        };
        let subject = Subject {
            clientid: self.clientid,
            username: self.username,
            address: self.address.map(|it| it.parse().expect("an address")),
            listener: self.listener,
            cert_common_name: None,
            rules: Subject::rules_of(&identity),
            identity: Arc::new(identity),
        };
        let qos = Qos::from_u8(self.qos).expect("a QoS");
        let action = match self.what.as_str() {
            "publish" => Action::Publish { qos, retain: self.retain },
            "subscribe" => Action::Subscribe { qos },
            other => panic!("{other} is no action"),
        };
        let request = Request { subject: &subject, action, topic: &self.topic };
        if authority.decide(&request).allow { Permission::Allow } else { Permission::Deny }
    }
}

#[test]
fn every_case_of_the_table() {
    let lines: Vec<_> = include_str!("data/authz_cases.jsonl").lines().collect();
    assert!(lines.len() >= 200, "{} cases", lines.len());
    let wrong: Vec<_> = lines
        .iter()
        .filter(|line| {
            let case: Case = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(!case.name.is_empty());
            let expected = case.expect;
            case.answer() != expected
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} are otherwise:\n{wrong:#?}", wrong.len(), lines.len());
}

fn rule(topic: &str, permission: Permission) -> Rule {
    Rule {
        topic: topic.to_owned(),
        permission,
        action: RuleAction::All,
        qos: Vec::new(),
        retain: Retain::All,
        clientid_re: None,
        username_re: None,
        ipaddr: None,
        listener: None,
    }
}

fn asks(rules: Vec<Rule>, clientid: &str, action: Action, topic: &str) -> Option<Permission> {
    let subject = Subject {
        clientid: clientid.to_owned(),
        username: None,
        address: None,
        listener: listener(),
        cert_common_name: None,
        rules: None,
        identity: Arc::default(),
    };
    compiled(rules).decide(&Request { subject: &subject, action, topic })
}

#[test]
fn rules_that_cannot_be_used_are_refused() {
    let bad = |change: fn(&mut Rule)| {
        let mut made = rule("a", Permission::Allow);
        change(&mut made);
        assert!(RuleSet::compile(vec![rule("b", Permission::Allow), made]).is_err_and(|(at, _)| at == 1));
    };
    for topic in ["", "a/#/b", "a+", "$share/g/a", "eq ", "${clientid", "${nobody}", "${client_attrs.}"] {
        let made = rule(topic, Permission::Allow);
        assert!(RuleSet::compile(vec![made]).is_err(), "{topic}");
    }
    bad(|it| it.qos = vec![3]);
    bad(|it| it.qos = vec![1, 1]);
    bad(|it| it.clientid_re = Some("(".to_owned()));
    bad(|it| it.username_re = Some("a{1000}{1000}".to_owned()));
    bad(|it| it.clientid_re = Some(String::new()));
    bad(|it| it.ipaddr = Some("10.0.0.0/33".to_owned()));
    bad(|it| it.ipaddr = Some("localhost".to_owned()));
}

#[test]
fn credentials_with_a_rule_that_cannot_be_used_allow_nothing() {
    let identity = Identity { rules: vec![rule("a/#/b", Permission::Deny)], ..Identity::default() };
    let set = Subject::rules_of(&identity).expect("rules");
    let subject = Subject {
        clientid: c1(),
        username: None,
        address: None,
        listener: listener(),
        cert_common_name: None,
        rules: Some(set),
        identity: Arc::new(identity),
    };
    for topic in ["a", "$any/x"] {
        let action = Action::Publish { qos: Qos::AtMostOnce, retain: false };
        assert!(!Authority::default().decide(&Request { subject: &subject, action, topic }).allow);
    }
}

/// Every topic of at most three levels out of a few words.
fn topics() -> Vec<String> {
    let words = ["a", "b", "", "$c"];
    let mut all: Vec<String> = words.iter().filter(|it| !it.is_empty()).map(|it| (*it).to_owned()).collect();
    for one in words {
        for two in words {
            all.push(format!("{one}/{two}"));
            all.extend(words.iter().map(|three| format!("{one}/{two}/{three}")));
        }
    }
    all
}

fn filter() -> impl Strategy<Value = String> {
    let word = prop_oneof![Just("a"), Just("b"), Just("+"), Just("$c")];
    (prop::collection::vec(word, 1..4), any::<bool>()).prop_map(|(levels, rest)| {
        let text = levels.join("/");
        if rest { format!("{text}/#") } else { text }
    })
}

proptest! {
    /// What a subscription is allowed, publishes would be allowed one by one.
    #[test]
    fn an_allowed_subscription_gets_no_topic_beyond_the_rule(rule_filter in filter(), asked in filter()) {
        let subscribe = Action::Subscribe { qos: Qos::AtMostOnce };
        if asks(vec![rule(&rule_filter, Permission::Allow)], "c1", subscribe, &asked).is_some() {
            for topic in topics().iter().filter(|it| muster_core::topic::matches(&asked, it)) {
                prop_assert!(muster_core::topic::matches(&rule_filter, topic), "{topic}");
            }
        }
    }

    /// A rule speaks about exactly the topics that its filter matches.
    #[test]
    fn publishes_are_matched_as_deliveries_are(rule_filter in filter()) {
        let publish = Action::Publish { qos: Qos::AtMostOnce, retain: false };
        for topic in topics() {
            for permission in [Permission::Allow, Permission::Deny] {
                let said = asks(vec![rule(&rule_filter, permission)], "c1", publish, &topic);
                prop_assert_eq!(said.is_some(), muster_core::topic::matches(&rule_filter, &topic), "{}", topic);
            }
        }
    }

    /// However a client calls itself, the placeholder stands for one level with that very text.
    #[test]
    fn no_name_widens_a_rule(name in "[ab+#/$]{1,5}", asked in filter()) {
        let rules = vec![rule("x/${clientid}/y", Permission::Allow)];
        let subscribe = Action::Subscribe { qos: Qos::AtMostOnce };
        if asks(rules, &name, subscribe, &format!("x/{asked}/y").replace("/#/y", "/y")).is_some() {
            prop_assert_eq!(&asked.replace("/#", ""), &name);
            prop_assert!(!name.contains(['+', '#', '/']));
        }
    }
}

#[test]
fn the_name_in_a_certificate_stands_in_topics_and_none_matches_nothing() {
    let mut subject = Subject {
        clientid: c1(),
        username: None,
        address: None,
        listener: listener(),
        cert_common_name: Some("pump-7".to_owned()),
        rules: None,
        identity: Arc::default(),
    };
    let set = compiled(vec![rule("plant/${cert_common_name}/#", Permission::Allow)]);
    let action = Action::Publish { qos: Qos::AtMostOnce, retain: false };
    let mut permission = |name: Option<&str>, topic: &str| {
        subject.cert_common_name = name.map(str::to_owned);
        set.decide(&Request { subject: &subject, action, topic })
    };
    assert_eq!(permission(Some("pump-7"), "plant/pump-7/t"), Some(Permission::Allow));
    assert_eq!(permission(Some("pump-8"), "plant/pump-7/t"), None);
    assert_eq!(permission(Some("+"), "plant/pump-7/t"), None);
    assert_eq!(permission(None, "plant//t"), None);
}
