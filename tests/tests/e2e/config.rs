//! Configuration: file, environment, flags, and errors that help.

use muster_tests::{Home, tools};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_errors_that_name_the_nearest() {
    let home = Home::new();
    std::fs::write(home.path().join("muster.toml"), "[mqtt]\nlisten = '127.0.0.1:0'\nconnection_max = 3\n")
        .unwrap();
    for command in [&["run"][..], &["config", "show"]] {
        let output = home.command(command).output().await.expect("an end");
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("muster.toml:3") && error.contains("mqtt.connection_max"), "{error}");
        assert!(error.contains("did you mean `mqtt.connections_max`"), "{error}");
    }
    assert!(!home.data().exists(), "nothing was touched");

    let mut command = home.command(&["config", "show", "--config", "other.toml"]);
    std::fs::write(home.path().join("other.toml"), "").unwrap();
    command.env("MUSTER_MQTT__LISTN", "127.0.0.1:0");
    let (output, ok) = tools::try_run(&mut command).await;
    assert!(!ok && output.contains("did you mean MUSTER_MQTT__LISTEN"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_beat_environment_beats_file() {
    let home = Home::new();
    let file = "node = 'file@host'\ndata = './from-file'\n[journal]\nqueue_bytes_max = '4MiB'\n";
    std::fs::write(home.path().join("my.toml"), file).unwrap();
    let mut command = home.command(&["config", "show", "--config", "my.toml", "--data", "./from-flag"]);
    command.env("MUSTER_DATA", "./from-environment").env("MUSTER_NODE", "environment@host");
    let shown: toml::Table = tools::run(&mut command).await.parse().expect("it is TOML");
    assert_eq!(shown["data"].as_str(), Some("./from-flag"));
    assert_eq!(shown["node"].as_str(), Some("environment@host"));
    assert_eq!(shown["journal"]["queue_bytes_max"].as_str(), Some("4MiB"));
    assert_eq!(shown["http"]["listen"].as_str(), Some("127.0.0.1:18083"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_refused_with_its_reason() {
    let home = Home::new();
    let muster = home.start().await;
    // The port.
    let other = Home::new();
    let mqtt = muster.mqtt.to_string();
    let (output, ok) =
        tools::try_run(&mut other.command(&["run", "--mqtt", &mqtt, "--http", "127.0.0.1:0"])).await;
    assert!(!ok && output.contains(&mqtt), "{output}");
    // The data.
    let command = &mut home.command(&["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let (output, ok) = tools::try_run(command).await;
    assert!(!ok && output.contains("data"), "{output}");
    muster.stop().await;
}

/// A secret comes from the environment; neither a file of ours nor an output shows it.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_shown() {
    const SECRET: &str = "hunter2-and-more";
    let home = Home::with_rules(
        "CREATE SINK hook TYPE webhook WITH (url = 'http://127.0.0.1:9/${env:HOOK_SECRET}');\n\
         CREATE RULE all INTO hook AS SELECT topic FROM \"#\";\n",
    );
    let mut command =
        home.command(&["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "debug"]);
    command.env("HOOK_SECRET", SECRET);
    let muster = muster_tests::Muster::start(command).await;
    let mut client =
        muster_tests::mqtt::Client::connect(muster.mqtt, muster_tests::mqtt::Version::V4, "a").await;
    client.publish("t", b"x", 1, false).await;
    muster_tests::until("the delivery has failed", muster_tests::PATIENCE, async || {
        crate::common::pipeline(&muster, "all", "hook").await["last_error"].is_string().then_some(())
    })
    .await;
    for path in ["/api/v1/pipelines", "/metrics", "/status"] {
        assert!(!muster.get(path).await.1.contains(SECRET), "{path}");
    }
    let (_, output, _) = muster.interrupt().await;
    assert!(!output.iter().any(|line| line.contains(SECRET)), "{output:#?}");
}
