//! What an operator has asked of a pipeline, kept over a restart: to stand still, and to go on from another offset.

use rusqlite::{OptionalExtension, params};

use super::lanes::parts;
use super::{DeliveryStore, StoreError, int, uint};
use crate::sink::{Cursor, PipelineId};

/// What an operator has asked of a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// To deliver nothing until told otherwise.
    pub paused: bool,
    /// To go on from this offset, once, as soon as the target can be opened.
    pub reset_to: Option<u64>,
}

impl DeliveryStore {
    /// What was asked of `pipeline`.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn orders(&self, pipeline: &PipelineId) -> Result<Orders, StoreError> {
        let id = pipeline.clone();
        self.read(move |connection| {
            let sql = "SELECT paused FROM orders WHERE pipeline = ?1";
            let paused =
                connection.prepare_cached(sql)?.query_row([id.owner().to_string()], |row| row.get(0));
            let sql = "SELECT reset_to FROM orders WHERE pipeline = ?1";
            let mut reset_to: Option<u64> = None;
            for part in parts(connection, &id)? {
                let found = connection.prepare_cached(sql)?.query_row([part.to_string()], |row| row.get(0));
                let found: Option<u64> = found.optional()?.flatten().map(uint);
                reset_to = reset_to.into_iter().chain(found).min();
            }
            Ok(Orders { paused: paused.optional()?.unwrap_or_default(), reset_to })
        })
        .await
    }

    /// Writes down whether `pipeline` stands still.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn order_pause(&self, pipeline: &PipelineId, paused: bool) -> Result<(), StoreError> {
        // Lanes are halted together, a replay on its own.
        let key = pipeline.owner().to_string();
        self.read(move |connection| {
            let sql = "INSERT INTO orders (pipeline, paused) VALUES (?1, ?2) \
                       ON CONFLICT (pipeline) DO UPDATE SET paused = excluded.paused";
            connection.prepare_cached(sql)?.execute(params![key, paused]).map(drop)
        })
        .await
    }

    /// Writes down that `pipeline`, in all its lanes, is to go on from `offset`.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn order_reset(&self, pipeline: &PipelineId, offset: u64) -> Result<(), StoreError> {
        let id = pipeline.clone();
        self.read(move |connection| {
            let sql = "INSERT INTO orders (pipeline, reset_to) VALUES (?1, ?2) \
                       ON CONFLICT (pipeline) DO UPDATE SET reset_to = excluded.reset_to";
            for part in parts(connection, &id)? {
                connection.prepare_cached(sql)?.execute(params![part.to_string(), int(offset)])?;
            }
            Ok(())
        })
        .await
    }

    /// The reset to `offset` is done; one to another place that was asked for meanwhile stays.
    pub(crate) async fn reset_done(&self, pipeline: &PipelineId, offset: u64) -> Result<(), StoreError> {
        let key = pipeline.to_string();
        self.read(move |connection| {
            let sql = "UPDATE orders SET reset_to = NULL WHERE pipeline = ?1 AND reset_to = ?2";
            connection.prepare_cached(sql)?.execute(params![key, int(offset)]).map(drop)
        })
        .await
    }

    /// How many letters of `pipeline` stand at or after `cursor`.
    pub(crate) async fn letters_from(
        &self,
        pipeline: &PipelineId,
        log_id: u128,
        cursor: Cursor,
    ) -> Result<u64, StoreError> {
        let key = pipeline.to_string();
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM dead_letters WHERE pipeline = ?1 AND log_id = ?2 \
                       AND (event_offset > ?3 OR (event_offset = ?3 AND event_row >= ?4))";
            let values = params![key, log_id.to_be_bytes(), int(cursor.offset), cursor.row];
            connection.prepare_cached(sql)?.query_row(values, |row| Ok(uint(row.get(0)?)))
        })
        .await
    }
}
