//! Permissions on the wire: what a client is told that may not do what it does, and when a change of rules counts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use std::sync::Arc;

use muster_broker::Limits;
use muster_broker::authz::{Authority, DenyAction, Owner, Permission, Policy, RuleSet};
use muster_core::event::{Column, EventKind};
use support::{Client, Connect, Harness, reason};

fn rules(written: &str) -> RuleSet {
    RuleSet::compile(serde_json::from_str(written).unwrap()).unwrap()
}

/// A broker whose clients may use `open/#` and their own `own/ID/#`.
async fn closed() -> (Harness, Arc<Authority>) {
    let authority = Arc::new(Authority::default());
    authority.set_policy(Policy { no_match: Permission::Deny, ..Policy::default() });
    authority.put_all(rules(
        r#"[{"topic": "open/#", "permission": "allow", "action": "all"},
            {"topic": "own/${clientid}/#", "permission": "allow", "action": "all"}]"#,
    ));
    let given = Arc::clone(&authority);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let harness = Harness::in_dir(dir, Limits::default(), |it| it.authorizer = given).await;
    (harness, authority)
}

#[tokio::test]
async fn a_denied_publish_is_answered_and_goes_nowhere() {
    let (harness, _) = closed().await;
    let mut reader = harness.v5("reader").await;
    assert_eq!(reader.subscribe(1, &[("open/#", 0)]).await, [0]);
    let mut v5 = harness.v5("new").await;
    assert_eq!(v5.publish1(1, "shut/1", "x").await, 0x87);
    assert_eq!(v5.publish1(2, "own/old/1", "x").await, 0x87);
    let mut v4 = harness.v4("old").await;
    assert_eq!(v4.publish1(1, "shut/1", "x").await, 0);
    v4.publish0("shut/0", "x").await;
    v4.publish1(2, "open/1", "through").await;
    assert_eq!(reader.message().await.text(), "through");
    let events = harness.events().await;
    let published: Vec<_> = events.iter().filter(|it| it.kind == EventKind::MessagePublish).collect();
    assert_eq!(published.len(), 1);
    let denied: Vec<_> = events.iter().filter(|it| it.kind == EventKind::ClientAuthz).collect();
    assert_eq!(denied.len(), 4);
    for event in denied {
        assert_eq!(event.get(Column::Result), "deny".into());
        assert_eq!(event.get(Column::AuthzSource), "default".into());
    }
}

#[tokio::test]
async fn a_denied_subscription_has_its_code_and_the_others_stand() {
    let (harness, _) = closed().await;
    let asked = [("#", 1), ("open/#", 1), ("own/+/#", 0), ("$share/g/shut", 0), ("$share/g/open/x", 0)];
    assert_eq!(harness.v5("new").await.subscribe(1, &asked).await, [0x87, 1, 0x87, 0x87, 0]);
    assert_eq!(harness.v4("old").await.subscribe(1, &asked).await, [0x80, 1, 0x80, 0x80, 0]);
}

#[tokio::test]
async fn a_denied_will_is_not_published() {
    let (harness, _) = closed().await;
    let mut reader = harness.v5("reader").await;
    assert_eq!(reader.subscribe(1, &[("open/#", 0)]).await, [0]);
    for (clientid, topic) in [("a", "shut/will"), ("b", "open/will")] {
        let connect = Connect::v5(clientid).will(&[], topic, "gone", 0, false);
        drop(Client::connected(harness.addr(), connect).await);
        harness.disconnected(clientid).await;
    }
    assert_eq!(reader.message().await.topic, "open/will");
    let denied = harness.event_of(EventKind::ClientAuthz, "a").await;
    assert_eq!(denied.get(Column::Topic), "shut/will".into());
}

#[tokio::test]
async fn who_does_what_it_may_not_can_be_cut_off() {
    let (harness, authority) = closed().await;
    let policy = Policy { deny_action: DenyAction::Disconnect, ..(*authority.policy()).clone() };
    authority.set_policy(policy);
    let mut v5 = harness.v5("new").await;
    v5.publish0("shut/1", "x").await;
    assert_eq!(v5.disconnected().await, 0x87);
    let mut v4 = harness.v4("old").await;
    v4.publish0("shut/1", "x").await;
    v4.closed().await;
    for clientid in ["new", "old"] {
        assert_eq!(harness.disconnected(clientid).await, "not_authorized");
    }
    let event = harness.event_of(EventKind::ClientDisconnected, "new").await;
    assert_eq!(reason(&event), "not_authorized");
}

#[tokio::test]
async fn a_topic_alias_is_no_way_around() {
    let (harness, authority) = closed().await;
    let mut client = harness.v5("aliased").await;
    let alias = [0x23, 0, 1];
    client.publish_with(0b10, 1, "open/1", &alias, b"x").await;
    client.ack(0x40, 1).await;
    client.publish_with(0b10, 2, "shut/1", &alias, b"x").await;
    assert_eq!(client.ack(0x40, 2).await, 0x87);
    client.publish_with(0b10, 3, "", &alias, b"x").await;
    assert_eq!(client.ack(0x40, 3).await, 0x87);
    assert!(authority.counts().cache_hit >= 1);
}

#[tokio::test]
async fn a_change_counts_at_once_although_answers_are_remembered() {
    let (harness, authority) = closed().await;
    let mut client = harness.v5("c").await;
    for (pkid, code) in [(1, 0x10), (2, 0x10)] {
        assert_eq!(client.publish1(pkid, "open/1", "x").await, code);
    }
    let before = authority.counts();
    assert_eq!((before.cache_hit, before.built_in_allow), (1, 1));
    let remembered = harness.broker.authz_answers("c").await.unwrap();
    assert_eq!(remembered.len(), 1);
    assert_eq!((remembered[0].topic.as_str(), remembered[0].allow), ("open/1", true));

    let deny = r#"[{"topic": "open/1", "permission": "deny", "action": "publish"}]"#;
    authority.put(Owner::Client, vec![("c".to_owned(), rules(deny))]);
    assert!(harness.broker.authz_answers("c").await.unwrap().is_empty());
    assert_eq!(client.publish1(3, "open/1", "x").await, 0x87);
    assert!(authority.remove(Owner::Client, "c"));
    assert_eq!(client.publish1(4, "open/1", "x").await, 0x10);

    assert!(harness.broker.forget_authz_answers("c").await);
    assert!(harness.broker.authz_answers("c").await.unwrap().is_empty());
    assert!(harness.broker.authz_answers("nobody").await.is_none());
}
