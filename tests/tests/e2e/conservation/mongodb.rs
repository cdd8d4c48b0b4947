//! MongoDB, or what speaks its protocol. Poison has a mark that another document has already, and an index says that
//! there may be one such.

use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, IndexModel};
use muster_test_servers::Proxy;

use super::run::conserve;
use super::target::{Arrived, POISON, Served, TABLE, Target};

/// The user that `tests/servers/mongodb` makes.
const LOGIN: &str = "muster:secret";
const DATABASE: &str = "conservation";

pub(super) struct MongoDb(Served);

impl MongoDb {
    /// None where the server cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        let target = Self(Served::start("mongodb").await?);
        let collection = target.collection().await;
        let options = IndexOptions::builder().unique(true).sparse(true).build();
        let index = IndexModel::builder().keys(doc! {"mark": 1}).options(options).build();
        collection.create_index(index).await.expect("an index");
        collection.insert_one(doc! {"mark": POISON}).await.expect("a document");
        Some(target)
    }

    /// Over a connection that the way's weather does not touch.
    async fn collection(&self) -> Collection<Document> {
        let url =
            format!("mongodb://{LOGIN}@{}/?directConnection=true&authSource=admin", self.0.server.address());
        let client = Client::with_uri_str(url).await.expect("a client");
        client.database(DATABASE).collection(TABLE)
    }
}

impl Target for MongoDb {
    fn declaration(&self) -> String {
        let url = format!(
            "mongodb://{LOGIN}@{}/{DATABASE}?directConnection=true&authSource=admin",
            self.0.way.address()
        );
        format!("mongodb WITH (url = '{url}', timeout_ms = 2000)")
    }

    /// Absent, and so in no index, where the message is no poison.
    fn value(&self) -> &'static str {
        "payload.mark AS mark, payload.v"
    }

    /// A collection has none that is promised.
    fn keeps_order(&self) -> bool {
        false
    }

    fn way(&self) -> Option<&Proxy> {
        Some(&self.0.way)
    }

    async fn down(&mut self, at_once: bool) {
        self.0.down(at_once);
    }

    async fn up(&mut self) {
        self.0.up();
    }

    async fn rows(&mut self) -> Vec<Arrived> {
        let collection = self.collection().await;
        let mut documents = collection.find(doc! {"client": {"$exists": true}}).await.expect("documents");
        let mut rows = Vec::new();
        while documents.advance().await.expect("the next document") {
            let row = documents.deserialize_current().expect("a document");
            let client = row.get_str("client").expect("a client");
            rows.push(Arrived::new(client, row.get_i64("n").expect("a number")));
        }
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    if let Some(target) = MongoDb::start().await {
        conserve(target).await;
    }
}
