//! MongoDB, or what speaks its protocol.

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use muster_test_servers::Server;
use muster_tests::Home;

use super::store::{Asked, Rows, Store, query, rfc3339};
use super::{alarms, backfill, scene};

struct MongoDb(Server);

impl MongoDb {
    fn start() -> Option<Self> {
        tokio::task::block_in_place(|| Server::own("mongodb")).map(Self)
    }

    async fn database(&self) -> Database {
        let address = self.0.address();
        let url = format!("mongodb://muster:secret@{address}/?directConnection=true&authSource=admin");
        Client::with_uri_str(url).await.expect("a client").database("fleet")
    }
}

/// Fields of a document.
fn cells(document: &Document, fields: &[&str]) -> Vec<String> {
    let cell = |field: &&str| match document.get(field) {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) => text.clone(),
        Some(Bson::Int64(number)) => number.to_string(),
        Some(Bson::Int32(number)) => number.to_string(),
        Some(Bson::DateTime(time)) => time.timestamp_millis().to_string(),
        Some(other) => panic!("{other:?} in {document:?}"),
    };
    fields.iter().map(cell).collect()
}

impl Store for MongoDb {
    const NAME: &'static str = "mongodb";

    fn environment(&self) -> Vec<(&'static str, String)> {
        let url = format!("mongodb://{}/?directConnection=true", self.0.address());
        let [database, user, password] = ["fleet", "muster", "secret"].map(str::to_owned);
        vec![
            ("DEVICES_URL", url),
            ("DEVICES_DATABASE", database),
            ("DEVICES_USER", user),
            ("DEVICES_PASSWORD", password),
        ]
    }

    async fn answer(&self, _: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        if name == "uptime" {
            // FerretDB has none of the operators that it takes.
            return None;
        }
        let (since, until) = (rfc3339(asked.since_ms), rfc3339(asked.until_ms));
        let words = [("2026-01-01T00:00:00Z", since.as_str()), ("2026-01-08T00:00:00Z", until.as_str())];
        let command: Document = serde_json::from_str(&query::<Self>(name, "json", &words)).expect("JSON");
        let answer = self.database().await.run_command(command).await.expect("an answer");
        let rows = answer.get_document("cursor").and_then(|it| it.get_array("firstBatch")).expect("rows");
        let fields = if name == "offline" {
            &["clientid", "disconnected_at", "reason"][..]
        } else {
            &["_id", "disconnects"][..]
        };
        Some(rows.iter().filter_map(Bson::as_document).map(|it| cells(it, fields)).collect())
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        let mut found =
            self.database().await.collection::<Document>(table).find(doc! {}).await.expect("documents");
        let mut rows = Vec::new();
        while found.advance().await.expect("the next document") {
            rows.push(cells(&found.deserialize_current().expect("a document"), columns));
        }
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    if let Some(store) = MongoDb::start() {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = MongoDb::start() {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = MongoDb::start() {
        alarms::play(store).await;
    }
}
