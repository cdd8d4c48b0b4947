//! The collections that rules write to without a mapping, with the indexes that make them answer quickly. Steps are
//! lists of commands in `migrations/mongodb/`; which were taken stands in the collection `_muster_migrations`.

use mongodb::bson::{Bson, Document, doc};
use muster_core::clock::SharedClock;

use super::client::Client;
use super::config::Config;
use crate::error::SinkError;
use crate::migrate::{Migrate, Migration};
use crate::sink::BoxFuture;

const TABLE: &str = "_muster_migrations";

const STEPS: [(u32, &str, &str); 4] = [
    (1, "device_status", include_str!("../../../migrations/mongodb/0001_device_status.json")),
    (2, "device_history", include_str!("../../../migrations/mongodb/0002_device_history.json")),
    (3, "device_messages", include_str!("../../../migrations/mongodb/0003_device_messages.json")),
    // 4 is the expiry, which not every sink has.
    (5, "device_alarms", include_str!("../../../migrations/mongodb/0005_device_alarms.json")),
];
/// Taken only where the sink says how long rows are kept.
const EXPIRY: (u32, &str, &str) = (4, "expiry", include_str!("../../../migrations/mongodb/0004_expiry.json"));
/// Stands for the time, in seconds, in [`EXPIRY`].
const KEEP_SECONDS: &str = "\"${keep_seconds}\"";

pub(super) struct Migrations {
    pub(super) config: Config,
    pub(super) keep_seconds: Option<u64>,
    pub(super) clock: SharedClock,
    pub(super) client: Option<Client>,
}

impl Migrations {
    async fn client(&mut self) -> Result<&Client, SinkError> {
        if self.client.is_none() {
            let client = Client::new(&self.config).await?;
            client.ping().await?;
            self.client = Some(client);
        }
        self.client.as_ref().ok_or_else(|| SinkError::unavailable("MongoDB is not connected"))
    }
}

impl Migrate for Migrations {
    fn migrations(&self) -> Vec<Migration> {
        let mut all: Vec<_> =
            STEPS.iter().map(|(version, name, text)| Migration::new(*version, *name, *text)).collect();
        if let Some(seconds) = self.keep_seconds {
            let (version, name, text) = EXPIRY;
            all.push(Migration::new(version, name, text.replace(KEEP_SECONDS, &seconds.to_string())));
        }
        all.sort_by_key(|step| step.version);
        all
    }

    fn applied(&mut self) -> BoxFuture<'_, Result<Vec<u32>, SinkError>> {
        Box::pin(async move {
            let client = self.client().await?;
            // A handful of documents: they fit into the first answer.
            let find = doc! { "find": TABLE, "projection": { "_id": 1 }, "singleBatch": true };
            let answer = client.run(find, "reading which steps MongoDB has taken failed").await?;
            let taken = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
            let taken = taken.map(Vec::as_slice).unwrap_or_default();
            Ok(taken.iter().filter_map(Bson::as_document).filter_map(version).collect())
        })
    }

    fn apply<'a>(&'a mut self, migration: &'a Migration) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let at = mongodb::bson::DateTime::from_millis(self.clock.wall_ms());
            let client = self.client().await?;
            for command in commands(&migration.text)? {
                client.run(command, "MongoDB refuses a step").await?;
            }
            let taken = doc! { "q": { "_id": i64::from(migration.version) },
            "u": { "$set": { "name": &migration.name, "at": at } }, "upsert": true };
            let note = doc! { "update": TABLE, "updates": [taken] };
            client.run(note, "writing down a step in MongoDB failed").await.map(drop)
        })
    }
}

fn version(taken: &Document) -> Option<u32> {
    match taken.get("_id")? {
        Bson::Int32(version) => u32::try_from(*version).ok(),
        Bson::Int64(version) => u32::try_from(*version).ok(),
        _ => None,
    }
}

/// The commands of a step: a list of documents in JSON.
pub(super) fn commands(text: &str) -> Result<Vec<Document>, SinkError> {
    serde_json::from_str(text).map_err(|error| {
        SinkError::misconfigured("a step for MongoDB is no list of commands").caused_by(error)
    })
}
