//! Documents that operators make while the platform runs: keys, users, permissions, bans. As rules, they are nowhere
//! else: what belongs together is one transaction, synced to the disk before anybody is told. Another process may
//! change them, too (the command line beside a running server); [`Registry::version`] tells that somebody did.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Command, Registry, RegistryError};

/// A document as it is stored. What its body means is its collection's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name, alone in its collection.
    pub id: String,
    /// A JSON object.
    pub body: String,
}

/// A change of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentChange {
    /// This is the document of its id from now on.
    Put {
        /// Where it belongs.
        collection: &'static str,
        /// The document.
        document: Document,
    },
    /// The document is gone, if it was there.
    Remove {
        /// Where it belonged.
        collection: &'static str,
        /// Its id.
        id: String,
    },
    /// Every document of the collection is gone.
    Clear {
        /// Which collection.
        collection: &'static str,
    },
}

impl Registry {
    /// Every document of a collection, in the order of ids.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn documents(&self, collection: &str) -> Result<Vec<Document>, RegistryError> {
        self.read(|reader| {
            let mut statement =
                reader.prepare_cached("SELECT id, body FROM documents WHERE collection = ?1 ORDER BY id")?;
            let rows = statement
                .query_map([collection], |row| Ok(Document { id: row.get(0)?, body: row.get(1)? }))?;
            rows.collect()
        })
    }

    /// One document.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, RegistryError> {
        self.read(|reader| {
            let mut statement =
                reader.prepare_cached("SELECT body FROM documents WHERE collection = ?1 AND id = ?2")?;
            let body = statement.query_row([collection, id], |row| row.get(0)).optional()?;
            Ok(body.map(|body| Document { id: id.to_owned(), body }))
        })
    }

    /// Makes all of these changes, in their order, or none. When this returns, a power cut does not undo them.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing is changed then.
    pub async fn change_documents(&self, changes: Vec<DocumentChange>) -> Result<(), RegistryError> {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.queue.send(Command::Documents(changes, done)).await.is_err() {
            return Err(RegistryError::Ended);
        }
        let written = wait.await.map_err(|_| RegistryError::Ended)?;
        written.map_err(|source| self.sqlite("write", source))
    }

    /// A number that is another one after anybody's change of the registry, this process included.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn version(&self) -> Result<i64, RegistryError> {
        // Seen from the connection that never writes: all changes are somebody else's.
        self.read(|reader| reader.query_row("PRAGMA data_version", [], |row| row.get(0)))
    }
}

pub(super) fn write(connection: &mut Connection, changes: &[DocumentChange]) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    let written = write_synced(connection, changes);
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    written
}

fn write_synced(connection: &mut Connection, changes: &[DocumentChange]) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    {
        let mut put = transaction.prepare_cached(
            "INSERT INTO documents (collection, id, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (collection, id) DO UPDATE SET body = excluded.body",
        )?;
        let mut remove =
            transaction.prepare_cached("DELETE FROM documents WHERE collection = ?1 AND id = ?2")?;
        let mut clear = transaction.prepare_cached("DELETE FROM documents WHERE collection = ?1")?;
        for change in changes {
            match change {
                DocumentChange::Put { collection, document: Document { id, body } } => {
                    put.execute(params![collection, id, body])?
                }
                DocumentChange::Remove { collection, id } => remove.execute(params![collection, id])?,
                DocumentChange::Clear { collection } => clear.execute(params![collection])?,
            };
        }
    }
    transaction.commit()
}
