//! Creates the bucket or the database, and remembers it in the measurement `_muster_migrations` of that very bucket. A
//! mark lives as long as any point there; a step may be taken twice, and then changes nothing.

use muster_core::clock::SharedClock;
use reqwest::{Method, StatusCode};

use super::answer::Verdict;
use super::client::Client;
use super::config::{Api, Connection, Retention};
use crate::error::SinkError;
use crate::migrate::{Migrate, Migration};
use crate::registry::{Options, SinkEnv};
use crate::sink::BoxFuture;

const BUCKET: &str = include_str!("../../../migrations/influxdb/0001_bucket.json");
const DATABASE: &str = include_str!("../../../migrations/influxdb/0001_database.influxql");
const POLICY: &str = include_str!("../../../migrations/influxdb/0001_retention_policy.influxql");
/// Where it is written which steps were taken; with the step's number in the tag `version`.
const MARKS: &str = "_muster_migrations";
const NANOSECONDS_PER_MS: i64 = 1_000_000;

pub(super) struct Target {
    connection: Connection,
    retention: Option<Retention>,
    clock: SharedClock,
    client: Option<Client>,
}

/// What is there, in the server's own terms.
enum Place {
    /// InfluxDB 1: a database, and a retention policy where it is not the default.
    Database(String, Option<String>),
    /// InfluxDB 2.
    Bucket { org: String, bucket: String },
}

impl Target {
    pub(super) fn new(options: &Options<'_>, env: &SinkEnv) -> Result<Self, SinkError> {
        let (connection, retention) = (Connection::parse(options, env)?, Retention::parse(options)?);
        Ok(Self { connection, retention, clock: env.clock.clone(), client: None })
    }

    fn client(&mut self) -> Result<&Client, SinkError> {
        if self.client.is_none() {
            self.client = Some(Client::new(&self.connection, self.clock.clone())?);
        }
        self.client.as_ref().ok_or_else(|| SinkError::unavailable("the sink is not open"))
    }

    /// As the options name it. Whether a bucket of v2 is a database of InfluxDB 1.8 only the server can tell.
    fn text(&self, place: &Place) -> String {
        let seconds = self.retention.as_ref().map_or(0, |retention| retention.seconds).to_string();
        let duration = self.retention.as_ref().map_or("INF", |retention| retention.text.as_str());
        match place {
            Place::Database(database, None) => {
                DATABASE.replace("${database}", database).replace("${duration}", duration)
            }
            Place::Database(database, Some(policy)) => {
                let text = POLICY.replace("${database}", database).replace("${policy}", policy);
                text.replace("${duration}", duration)
            }
            Place::Bucket { bucket, .. } => {
                BUCKET.replace("${bucket}", bucket).replace("${seconds}", &seconds)
            }
        }
    }

    fn named(&self) -> Place {
        match &self.connection.api {
            Api::V1 { database, policy, .. } => Place::Database(database.clone(), policy.clone()),
            Api::V2 { org, bucket } => {
                Place::Bucket { org: org.clone().unwrap_or_default(), bucket: bucket.clone() }
            }
        }
    }

    /// What the server calls it: InfluxDB 1.8 takes points for buckets, and keeps them in databases.
    async fn place(&mut self) -> Result<Place, SinkError> {
        let named = self.named();
        let Place::Bucket { bucket, .. } = &named else { return Ok(named) };
        let client = self.client()?;
        let ping = client.ask(Method::GET, "ping", &[], None).await?;
        if ping.status.is_server_error() {
            return Err(client.refused(&ping, "cannot ask for the version"));
        }
        if !ping.is_version_1() {
            return Ok(named);
        }
        Ok(match bucket.split_once('/') {
            Some((database, policy)) => Place::Database(database.to_owned(), Some(policy.to_owned())),
            None => Place::Database(bucket.clone(), None),
        })
    }

    async fn create(&mut self, place: &Place) -> Result<(), SinkError> {
        let text = self.text(place);
        let client = self.client()?;
        match place {
            Place::Database(..) => influxql(client, "", text.trim()).await.map(drop),
            Place::Bucket { org, bucket } => create_bucket(client, org, bucket, text).await,
        }
    }

    async fn mark(&mut self, migration: &Migration) -> Result<(), SinkError> {
        let at = self.clock.wall_ms().saturating_mul(NANOSECONDS_PER_MS);
        let Migration { version, name, .. } = migration;
        let line = format!("{MARKS},version={version} name=\"{name}\" {at}\n");
        match self.client()?.write(line.into()).await? {
            Verdict::Written => Ok(()),
            Verdict::Refused(refusal) => {
                let message = format!("cannot write down that a step was taken: {}", refusal.reason);
                Err(SinkError::misconfigured(message))
            }
        }
    }
}

impl Migrate for Target {
    fn migrations(&self) -> Vec<Migration> {
        let place = self.named();
        let name = if matches!(place, Place::Bucket { .. }) { "bucket" } else { "database" };
        vec![Migration::new(1, name, self.text(&place))]
    }

    fn applied(&mut self) -> BoxFuture<'_, Result<Vec<u32>, SinkError>> {
        Box::pin(async move {
            match self.place().await? {
                Place::Database(database, policy) => {
                    let of = policy.map_or_else(String::new, |policy| format!("\"{policy}\"."));
                    let query = format!("SELECT \"version\", \"name\" FROM {of}\"{MARKS}\"");
                    marks_of_database(self.client()?, &database, &query).await
                }
                Place::Bucket { org, bucket } => marks_of_bucket(self.client()?, &org, &bucket).await,
            }
        })
    }

    fn apply<'a>(&'a mut self, migration: &'a Migration) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let place = self.place().await?;
            self.create(&place).await?;
            self.mark(migration).await
        })
    }
}

/// The answer to a statement; an error of the statement is an error.
async fn influxql(client: &Client, database: &str, query: &str) -> Result<serde_json::Value, SinkError> {
    let form = ("application/x-www-form-urlencoded", form_field("q", query));
    let answer = client.ask(Method::POST, "query", &[("db", database)], Some(form)).await?;
    if answer.status != StatusCode::OK {
        return Err(client.refused(&answer, "the statement failed"));
    }
    let json: serde_json::Value = serde_json::from_str(&answer.text)
        .map_err(|error| SinkError::misconfigured("the answer is none of InfluxDB's").caused_by(error))?;
    let results = json.get("results").and_then(serde_json::Value::as_array).into_iter().flatten();
    let said = results.filter_map(|result| result.get("error")?.as_str()).next();
    match said {
        Some(said) => {
            let error = SinkError::misconfigured(format!("InfluxDB refuses the statement: {said}"));
            Err(if said.contains("conflicts") {
                error.with_hint("it is there with another duration: alter the one or the other by hand")
            } else {
                error.with_hint("see that the user may create databases, or let an administrator do it")
            })
        }
        None => Ok(json),
    }
}

/// The numbers in the column `version`.
async fn marks_of_database(client: &Client, database: &str, query: &str) -> Result<Vec<u32>, SinkError> {
    let json = match influxql(client, database, query).await {
        Ok(json) => json,
        Err(error) if error.in_words().contains("database not found") => return Ok(Vec::new()),
        Err(error) if error.in_words().contains("retention policy not found") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let rows = json.pointer("/results/0/series/0/values").and_then(serde_json::Value::as_array);
    let version = |row: &serde_json::Value| row.get(1)?.as_str()?.parse().ok();
    Ok(rows.into_iter().flatten().filter_map(version).collect())
}

async fn marks_of_bucket(client: &Client, org: &str, bucket: &str) -> Result<Vec<u32>, SinkError> {
    let query = format!(
        "from(bucket: \"{bucket}\") |> range(start: 0) |> filter(fn: (r) => r._measurement == \"{MARKS}\") \
         |> keep(columns: [\"version\"])"
    );
    let body = Some(("application/vnd.flux", query));
    let answer = client.ask(Method::POST, "api/v2/query", &[("org", org)], body).await?;
    if answer.text.contains("could not find bucket") || answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    if answer.status != StatusCode::OK {
        return Err(client.refused(&answer, "cannot look which steps were taken"));
    }
    Ok(column(&answer.text, "version").iter().filter_map(|version| version.parse().ok()).collect())
}

async fn create_bucket(client: &Client, org: &str, bucket: &str, text: String) -> Result<(), SinkError> {
    let missing = || {
        SinkError::misconfigured(format!("InfluxDB has no organisation `{org}` that the token may see"))
            .with_hint("name the organisation in `org`, and use a token that may create buckets there")
    };
    let answer = client.ask(Method::GET, "api/v2/orgs", &[("org", org)], None).await?;
    if answer.status == StatusCode::NOT_FOUND && !answer.text.contains("page not found") {
        return Err(missing());
    }
    if answer.status != StatusCode::OK {
        return Err(client.refused(&answer, "cannot look for the organisation"));
    }
    let json: serde_json::Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let id = json.pointer("/orgs/0/id").and_then(serde_json::Value::as_str).ok_or_else(missing)?;
    let body = ("application/json", text.replace("${org_id}", id));
    let answer = client.ask(Method::POST, "api/v2/buckets", &[], Some(body)).await?;
    match answer.status.as_u16() {
        201 => Ok(()),
        // It was there before; its retention is its owner's.
        409 | 422 if answer.text.contains("already exists") => Ok(()),
        _ => Err(client.refused(&answer, &format!("cannot create the bucket `{bucket}`"))),
    }
}

/// The values of a column in the CSV that Flux answers with; ours have neither quotes nor commas.
fn column<'a>(csv: &'a str, name: &str) -> Vec<&'a str> {
    let mut at = None;
    let mut found = Vec::new();
    for line in csv.lines().map(str::trim_end).filter(|line| !line.starts_with('#')) {
        let mut cells = line.split(',');
        if let Some(place) = line.split(',').position(|cell| cell == name) {
            at = Some(place);
        } else if let Some(value) = at.and_then(|place| cells.nth(place)) {
            found.push(value);
        }
    }
    found
}

/// `name=value` as a form has it.
fn form_field(name: &str, value: &str) -> String {
    let mut field = format!("{name}=");
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                field.push(char::from(byte))
            }
            _ => field.push_str(&format!("%{byte:02X}")),
        }
    }
    field
}
