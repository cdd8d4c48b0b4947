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
async fn documents_change_together_and_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let put = |collection, id: &str, body: &str| DocumentChange::Put {
        collection,
        document: Document { id: id.to_owned(), body: body.to_owned() },
    };
    {
        let registry = Registry::open(&path).unwrap();
        let version = registry.version().unwrap();
        let changes = vec![put("keys", "b", "1"), put("keys", "a", "2"), put("bans", "a", "3")];
        registry.change_documents(changes).await.unwrap();
        assert_ne!(registry.version().unwrap(), version);
        let remove = DocumentChange::Remove { collection: "keys", id: "b".to_owned() };
        let changes = vec![remove, put("keys", "a", "4"), DocumentChange::Clear { collection: "bans" }];
        registry.change_documents(changes).await.unwrap();
    }
    // Another process beside this one.
    let (registry, other) = (Registry::open(&path).unwrap(), Registry::open(&path).unwrap());
    let found = Document { id: "a".to_owned(), body: "4".to_owned() };
    assert_eq!(registry.documents("keys").unwrap(), std::slice::from_ref(&found));
    assert_eq!(registry.document("keys", "a").unwrap(), Some(found));
    assert_eq!(registry.documents("bans").unwrap(), []);
    let version = registry.version().unwrap();
    assert_eq!(registry.version().unwrap(), version);
    other.change_documents(vec![put("keys", "c", "5")]).await.unwrap();
    assert_ne!(registry.version().unwrap(), version);
    assert_eq!(registry.document("keys", "c").unwrap().unwrap().body, "5");
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
