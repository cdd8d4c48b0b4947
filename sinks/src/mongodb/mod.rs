//! MongoDB: a document a row, under an `_id` that is the same on every attempt, so that the server itself tells a
//! repetition from news; or one document a key, guarded so that an older row never replaces a newer one.

mod client;
mod codes;
mod config;
mod deliver;
mod encode;
mod migrate;
#[cfg(test)]
mod tests;
mod upserts;

use std::time::Duration;

use mongodb::bson::{Document, doc};

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::SinkError;
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, Sink};
use crate::upsert;

use client::Client;
use config::{Config, TimeSeries};
use encode::Encoder;
use migrate::Migrations;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "mongodb",
    summary: "a collection of MongoDB: a document a row, or one a key with `key.COLLECTION`",
    options: &[
        OptionSpec::secret("url", "the servers, `mongodb://HOST:PORT,HOST:PORT/DATABASE?OPTION=VALUE`"),
        OptionSpec::new("database", None, "the database, where the address names none"),
        OptionSpec::new("username", None, "who we are, where the address does not say so"),
        OptionSpec::secret("password", "its password"),
        OptionSpec::new("auth_source", None, "the database that knows the user; `admin` if nothing is said"),
        OptionSpec::new(
            "auth_mechanism",
            None,
            "`SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509` or `PLAIN`; agreed upon if nothing is said",
        ),
        OptionSpec::new("ca_file", None, "TLS, with the authorities of this file (PEM) and no others"),
        OptionSpec::new("cert_file", None, "TLS, with our certificate and its key in this file (PEM)"),
        OptionSpec::new("timeout_ms", Some("10000"), "how long a connection and an answer may take"),
        OptionSpec::new(
            "write_concern",
            Some("majority"),
            "how many members must have a write before it counts: `majority`, or a number; with less than a majority \
             a failover may lose rows that were counted as delivered",
        ),
        OptionSpec::new("journal", Some("true"), "`true`: a write counts once it is in the journal on disk"),
        OptionSpec::new(
            "times",
            Some("timestamp,at,connected_at,disconnected_at,publish_received_at"),
            "columns whose milliseconds since 1970, or RFC 3339, become dates; empty: none",
        ),
        upsert::KEY,
        upsert::GUARD,
        OptionSpec::new("time_series", Some("false"), "`true`: the target is a time-series collection"),
        OptionSpec::new("time_field", None, "the column with the time of a time series (`timestamp`)"),
        OptionSpec::new("meta_field", None, "the column that tells series apart, e.g. `clientid`"),
        OptionSpec::new(
            "keep_days",
            None,
            "after so many days device_history and device_messages forget rows",
        ),
    ],
    example: "CREATE SINK mongo TYPE mongodb WITH (url = 'mongodb://mongo.example.com/fleet', username = 'muster', \
              password = '${env:MONGO_PASSWORD}');",
    page: "sinks/docs/mongodb.md",
    limits: Limits {
        batch_rows_max: 2_000,
        batch_bytes_max: 8 << 20,
        batch_wait: Duration::from_millis(20),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: Some(|options, env| {
        let (config, keep_seconds) = (Config::parse(options, env)?, config::keep_seconds(options)?);
        Ok(Box::new(Migrations { config, keep_seconds, clock: env.clock.clone(), client: None }))
    }),
    build: |options, env| {
        let config = Config::parse(options, env)?;
        config::keep_seconds(options)?;
        let encoder = Encoder::new(&config);
        Ok(Box::new(MongoDb { config, encoder, client: None, settled: false }))
    },
};

struct MongoDb {
    config: Config,
    encoder: Encoder,
    client: Option<Client>,
    /// Whether the last batch that was begun has got its answer.
    settled: bool,
}

impl MongoDb {
    async fn client(&mut self) -> Result<&Client, SinkError> {
        if self.client.is_none() {
            self.client = Some(Client::new(&self.config).await?);
        }
        self.opened()
    }

    fn opened(&self) -> Result<&Client, SinkError> {
        self.client.as_ref().ok_or_else(|| SinkError::unavailable("the sink is not open"))
    }
}

impl Sink for MongoDb {
    /// A document that is there already is known by its `_id`, whatever batch it comes in. A time series knows no
    /// such thing; there the sink looks first, and must be asked about the very rows of the attempt that is in doubt.
    fn wants_recorded_batches(&self) -> bool {
        self.config.time_series.is_some()
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            self.settled = false;
            let series = self.config.time_series.clone();
            let collection = self.config.collection.clone();
            let client = self.client().await?;
            client.ping().await?;
            if let Some(series) = series {
                ensure_series(client, &collection, &series).await?;
            }
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let in_doubt = !std::mem::take(&mut self.settled);
            let client = self.opened()?;
            let series = self.config.time_series.as_ref();
            let doubtful = series.filter(|_| in_doubt).map(|series| series.time.as_str());
            let outcome = match &self.config.upsert {
                _ if batch.is_empty() => Outcome::Durable(Durable::promise(batch)),
                Some(upsert) => deliver::upsert(client, &self.encoder, upsert, batch).await?,
                None => deliver::insert(client, &self.encoder, batch, doubtful).await?,
            };
            self.settled = true;
            Ok(outcome)
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let (database, collection) = (self.config.database.clone(), self.config.collection.clone());
            let upserts = self.config.upsert.is_some();
            let client = self.client().await?;
            client.ping().await?;
            may_write(client, &database, &collection, upserts).await
        })
    }
}

/// Makes the time series where it is missing, with the columns that the options name.
async fn ensure_series(client: &Client, collection: &str, series: &TimeSeries) -> Result<(), SinkError> {
    const WHAT: &str = "asking MongoDB for the time series failed";
    let list = doc! { "listCollections": 1, "filter": { "name": collection } };
    let answer = client.run(list, WHAT).await?;
    let found = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let found = found.ok().and_then(|found| found.first()?.as_document().cloned());
    let Some(found) = found else {
        let mut timeseries = doc! { "timeField": &series.time };
        if let Some(meta) = &series.meta {
            timeseries.insert("metaField", meta);
        }
        let create = doc! { "create": collection, "timeseries": timeseries };
        return client.run(create, "making the time series failed").await.map(drop);
    };
    let there = found.get_document("options").and_then(|options| options.get_document("timeseries"));
    match there {
        Ok(there) if there.get_str("timeField").is_ok_and(|time| time == series.time) => Ok(()),
        Ok(_) => {
            Err(SinkError::misconfigured(format!("the time series `{collection}` has another time field"))
                .with_hint("set `time_field` to the collection's own, or name another collection"))
        }
        Err(_) => Err(SinkError::misconfigured(format!("the collection `{collection}` is no time series"))
            .with_hint("leave out `time_series`, or name a collection that does not exist yet")),
    }
}

/// Asks the server what we may do, where it says so; nothing is written.
async fn may_write(
    client: &Client,
    database: &str,
    collection: &str,
    upserts: bool,
) -> Result<(), SinkError> {
    let ask = doc! { "connectionStatus": 1, "showPrivileges": true };
    let answer = client.run(ask, "asking MongoDB for our rights failed").await?;
    let Ok(info) = answer.get_document("authInfo") else { return Ok(()) };
    let nobody = info.get_array("authenticatedUsers").is_ok_and(Vec::is_empty);
    let Ok(privileges) = info.get_array("authenticatedUserPrivileges") else { return Ok(()) };
    // Without a user a server that asks for none lists no privileges either.
    if nobody && privileges.is_empty() {
        return Ok(());
    }
    let needed: &[&str] = if upserts { &["insert", "update", "find"] } else { &["insert", "find"] };
    let may = |action: &&str| {
        let mut granted = privileges.iter().filter_map(mongodb::bson::Bson::as_document);
        granted.any(|privilege| covers(privilege, database, collection) && grants(privilege, action))
    };
    let missing: Vec<_> = needed.iter().copied().filter(|action| !may(action)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("the user may not {} in {database}.{collection}", missing.join(" nor "));
    Err(SinkError::misconfigured(message)
        .with_hint("give the user the role readWrite on the sink's database"))
}

fn covers(privilege: &Document, database: &str, collection: &str) -> bool {
    let Ok(resource) = privilege.get_document("resource") else { return false };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return true;
    }
    let fits = |part, name: &str| resource.get_str(part).is_ok_and(|given| given.is_empty() || given == name);
    fits("db", database) && fits("collection", collection)
}

fn grants(privilege: &Document, action: &str) -> bool {
    let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
    actions
        .iter()
        .filter_map(mongodb::bson::Bson::as_str)
        .any(|granted| granted == action || granted == "anyAction")
}
