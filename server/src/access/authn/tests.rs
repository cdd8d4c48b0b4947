//! The service against a registry, without a broker.

use muster_core::clock::ManualClock;
use serde_json::json;

use super::*;

const STORE: &str = "password_based:built_in_database";

struct Bench {
    _dir: tempfile::TempDir,
    registry: Registry,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(&dir.path().join("registry.db")).expect("a registry");
        let config = Config::from_layers(&crate::config::Layers::default()).expect("defaults");
        Self { _dir: dir, registry, config }
    }

    fn load(&self) -> Authn {
        let clock: SharedClock = Arc::new(ManualClock::default());
        Authn::load(&self.config, &self.registry, &clock).expect("what is stored")
    }
}

async fn login(authn: &Authn, name: &str, password: &str) -> muster_broker::Authn {
    let credentials = Credentials {
        clientid: "c1",
        username: (!name.is_empty()).then_some(name),
        password: (!password.is_empty()).then_some(password.as_bytes()),
        peername: "10.0.0.1:5",
        listener: "tcp:default",
        proto_ver: 4,
        cert_common_name: None,
    };
    authn.authenticate(&credentials).get().await
}

fn is_in(answer: &muster_broker::Authn) -> bool {
    matches!(answer, muster_broker::Authn::Allow(_))
}

#[tokio::test(start_paused = true)]
async fn the_first_user_ends_anonymous_access_and_survives_a_restart() {
    let bench = Bench::new();
    let authn = bench.load();
    assert!(authn.allows_anonymous() && is_in(&login(&authn, "", "").await));
    let config = json!({"mechanism": "password_based", "backend": "built_in_database"});
    authn.create_link(config.as_object().expect("an object").clone()).await.expect("a link");
    assert!(!authn.allows_anonymous());
    authn.create_user(STORE, "ann", "secret", true).await.expect("a user");
    let again = authn.create_user(STORE, "ann", "secret", true).await;
    assert!(matches!(again, Err(ChangeError::Exists(_))));
    drop(authn);
    let authn = bench.load();
    let muster_broker::Authn::Allow(identity) = login(&authn, "ann", "secret").await else {
        panic!("let in")
    };
    assert!(identity.is_superuser && !identity.is_anonymous);
    assert_eq!(login(&authn, "ann", "wrong").await, muster_broker::Authn::BadCredentials);
    assert_eq!(login(&authn, "bob", "secret").await, muster_broker::Authn::BadCredentials);
    assert_eq!(login(&authn, "", "").await, muster_broker::Authn::NotAuthorized);
    authn.update_user(STORE, "ann", Some("other"), None).await.expect("a change");
    assert!(!is_in(&login(&authn, "ann", "secret").await) && is_in(&login(&authn, "ann", "other").await));
    authn.remove_user(STORE, "ann").await.expect("a removal");
    assert!(!is_in(&login(&authn, "ann", "other").await));
}

#[tokio::test(start_paused = true)]
async fn another_algorithm_locks_nobody_out_and_a_known_password_goes_with_its_user() {
    let bench = Bench::new();
    let authn = bench.load();
    let set = async |algorithm: Value| {
        let config = json!({"mechanism": "password_based", "backend": "built_in_database",
            "password_hash_algorithm": algorithm});
        let config = config.as_object().expect("an object").clone();
        authn.update_link(STORE, config).await.expect("a change");
    };
    set(json!({"name": "bcrypt", "salt_rounds": 4})).await;
    authn.create_user(STORE, "ann", "secret", false).await.expect("a user");
    set(json!({"name": "sha256", "salt_position": "suffix"})).await;
    authn.create_user(STORE, "bob", "secret", false).await.expect("a user");
    for _ in 0..2 {
        assert!(is_in(&login(&authn, "ann", "secret").await) && is_in(&login(&authn, "bob", "secret").await));
        assert!(!is_in(&login(&authn, "ann", "Secret").await));
    }
    let user = authn.users.get(STORE, "ann").expect("the user");
    assert!(user.knows(&authn.known, "ann", b"secret") && !user.knows(&authn.known, "ann", b"Secret"));
    authn.update_user(STORE, "ann", Some("new"), None).await.expect("a change");
    assert!(!is_in(&login(&authn, "ann", "secret").await));
}

#[tokio::test(start_paused = true)]
async fn who_fails_often_is_not_asked_any_more() {
    let bench = Bench::new();
    let authn = bench.load();
    let config = json!({"mechanism": "password_based", "backend": "built_in_database",
        "password_hash_algorithm": {"name": "bcrypt", "salt_rounds": 4}});
    authn.update_link(STORE, config.as_object().expect("an object").clone()).await.expect("a change");
    authn.create_user(STORE, "ann", "secret", false).await.expect("a user");
    assert!(is_in(&login(&authn, "ann", "secret").await));
    let mut last = muster_broker::Authn::Busy;
    for _ in 0..40 {
        last = login(&authn, "ann", "wrong").await;
    }
    assert_eq!(last, muster_broker::Authn::TooManyFailures);
    assert!(is_in(&login(&authn, "ann", "secret").await), "who was known stays known");
}

#[tokio::test(start_paused = true)]
async fn an_import_counts_each_row_once() {
    let bench = Bench::new();
    let authn = bench.load();
    let config = json!({"mechanism": "password_based", "backend": "built_in_database"});
    authn.create_link(config.as_object().expect("an object").clone()).await.expect("a link");
    authn.create_user(STORE, "a", "p", false).await.expect("a user");
    let csv = b"user_id,password,is_superuser\na,q,true\nb,q,false\nb,r,false\n,x,false\n";
    let rows = rows_of_csv(csv, ImportType::Plain).expect("rows");
    let counts = authn.import_users(STORE, ImportType::Plain, rows).await.expect("an import");
    let expected = Imported { total: 4, success: 1, overridden: 1, skipped: 1, failed: 1 };
    assert_eq!(counts, expected);
    assert!(is_in(&login(&authn, "b", "r").await) && is_in(&login(&authn, "a", "q").await));
    let hash = "b47766a05128b743cca6d5cc48dd853851c759a3be8f2fdb15f7b8446a631fe4";
    let rows = json!([{"user_id": "h", "password_hash": hash, "salt": "73616c74"},
        {"user_id": "i", "password_hash": "x"}]);
    let rows = rows_of_json(rows.to_string().as_bytes(), ImportType::Hash).expect("rows");
    let counts = authn.import_users(STORE, ImportType::Hash, rows).await.expect("an import");
    assert_eq!((counts.success, counts.failed), (1, 1));
    assert!(is_in(&login(&authn, "h", "secret").await));
}
