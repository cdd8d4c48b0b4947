//! A collection of MongoDB behind a proxy. What is poison collides with a document that is there already in a unique
//! index: a refusal that looks just like that of a row that was delivered before.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use muster_sinks::Built;
use muster_test_servers::{Proxy, Server};

use crate::{Subject, built, env, history};

/// More offsets than a history has.
const OFFSETS: i64 = 1_000;
/// Each history has a database of its own.
static DATABASES: AtomicU64 = AtomicU64::new(0);

struct MongoDb {
    _server: Arc<Server>,
    proxy: Proxy,
    database: Database,
}

impl MongoDb {
    async fn new(server: Arc<Server>) -> Self {
        let name = format!("contract_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        let client =
            Client::with_uri_str(format!("mongodb://muster:secret@{}", server.address())).await.unwrap();
        let database = client.database(&name);
        let unique =
            doc! { "key": { "payload": 1, "offset": 1, "part": 1 }, "name": "strict", "unique": true };
        database.run_command(doc! { "createIndexes": "rule", "indexes": [unique] }).await.unwrap();
        let poison =
            |offset: i64| doc! { "payload": "poison", "offset": offset, "part": 0_i64, "taken": true };
        let taken: Vec<_> = (0..OFFSETS).map(poison).collect();
        database.collection("rule").insert_many(taken).await.unwrap();
        Self { proxy: Proxy::before(server.address()).await, _server: server, database }
    }
}

impl Subject for MongoDb {
    fn build(&self) -> Built {
        let url = format!("mongodb://{}/{}", self.proxy.address(), self.database.name());
        let options =
            [("url", url.as_str()), ("username", "muster"), ("password", "secret"), ("timeout_ms", "2000")];
        built("mongodb", &env(Path::new("/nowhere")), &options)
    }

    fn go_away(&self) {
        self.proxy.close();
    }

    fn come_back(&self) {
        self.proxy.open();
    }

    fn be_cured(&self) {
        wait(async {
            let rule = self.database.collection::<Document>("rule");
            rule.delete_many(doc! { "taken": true }).await.unwrap();
        });
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        wait(async {
            let rule = self.database.collection::<Document>("rule");
            let mut rows = rule.find(doc! { "taken": { "$exists": false } }).await.unwrap();
            let mut places = Vec::new();
            while rows.advance().await.unwrap() {
                let row = rows.deserialize_current().unwrap();
                places.push((row.get_i64("offset").unwrap(), row.get_i64("part").unwrap()));
            }
            places
        })
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb() {
    let Some(server) = Server::shared("mongodb") else { return };
    for seed in 0..4 {
        history(&MongoDb::new(server.clone()).await, seed).await;
    }
}
