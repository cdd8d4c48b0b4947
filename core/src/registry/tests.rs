//! The registry over real files.

//! The registry over a real file: what is written is found again.

use super::*;

const MARK: Mark = Mark { log_id: u128::MAX - 5, read_from: 7 };

async fn change(registry: &Registry, change: RetainedChange) {
    registry.reserve().await.unwrap().change_retained(change, MARK);
}

#[tokio::test]
async fn retained_messages_are_found_again_in_their_last_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    {
        let registry = Registry::open(&path).unwrap();
        let set = |topic: &str, message: &'static [u8]| RetainedChange::Set {
            topic: topic.to_owned(),
            message: Bytes::from_static(message),
            set_at_ms: 1,
        };
        change(&registry, set("a", b"1")).await;
        change(&registry, set("b", b"2")).await;
        change(&registry, set("a", b"3")).await;
        change(&registry, RetainedChange::Clear { topic: "b".to_owned() }).await;
        registry.flush().await;
    }
    let registry = Registry::open(&path).unwrap();
    assert_eq!(registry.retained_mark().unwrap(), Some(MARK));
    registry.reserve().await.unwrap().mark_retained(Mark { read_from: 8, ..MARK });
    registry.flush().await;
    assert_eq!(registry.retained_mark().unwrap().unwrap().read_from, 8);
    assert_eq!(registry.retained().unwrap(), vec![("a".to_owned(), b"3".to_vec())]);
}

#[tokio::test]
async fn rules_are_found_again_in_their_last_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let rule = |id: &str, body: &str, modified_at_ms| StoredRule {
        id: id.to_owned(),
        body: body.to_owned(),
        created_at_ms: 1,
        modified_at_ms,
    };
    {
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.rules().unwrap(), []);
        for stored in [rule("b", "{}", 1), rule("a", "{}", 1), rule("c", "{}", 1), rule("b", "{\"x\":1}", 2)]
        {
            registry.put_rule(stored).await.unwrap();
        }
        registry.remove_rule("a").await.unwrap();
        registry.remove_rule("never was").await.unwrap();
    }
    let registry = Registry::open(&path).unwrap();
    assert_eq!(registry.rules().unwrap(), [rule("b", "{\"x\":1}", 2), rule("c", "{}", 1)]);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    drop(Registry::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Registry::open(&path).unwrap_err();
    assert!(matches!(error, RegistryError::NewerVersion { found: 99, .. }), "{error}");
}
