//! Rows that the table itself refuses, found exactly.

use muster_sinks::{ErrorKind, Sink};

use crate::db::{Db, batch, batch_at, durable, refused, row};

const STRICT: &str = "CREATE TABLE t (n bigint CHECK (n >= 0), u int UNIQUE, w text NOT NULL, \
    _event_id uuid, _rule text, _row int, UNIQUE (_event_id, _rule, _row)); \
    CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF new.w = 'poison' THEN RAISE EXCEPTION 'poison is not taken'; END IF; RETURN new; END $$; \
    CREATE TRIGGER strict AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION strict();";

#[tokio::test]
async fn exactly_the_bad_rows_among_5000_are_found() {
    let Some(db) = Db::new(STRICT).await else { return };
    let mut sink = db.opened(&[]).await;
    let json = |at: u64| match at {
        17 => r#"{"n":-1,"w":"x"}"#.to_owned(),
        18 => r#"{"n":1,"w":null}"#.to_owned(),
        2500 | 4999 => r#"{"n":1,"w":"poison"}"#.to_owned(),
        3000 => r#"{"n":1,"u":2999,"w":"twice"}"#.to_owned(),
        _ => format!(r#"{{"n":{at},"u":{at},"w":"well"}}"#),
    };
    let rows = batch_at(0, (0..5000).map(|at| row(&json(at))).collect());
    let began = tokio::time::Instant::now();
    let found = refused(&mut sink, &rows).await;
    eprintln!("5 bad rows of 5,000 found in {:?}", began.elapsed());
    assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [17, 18, 2500, 3000, 4999]);
    assert!(found[0].1.contains("t_n_check") && found[0].1.contains("23514"), "{found:?}");
    assert!(found[1].1.contains("column `w`"), "{found:?}");
    assert!(found[2].1.contains("poison is not taken (SQLSTATE P0001)"), "{found:?}");
    assert!(found[3].1.contains("Key (u)=(2999) already exists"), "{found:?}");
    assert_eq!(db.text("SELECT count(*) FROM t").await, "0", "nothing of it is kept");
    let well = (0..5000).filter(|at| ![17, 18, 2500, 3000, 4999].contains(at));
    durable(&mut sink, &batch_at(0, well.map(|at| row(&json(at))).collect())).await;
    assert_eq!(db.text("SELECT count(*) FROM t").await, "4995");
}

#[tokio::test]
async fn rows_that_break_a_constraint_at_the_commit_are_found() {
    let table = "CREATE TABLE known (k int PRIMARY KEY); INSERT INTO known VALUES (1); \
                 CREATE TABLE t (k int REFERENCES known DEFERRABLE INITIALLY DEFERRED)";
    let Some(db) = Db::new(table).await else { return };
    let mut sink = db.opened(&[]).await;
    let found = refused(&mut sink, &batch(&[r#"{"k":1}"#, r#"{"k":2}"#])).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].0 == 1 && found[0].1.contains("Key (k)=(2)"), "{found:?}");
}

#[tokio::test]
async fn a_missing_table_is_waited_for() {
    let Some(db) = Db::new("").await else { return };
    let mut sink = db.opened(&[]).await;
    let rows =
        batch(&[r#"{"clientid":"a","temp":1.5,"n":7,"ok":true,"at":1700000000000,"tags":["x"],"if":null}"#]);
    let error = sink.deliver(&rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(
        error.in_words().contains("the table \"t\" does not exist in 127.0.0.1:"),
        "{}",
        error.in_words()
    );
    assert!(error.hint().contains("muster migrate"), "{}", error.hint());
    let create = error.hint().split("e.g. ").nth(1).unwrap();
    assert_eq!(
        create,
        "CREATE TABLE \"t\" (\"at\" timestamptz, \"clientid\" text, \"if\" text, \"n\" bigint, \"ok\" boolean, \
         \"tags\" jsonb, \"temp\" double precision, extra jsonb, \
         _event_id uuid NOT NULL, _rule text NOT NULL, _row integer NOT NULL, UNIQUE (_event_id, _rule, _row));"
    );
    db.client.batch_execute(create).await.unwrap();
    durable(&mut sink, &rows).await;
    assert_eq!(db.text("SELECT clientid, temp, n, ok, tags FROM t").await, "a 1.5 7 t [\"x\"]");
    assert_eq!(db.text("SELECT _rule, _row FROM t").await, "rule 0");
}

#[tokio::test]
async fn a_table_that_changes_is_noticed() {
    let Some(db) = Db::new("CREATE TABLE t (a int, extra jsonb)").await else { return };
    let mut sink = db.opened(&[]).await;
    durable(&mut sink, &batch(&[r#"{"a":1,"b":1}"#])).await;
    for change in [
        "ALTER TABLE t ADD b int",
        "ALTER TABLE t ALTER a TYPE text",
        "ALTER TABLE t DROP extra",
        "DROP TABLE t; CREATE TABLE t (b text, a bigint)",
    ] {
        db.client.batch_execute(change).await.unwrap();
        durable(&mut sink, &batch(&[r#"{"a":1,"b":1}"#])).await;
    }
    assert_eq!(db.text("SELECT * FROM t").await, "1 1");
    db.client.batch_execute("ALTER TABLE t ADD c int").await.unwrap();
    durable(&mut sink, &batch(&[r#"{"a":1,"c":1}"#])).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words() {
    let sql =
        "CREATE TABLE t (a int); CREATE TABLE half (a int, _rule text); CREATE TABLE nokey (clientid text);";
    let Some(db) = Db::new(sql).await else { return };
    let role = format!("weak_{}", db.name);
    let sql = format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}");
    db.client.batch_execute(&sql).await.unwrap();
    let address = db.address;
    let weak = format!("postgres://{role}@{address}/{}", db.name);
    let closed = format!("postgres://postgres@{}/x", muster_test_servers::free_address());
    let mut said = String::new();
    let mut check = async |table: &str, options: &[(&str, &str)]| {
        let error = crate::db::built(table, options).unwrap().sink.check().await.unwrap_err();
        let mut words = format!("{:?}: {}; {}\n", error.kind(), error.in_words(), error.hint());
        for (from, to) in
            [(address.port().to_string(), "PORT"), (db.name.clone(), "DB"), (role.clone(), "ROLE")]
        {
            words = words.replace(&from, to);
        }
        let from = closed.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
        said += &words.replace(from, "CLOSED").replace("weak_DB", "ROLE");
    };
    check("t", &[("url", &closed)]).await;
    check("t", &[("url", &format!("postgres://postgres@{address}/nodb"))]).await;
    check("t", &[("url", &format!("postgres://nobody@{address}/{}", db.name))]).await;
    check("t", &[("url", &db.url()), ("sslmode", "require")]).await;
    check("gone", &[("url", &db.url())]).await;
    check("t", &[("url", &db.url()), ("schema", "other")]).await;
    check("t", &[("url", &weak)]).await;
    check("half", &[("url", &db.url())]).await;
    check("nokey", &[("url", &db.url()), ("key.nokey", "clientid")]).await;
    check("nokey", &[("url", &db.url()), ("key.nokey", "id")]).await;
    expect_test::expect![[r#"
        Unavailable: cannot connect to 127.0.0.1:CLOSED/x: no answer from PostgreSQL while connecting: error connecting to server: Connection refused (os error 111); nothing to do if the target is being restarted; else look at it and at the way to it
        Misconfigured: cannot connect to 127.0.0.1:PORT/nodb: PostgreSQL refused while connecting: database "nodb" does not exist (SQLSTATE 3D000); the database does not exist: create it or correct the name
        Misconfigured: cannot connect to 127.0.0.1:PORT/DB: PostgreSQL refused while connecting: role "nobody" does not exist (SQLSTATE 28000); the server does not let this user in: see `user` and its pg_hba.conf
        Misconfigured: cannot connect to 127.0.0.1:PORT/DB: no answer from PostgreSQL while connecting: error performing TLS handshake: server does not support TLS; see that `sslmode`, `sslrootcert` and the host's name fit the server's certificate
        Misconfigured: the table "gone" does not exist in 127.0.0.1:PORT/DB; run `muster migrate` if it is one of Muster's own tables, or create it; the first delivery proposes a statement that fits the rows
        Misconfigured: the table "other"."t" does not exist in 127.0.0.1:PORT/DB; run `muster migrate` if it is one of Muster's own tables, or create it; the first delivery proposes a statement that fits the rows
        Misconfigured: the user `ROLE` may not INSERT into "public"."t"; GRANT INSERT ON "public"."t" TO ...;
        Misconfigured: "public"."half" has some of the columns _event_id, _rule, _row, not all; add the others, or drop these
        Misconfigured: the table "public"."nokey" has no unique index on ("clientid"); CREATE UNIQUE INDEX ON "public"."nokey" ("clientid");
        Misconfigured: the table "public"."nokey" has no column `id`; see the sink's options `key.` and `guard.`
    "#]].assert_eq(&said);
    let mut sink: Box<dyn Sink> = db.sink(&[]);
    sink.check().await.unwrap();
    db.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
