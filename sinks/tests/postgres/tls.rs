//! TLS and passwords, against a server with a certificate of our own making.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use muster_sinks::{ErrorKind, SinkError};
use muster_test_servers::Server;

use crate::db::{Db, built};
use crate::support::until;

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, a server's certificate for `localhost`, and a client's for the user `postgres`.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("server.ext"), "subjectAltName=DNS:localhost").unwrap();
    std::fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth").unwrap();
    for authority in ["ca", "other"] {
        openssl(
            dir,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            ),
        );
    }
    for (name, subject) in [("server", "server"), ("client", "postgres")] {
        openssl(
            dir,
            &format!("req -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -extfile {name}.ext -out {name}.crt"
            ),
        );
    }
}

/// Has the server itself write a file into its folder, so that it is its own.
async fn put(db: &Db, name: &str, text: &str) {
    let sql = format!("COPY (SELECT $x${text}$x$) TO PROGRAM 'umask 077; sed ''s/\\\\n/\\n/g'' > {name}'");
    db.client.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_passwords_are_judged_as_libpq_does() {
    let Some(server) = Server::own("postgres") else { return };
    let db = Db::on(Arc::new(server), "CREATE TABLE t (n int); CREATE ROLE pw LOGIN PASSWORD 'right'").await;
    db.client.batch_execute("GRANT ALL ON SCHEMA public TO pw; GRANT ALL ON t TO pw").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for name in ["server.key", "server.crt", "ca.crt"] {
        put(&db, name, &text(name)).await;
    }
    let rules =
        "hostssl all pw all scram-sha-256\nhostssl all postgres all cert\nhostnossl all postgres all trust";
    put(&db, "pg_hba.conf", rules).await;
    for sql in
        ["ALTER SYSTEM SET ssl_ca_file = 'ca.crt'", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"]
    {
        db.client.batch_execute(sql).await.unwrap();
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (ca, other) = (path("ca.crt"), path("other.crt"));
    let port = db.address.port();
    let check = async |user: &str, host: &str, more: &[(&str, &str)]| -> Result<(), SinkError> {
        let url = format!("postgres://{user}@{host}:{port}/{}", db.name);
        let mut options = vec![("url", &*url)];
        options.extend(more);
        built("t", &options).unwrap().sink.check().await
    };
    until("the server takes TLS", async || {
        check("pw:right", "localhost", &[("sslmode", "require")]).await.is_ok()
    })
    .await;
    let full = [("sslmode", "verify-full"), ("sslrootcert", &*ca)];
    let signed = [("sslmode", "verify-ca"), ("sslrootcert", &*ca)];
    let wrong = [("sslmode", "verify-ca"), ("sslrootcert", &*other)];
    check("pw:right", "localhost", &[]).await.unwrap();
    check("pw:right", "localhost", &full).await.unwrap();
    check("pw:right", "127.0.0.1", &signed).await.unwrap();
    let words = async |user: &str, host: &str, more: &[(&str, &str)]| {
        let error = check(user, host, more).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
        format!("{}; {}", error.in_words(), error.hint())
    };
    let said = words("pw:right", "127.0.0.1", &full).await;
    assert!(said.contains("not valid for name") && said.contains("`sslmode`"), "{said}");
    let said = words("pw:right", "localhost", &wrong).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    let said = words("pw:right", "localhost", &[("sslmode", "require"), ("sslrootcert", &other)]).await;
    assert!(said.contains("UnknownIssuer"), "a root at hand verifies: {said}");
    let said = words("pw:wrong", "localhost", &full).await;
    assert!(said.contains("password authentication failed") && said.contains("28P01"), "{said}");
    assert!(!said.contains("wrong@"), "{said}");
    let said = words("pw", "localhost", &full).await;
    assert!(said.contains("password"), "{said}");
    let said = words("pw:right", "localhost", &[("sslmode", "disable")]).await;
    assert!(said.contains("pg_hba.conf"), "{said}");
    // By a certificate of our own.
    let (cert, key) = (path("client.crt"), path("client.key"));
    let by_cert = [full[0], full[1], ("sslcert", &*cert), ("sslkey", &*key)];
    check("postgres", "localhost", &by_cert).await.unwrap();
    let said = words("postgres", "localhost", &full).await;
    assert!(said.contains("certificate"), "{said}");
}
