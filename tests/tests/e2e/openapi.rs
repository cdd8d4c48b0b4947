//! The OpenAPI document as a foreign program reads it: schemathesis asks for everything that it promises, and for what
//! it rules out. And the page that shows it.

use std::path::Path;
use std::time::Duration;

use muster_tests::mqtt::{Client, Version};
use muster_tests::muster::http_client;
use muster_tests::{Home, Muster, need, tools};
use serde_json::{Value, json};

/// Requests that are made up for each operation and phase, in an ordinary run and in a long one.
const EXAMPLES: (u32, u32) = (2, 40);
/// A run that takes longer hangs.
const RUN_SECONDS_MAX: (u64, u64) = (420, 5_400);
const SEED: &str = "20260102";

/// Somebody who may do everything. A key may not: keys and people are for people.
async fn token(muster: &Muster) -> String {
    const PASSWORD: &str = "correct horse battery";
    let person = json!({"username": "zz-operator", "password": PASSWORD, "role": "administrator"});
    let (status, made) = muster.send("POST", "/api/v5/users", person).await;
    assert_eq!(status, 200, "{made}");
    let body = json!({"username": "zz-operator", "password": PASSWORD});
    let (status, given) = muster.send("POST", "/api/v5/login", body).await;
    assert_eq!(status, 200, "{given}");
    given["token"].as_str().expect("a token").to_owned()
}

/// One thing of each kind, so that there is something to find.
async fn fill(muster: &Muster) {
    let rule =
        json!({"id": "kept", "sql": "SELECT clientid, topic FROM \"t/#\"", "actions": ["sqlite:kept"]});
    let ban = json!({"as": "clientid", "who": "banned-1", "reason": "a test"});
    let store = json!({"mechanism": "password_based", "backend": "built_in_database"});
    let user = json!({"user_id": "u1", "password": "p"});
    let rules =
        json!([{"clientid": "c1", "rules": [{"topic": "t", "permission": "allow", "action": "all"}]}]);
    for (path, body, want) in [
        ("/api/v5/rules", rule, 201),
        ("/api/v5/banned", ban, 200),
        ("/api/v5/authentication", store, 200),
        ("/api/v5/authentication/password_based:built_in_database/users", user, 201),
        ("/api/v5/authorization/sources/built_in_database/rules/clients", rules, 204),
    ] {
        let (status, answer) = muster.send("POST", path, body).await;
        assert_eq!(status, want, "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_promised_holds() {
    let schemathesis = need!("schemathesis");
    let home = Home::new();
    // Wrong keys come by the hundred, from one address; and what disks promise is asked elsewhere.
    let settings = ["--set", "http.failures_max=1000000", "--set", "journal.durability=os"];
    let muster = home.start_with(&settings).await;
    let _device = Client::connect(muster.mqtt, Version::V5, "device-1").await;
    fill(&muster).await;
    let token = token(&muster).await;
    let is_long = std::env::var_os("MUSTER_LONG").is_some();
    let (examples, limit) = match is_long {
        true => (EXAMPLES.1, RUN_SECONDS_MAX.1),
        false => (EXAMPLES.0, RUN_SECONDS_MAX.0),
    };
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis.toml");
    let mut command = tools::command(schemathesis);
    command.current_dir(home.path()).arg("--config-file").arg(config);
    command.args(["run", &format!("http://{}/api/openapi.json", muster.http), "--no-color"]);
    command.args(["--header", &format!("Authorization: Bearer {token}")]);
    command.args(["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--mode", "all"]);
    command.args(["--max-examples", &examples.to_string(), "--seed", SEED]);
    // One thread: several of them make the parser of some Pythons fail ("AST constructor recursion depth mismatch").
    command.args(["--workers", "1", "--continue-on-failure", "--request-timeout", "20", "--warnings", "off"]);
    let output = tokio::time::timeout(Duration::from_secs(limit), command.output()).await;
    let output = output.expect("schemathesis ends in time").expect("schemathesis starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text.find("= SUMMARY =").and_then(|at| text.get(at..)).unwrap_or(&text);
    eprintln!("{summary}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let printed = muster.output().join("\n");
    assert!(!printed.contains("panicked"), "{printed}");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_all_that_it_needs() {
    let home = Home::new();
    let muster = home.start().await;
    let get = async |path: &str| {
        let answer =
            http_client().get(format!("http://{}{path}", muster.http)).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (kind, policy) = (header("content-type"), header("content-security-policy"));
        (kind, policy, answer.text().await.expect("a body"))
    };
    let (kind, policy, page) = get("/api/docs/").await;
    assert!(kind.starts_with("text/html"), "{kind}");
    assert!(policy.contains("script-src 'self';") && policy.contains("connect-src 'self'"), "{policy}");
    // Everything comes from here, and no script stands in the page itself: the policy allows neither.
    let named = page
        .split(['"', '\''])
        .filter_map(|part| part.strip_prefix("./").or(Some(part).filter(|it| *it == "index.css")));
    let named: Vec<_> = named.collect();
    for name in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert!(named.contains(&name), "{name}: {page}");
    }
    assert!(!page.contains("<script>") && !page.contains("://"), "{page}");
    for name in named {
        let (kind, policy, body) = get(&format!("/api/docs/{name}")).await;
        let want = match name.rsplit_once('.').expect("a kind").1 {
            "css" => "text/css",
            "js" => "text/javascript",
            "png" => "image/png",
            other => panic!("{other}"),
        };
        assert!(kind.starts_with(want), "{name}: {kind}");
        assert!(!policy.is_empty() && !body.is_empty(), "{name}");
    }
    let (_, _, script) = get("/api/docs/swagger-initializer.js").await;
    assert!(script.contains("\"/api/openapi.json\""), "{script}");
    let (kind, _, document) = get("/api/openapi.json").await;
    assert_eq!(kind, "application/json");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/openapi.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).expect("a file")).expect("JSON");
    assert!(document == golden, "what is served is not schemas/openapi.json");
    muster.stop().await;
}
