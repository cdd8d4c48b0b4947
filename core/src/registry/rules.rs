//! Rules that were made while the platform ran, as documents. Unlike retained messages, which the log has, too, these
//! are nowhere else: each change is its own transaction, synced to the disk before anybody is told.

use rusqlite::{Connection, params};

use super::{Command, Registry, RegistryError};

/// A rule as it is stored. What its body means is for others to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRule {
    /// Its name.
    pub id: String,
    /// A JSON object.
    pub body: String,
    /// When it was made, milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was changed last, milliseconds since 1970.
    pub modified_at_ms: i64,
}

/// A change of one rule.
#[derive(Debug)]
pub(super) enum RuleChange {
    Put(StoredRule),
    Remove(String),
}

impl Registry {
    /// Every rule that is stored, in the order of ids.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn rules(&self) -> Result<Vec<StoredRule>, RegistryError> {
        self.read(|reader| {
            let mut statement =
                reader.prepare("SELECT id, body, created_at_ms, modified_at_ms FROM rules ORDER BY id")?;
            let rows = statement.query_map([], |row| {
                let (id, body) = (row.get(0)?, row.get(1)?);
                Ok(StoredRule { id, body, created_at_ms: row.get(2)?, modified_at_ms: row.get(3)? })
            })?;
            rows.collect()
        })
    }

    /// Stores a rule in place of the one of its id. When this returns, a power cut does not undo it.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`]; nothing is changed then.
    pub async fn put_rule(&self, rule: StoredRule) -> Result<(), RegistryError> {
        self.change_rule(RuleChange::Put(rule)).await
    }

    /// Removes a rule, if it is there. When this returns, a power cut does not undo it.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`]; nothing is changed then.
    pub async fn remove_rule(&self, id: &str) -> Result<(), RegistryError> {
        self.change_rule(RuleChange::Remove(id.to_owned())).await
    }

    async fn change_rule(&self, change: RuleChange) -> Result<(), RegistryError> {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.queue.send(Command::Rule(change, done)).await.is_err() {
            return Err(RegistryError::Ended);
        }
        let written = wait.await.map_err(|_| RegistryError::Ended)?;
        written.map_err(|source| self.sqlite("write", source))
    }
}

pub(super) fn write(connection: &mut Connection, change: &RuleChange) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    let written = write_synced(connection, change);
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    written
}

fn write_synced(connection: &mut Connection, change: &RuleChange) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    match change {
        RuleChange::Put(StoredRule { id, body, created_at_ms, modified_at_ms }) => transaction.execute(
            "INSERT INTO rules (id, body, created_at_ms, modified_at_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, created_at_ms = excluded.created_at_ms,
             modified_at_ms = excluded.modified_at_ms",
            params![id, body, created_at_ms, modified_at_ms],
        )?,
        RuleChange::Remove(id) => transaction.execute("DELETE FROM rules WHERE id = ?1", [id])?,
    };
    transaction.commit()
}
