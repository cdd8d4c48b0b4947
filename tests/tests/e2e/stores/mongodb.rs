//! MongoDB, or what speaks its protocol.

use std::ops::Range;

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use muster_test_servers::Server;
use muster_tests::{Home, tools};
use serde_json::{Value, json};

use super::store::{Asked, Rows, Store, query, rfc3339, shipped};
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

    /// The answer to a query of the examples, about a client where it is about one.
    async fn told(&self, name: &str, command: &str, client: &str) -> Option<Rows> {
        if name == "uptime" {
            return self.emulated(command, client).await;
        }
        let command: Document = serde_json::from_str(command).expect("JSON");
        let answer = self.database().await.run_command(command).await.expect("an answer");
        let rows = answer.get_document("cursor").and_then(|it| it.get_array("firstBatch")).expect("rows");
        let fields = if name == "offline" {
            &["clientid", "disconnected_at", "reason"][..]
        } else {
            &["_id", "disconnects"][..]
        };
        Some(rows.iter().filter_map(Bson::as_document).map(|it| cells(it, fields)).collect())
    }

    /// FerretDB has no accumulators `$min` and `$max` and does not reckon with dates, so that another emulator,
    /// mongomock, runs the pipeline, over what FerretDB holds. None where it is missing.
    async fn emulated(&self, command: &str, client: &str) -> Option<Rows> {
        let python = tools::find("mongomock")?;
        let documents = self.documents("device_history").await.into_iter();
        let documents = documents.map(|it| serde_json::to_value(it).expect("Extended JSON"));
        let command = serde_json::from_str::<Value>(command).expect("JSON");
        let given = json!({ "documents": documents.collect::<Vec<_>>(), "command": command });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/mongo_aggregate.py");
        let told = tools::run_with_input(tools::command(python).arg(script), &given.to_string()).await;
        let row = |line: &str| {
            let told: Value = serde_json::from_str(line).expect("JSON");
            vec![told["_id"].as_str().expect("a client").to_owned(), told["online_ms"].to_string()]
        };
        let rows = told.lines().map(row).collect::<Rows>();
        // No document says that nothing is known of the device, which makes 0.
        Some(if rows.is_empty() { vec![vec![client.to_owned(), "0".to_owned()]] } else { rows })
    }

    async fn documents(&self, collection: &str) -> Vec<Document> {
        let database = self.database().await;
        let mut found = database.collection::<Document>(collection).find(doc! {}).await.expect("documents");
        let mut documents = Vec::new();
        while found.advance().await.expect("the next document") {
            documents.push(found.deserialize_current().expect("a document"));
        }
        documents
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
        let (since, until) = (rfc3339(asked.since_ms), rfc3339(asked.until_ms));
        let mut words =
            vec![("2026-01-01T00:00:00Z", since.as_str()), ("2026-01-08T00:00:00Z", until.as_str())];
        if name == "uptime" {
            words.push(("meter-1", asked.client.as_str()));
        }
        self.told(name, &query::<Self>(name, "json", &words), &asked.client).await
    }

    /// The dates that the files name.
    const SHIPPED_MS: Range<i64> = 1_767_225_600_000..1_767_830_400_000;

    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        self.told(name, &shipped::<Self>(name, "json"), "meter-1").await
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        self.documents(table).await.iter().map(|it| cells(it, columns)).collect()
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
