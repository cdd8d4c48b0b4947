//! The connection, the commands that deliver, and what their errors mean. It must never know a row.

use std::future::{Future, IntoFuture};
use std::path::Path;
use std::time::Duration;

use mongodb::bson::raw::cstr;
use mongodb::bson::{
    Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc, serialize_to_raw_document_buf,
};
use mongodb::error::{Error, ErrorKind as Mongo, WriteFailure};
use mongodb::options::{ClientOptions, Credential, Tls, TlsOptions, WriteConcern};
use mongodb::{Collection, Database};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::codes::{Meaning, hint};
use super::config::{Config, Login};
use crate::error::{ErrorKind, SinkError};

/// Connections that one pipeline may have beside those that watch the servers. A batch goes after the other.
const CONNECTIONS_MAX: u32 = 2;
/// How much longer than a server may take we wait for its word: it may say by itself that its time is up.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Client {
    pub(super) database: Database,
    collection: Collection<RawDocumentBuf>,
    write_concern: WriteConcern,
    timeout: Duration,
}

/// What a server says about one document of many.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Which of those that were sent.
    pub(super) index: usize,
    pub(super) meaning: Meaning,
    pub(super) reason: String,
}

impl Refusal {
    fn new(index: usize, code: i32, message: &str) -> Self {
        Self { index, meaning: Meaning::of_document(code), reason: format!("{message} (code {code})") }
    }
}

impl Client {
    /// Sets a client up; it connects when it is first asked something.
    pub(super) async fn new(config: &Config) -> Result<Self, SinkError> {
        let unusable = |error: Error| trouble(error, "the address of MongoDB cannot be used");
        let mut options = ClientOptions::parse(&config.url).await.map_err(unusable)?;
        options.app_name.get_or_insert_with(|| "muster".into());
        options.server_selection_timeout = Some(config.timeout);
        options.connect_timeout = Some(config.timeout);
        options.max_pool_size = Some(CONNECTIONS_MAX);
        options.min_pool_size = None;
        options.write_concern = Some(config.write_concern.clone());
        // Where reads may go does not matter: what we ask is what we wrote.
        options.selection_criteria = None;
        options.read_concern = None;
        if let Some(login) = &config.login {
            options.credential = Some(credential(login));
        }
        if config.ca_file.is_some() || config.cert_file.is_some() {
            options.tls = Some(Tls::Enabled(tls(config).await?));
        }
        let client = mongodb::Client::with_options(options).map_err(unusable)?;
        let database = client.database(&config.database);
        let collection = database.collection(&config.collection);
        let (write_concern, timeout) = (config.write_concern.clone(), config.timeout);
        Ok(Self { database, collection, write_concern, timeout })
    }

    /// Whether a server that takes writes answers, and knows us.
    pub(super) async fn ping(&self) -> Result<(), SinkError> {
        self.run(doc! { "ping": 1 }, "MongoDB does not answer").await.map(drop)
    }

    /// Runs a command; its answer. What went wrong with single documents stands in the answer.
    pub(super) async fn run(&self, command: Document, what: &'static str) -> Result<Document, SinkError> {
        self.within(self.database.run_command(command), what).await?.map_err(|error| trouble(error, what))
    }

    /// Inserts documents in no order; which were refused.
    pub(super) async fn insert(&self, documents: &[RawDocumentBuf]) -> Result<Vec<Refusal>, SinkError> {
        const WHAT: &str = "inserting into MongoDB failed";
        let insert = self.collection.insert_many(documents).ordered(false);
        let Err(error) = self.within(insert, WHAT).await? else { return Ok(Vec::new()) };
        let Mongo::InsertMany(failed) = error.kind.as_ref() else { return Err(trouble(error, WHAT)) };
        if let Some(concern) = &failed.write_concern_error {
            return Err(unconfirmed(concern.code, &concern.message));
        }
        let refused = failed.write_errors.iter().flatten();
        Ok(refused.map(|error| Refusal::new(error.index, error.code, &error.message)).collect())
    }

    /// Runs `statements` in one command; which were refused, and whether the server went through all of them.
    pub(super) async fn update(
        &self,
        statements: &[&RawDocumentBuf],
    ) -> Result<(Vec<Refusal>, bool), SinkError> {
        const WHAT: &str = "updating in MongoDB failed";
        let mut updates = RawArrayBuf::new();
        statements.iter().for_each(|statement| updates.push(*statement));
        let mut command = rawdoc! { "update": self.collection.name(), "ordered": false };
        let concern = serialize_to_raw_document_buf(&self.write_concern).map_err(|error| {
            SinkError::misconfigured("the write concern cannot be written").caused_by(error)
        })?;
        command.append(cstr!("writeConcern"), &concern);
        command.append(cstr!("updates"), &updates);
        let answer = self.within(self.database.run_raw_command(command), WHAT).await?;
        let answer = answer.map_err(|error| trouble(error, WHAT))?;
        if let Ok(concern) = answer.get_document("writeConcernError") {
            return Err(unconfirmed(number(concern, "code"), concern.get_str("errmsg").unwrap_or_default()));
        }
        let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let errors = errors.iter().filter_map(|error| error.as_document());
        let refused: Vec<_> = errors
            .map(|error| {
                let index = usize::try_from(number(error, "index")).unwrap_or(0);
                Refusal::new(index, number(error, "code"), error.get_str("errmsg").unwrap_or_default())
            })
            .collect();
        // Each statement finds or makes one document, or has an error.
        let done = usize::try_from(number(&answer, "n")).unwrap_or(0);
        Ok((refused, done + errors_len(&answer) == statements.len()))
    }

    /// The `_id`s of the documents that one of `filters` finds, each as a document that holds nothing else.
    pub(super) async fn found(&self, filters: &[Document]) -> Result<Vec<RawDocumentBuf>, SinkError> {
        const WHAT: &str = "asking MongoDB what is there failed";
        let mut found = Vec::new();
        for filter in filters {
            let find = self.collection.find(filter.clone()).projection(doc! { "_id": 1 });
            let mut cursor = self.within(find, WHAT).await?.map_err(|error| trouble(error, WHAT))?;
            while self.within(cursor.advance(), WHAT).await?.map_err(|error| trouble(error, WHAT))? {
                found.push(cursor.current().to_owned());
            }
        }
        Ok(found)
    }

    /// The answer, unless it takes too long. Giving up closes the connection; the server may finish all the same.
    async fn within<T>(
        &self,
        answer: impl IntoFuture<Output = T>,
        what: &'static str,
    ) -> Result<T, SinkError> {
        let limit = self.timeout + GRACE;
        within(limit, answer.into_future()).await.ok_or_else(|| {
            SinkError::unavailable(what).caused_by(format!("no answer within {} ms", limit.as_millis()))
        })
    }
}

async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

fn number(document: &Document, name: &str) -> i32 {
    match document.get(name) {
        Some(Bson::Int32(number)) => *number,
        Some(Bson::Int64(number)) => i32::try_from(*number).unwrap_or(i32::MAX),
        #[expect(clippy::cast_possible_truncation, reason = "a server's count or code")]
        Some(Bson::Double(number)) => *number as i32,
        _ => 0,
    }
}

fn errors_len(answer: &Document) -> usize {
    answer.get_array("writeErrors").map_or(0, Vec::len)
}

fn credential(login: &Login) -> Credential {
    let Login { username, password, source, mechanism } = login;
    let mut credential = Credential::default();
    credential.username.clone_from(username);
    credential.password.clone_from(password);
    credential.source.clone_from(source);
    credential.mechanism.clone_from(mechanism);
    credential
}

/// The files are looked at here, because the driver would take a missing one for a server that cannot be reached.
async fn tls(config: &Config) -> Result<TlsOptions, SinkError> {
    let mut options = TlsOptions::default();
    if let Some(path) = &config.ca_file {
        let pem = read(path, "ca_file").await?;
        if !CertificateDer::pem_slice_iter(&pem).any(|certificate| certificate.is_ok()) {
            return Err(SinkError::misconfigured(format!("{} holds no certificate (PEM)", path.display())));
        }
        options.ca_file_path = Some(path.clone());
    }
    if let Some(path) = &config.cert_file {
        read(path, "cert_file").await?;
        options.cert_key_file_path = Some(path.clone());
    }
    Ok(options)
}

async fn read(path: &Path, option: &str) -> Result<Vec<u8>, SinkError> {
    tokio::fs::read(path).await.map_err(|error| {
        SinkError::misconfigured(format!("cannot read `{option}`, {}", path.display())).caused_by(error)
    })
}

/// The write happened, but not as durably as was asked; doing it again asks again.
fn unconfirmed(code: i32, message: &str) -> SinkError {
    let meaning = Meaning::of(code);
    let kind = match meaning {
        Meaning::Configuration => ErrorKind::Misconfigured,
        _ => ErrorKind::Unavailable,
    };
    let what = format!("MongoDB did not confirm the write: {message} (code {code})");
    hinted(SinkError::new(kind, what), code)
}

fn hinted(error: SinkError, code: i32) -> SinkError {
    match hint(code) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// What an error of the driver means.
pub(super) fn trouble(error: Error, what: &'static str) -> SinkError {
    match error.kind.as_ref() {
        Mongo::Command(command) => {
            let (code, kind) = (command.code, Meaning::of(command.code).kind());
            // A refused document may be quoted in the words; only a dead letter may repeat them.
            let words = match kind {
                ErrorKind::RejectedBatch | ErrorKind::Misconfigured => {
                    format!("{what}: {} (code {code})", command.message)
                }
                _ => format!("{what}: {} (code {code})", command.code_name),
            };
            hinted(SinkError::new(kind, words), code)
        }
        Mongo::Write(WriteFailure::WriteConcernError(concern)) => unconfirmed(concern.code, &concern.message),
        Mongo::Write(WriteFailure::WriteError(write)) => {
            let kind = Meaning::of_document(write.code).kind();
            hinted(
                SinkError::new(kind, format!("{what}: {} (code {})", write.message, write.code)),
                write.code,
            )
        }
        Mongo::Authentication { message, .. } => {
            let words = format!("MongoDB does not let us in: {message}");
            hinted(SinkError::misconfigured(words), 18)
        }
        Mongo::InvalidArgument { message, .. } if message.contains("document must be within") => {
            SinkError::new(ErrorKind::RejectedBatch, format!("{what}: {message}"))
        }
        // Their words may quote the address.
        Mongo::InvalidArgument { .. } => SinkError::misconfigured(format!("{what}: an option is not valid")),
        Mongo::InvalidTlsConfig { message, .. } => SinkError::misconfigured(format!("{what}: {message}")),
        Mongo::IncompatibleServer { message, .. } => SinkError::misconfigured(format!("{what}: {message}")),
        _ => SinkError::unavailable(what).caused_by(error),
    }
}
