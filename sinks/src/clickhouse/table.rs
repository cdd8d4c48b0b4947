//! The target table as the server describes it: its columns, and whether it knows a repeated batch again. It must never
//! know a value.

use std::collections::{HashMap, HashSet};

use super::client::{Cells, Client};
use super::encode;
use super::types::Type;
use crate::error::SinkError;

/// The columns that make a row unique: which event, by which rule, which of its rows. Filled where the table has them.
pub(super) const OWN_COLUMNS: [&str; 3] = ["_event_id", "_rule", "_row"];
/// The column that takes what the table has no column for.
pub(super) const EXTRA: &str = "extra";

/// The settings of an INSERT that not every server knows; one that it does not know would have the INSERT refused.
const SETTINGS: &str = "'insert_deduplication_token', 'insert_deduplicate', 'deduplicate_insert', \
     'date_time_input_format', 'max_insert_block_size', 'input_format_parallel_parsing', 'async_insert', \
     'wait_for_async_insert', 'async_insert_deduplicate', 'insert_distributed_sync'";

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    by_name: HashMap<Box<str>, usize>,
    /// The places of [`OWN_COLUMNS`].
    pub(super) own: [Option<usize>; 3],
    /// The place of [`EXTRA`], if its type takes names and values.
    pub(super) extra: Option<usize>,
    pub(super) once: Once,
    /// Rows go on to other servers before the INSERT is answered only if it is told to wait.
    pub(super) distributed: bool,
    settings: HashSet<String>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: Box<str>,
    /// As the server writes it, for messages.
    pub(super) type_text: Box<str>,
    pub(super) kind: Type,
    /// `"name":`, as JSON has it.
    pub(super) key: Box<[u8]>,
    /// `ALIAS` and `MATERIALIZED` columns are the server's alone.
    pub(super) computed: bool,
}

/// What becomes of a batch that is sent again though it had arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Once {
    /// The server knows its token and takes nothing.
    Token,
    /// Its rows replace themselves, at a merge or with FINAL.
    Replacing,
    /// Its rows are there twice.
    #[default]
    No,
}

impl Table {
    /// Asks the server; `tokens` says whether batches will have one.
    pub(super) async fn read(client: &Client, table: &str, tokens: bool) -> Result<Self, SinkError> {
        let database = match client.database() {
            Some(name) => literal(name),
            None => "currentDatabase()".to_owned(),
        };
        let (of, named) = (format!("database = {database}"), literal(table));
        let sql =
            format!("SELECT name, type, default_kind FROM system.columns WHERE {of} AND table = {named}");
        let columns = client.ask(&sql).await?;
        let sql = format!("SELECT engine, engine_full FROM system.tables WHERE {of} AND name = {named}");
        let engine = client.ask(&sql).await?;
        let [.., engine] = &engine[..] else { return Err(missing(client, table)) };
        if columns.is_empty() {
            return Err(missing(client, table));
        }
        let (engine, full) = (text(engine, 0), text(engine, 1));
        if matches!(engine, "Buffer" | "Memory") {
            let message = format!("the table `{table}` is a {engine}: it forgets rows when the server stops");
            return Err(SinkError::misconfigured(message).with_hint("write to a MergeTree table"));
        }
        let sql = format!("SELECT name FROM system.settings WHERE name IN ({SETTINGS})");
        let settings: HashSet<_> =
            client.ask(&sql).await?.iter().map(|cells| text(cells, 0).to_owned()).collect();
        let tokens = tokens && settings.contains("insert_deduplication_token");
        let once = once(client, engine, full, tokens).await;
        Ok(Self { once, distributed: engine == "Distributed", settings, ..Self::new(&columns) })
    }

    pub(super) fn new(columns: &[Cells]) -> Self {
        let columns: Vec<_> = columns.iter().map(Column::new).collect();
        let by_name: HashMap<_, _> =
            columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let own = OWN_COLUMNS.map(|name| by_name.get(name).copied());
        let takes_names = |at: &usize| {
            columns
                .get(*at)
                .is_some_and(|column| matches!(column.kind, Type::Text | Type::Json | Type::Map(..)))
        };
        let extra = by_name.get(EXTRA).copied().filter(takes_names);
        Self { columns, by_name, own, extra, ..Self::default() }
    }

    /// Whether the server has the setting `name`.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.settings.contains(name)
    }

    /// The place of the column `name`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// What an operator should know of how `table` takes a batch twice.
    pub(super) fn note(&self, table: &str) -> Option<String> {
        match self.once {
            Once::Token => None,
            Once::Replacing => Some(format!(
                "`{table}` does not know a batch again: rows that are sent twice are there twice until a merge; read \
                 it with FINAL, or set non_replicated_deduplication_window"
            )),
            Once::No => Some(format!(
                "`{table}` takes rows at least once: what is sent again after a lost answer is there twice. Set \
                 non_replicated_deduplication_window = 1000 on it, or make it a ReplacingMergeTree"
            )),
        }
    }
}

impl Column {
    fn new(cells: &Cells) -> Self {
        let (name, type_text) = (text(cells, 0), text(cells, 1));
        let mut key = Vec::with_capacity(name.len() + 3);
        encode::quoted(name.as_bytes(), &mut key);
        key.push(b':');
        Self {
            name: name.into(),
            type_text: type_text.into(),
            kind: Type::parse(type_text),
            key: key.into(),
            computed: matches!(text(cells, 2), "ALIAS" | "MATERIALIZED"),
        }
    }
}

/// What the engine does with a batch that it has had.
async fn once(client: &Client, engine: &str, full: &str, tokens: bool) -> Once {
    let replacing = if engine.contains("ReplacingMergeTree") { Once::Replacing } else { Once::No };
    if !tokens || !engine.contains("MergeTree") {
        return replacing;
    }
    let shared = engine.starts_with("Replicated") || engine.starts_with("Shared");
    let (setting, usual) = if shared {
        ("replicated_deduplication_window", 1)
    } else {
        ("non_replicated_deduplication_window", 0)
    };
    let window = match setting_in(full, setting) {
        Some(window) => window,
        None => {
            let sql = format!("SELECT value FROM system.merge_tree_settings WHERE name = '{setting}'");
            // Who may not look there has what the server usually has.
            let rows = client.ask(&sql).await.unwrap_or_default();
            rows.first().and_then(|cells| text(cells, 0).parse().ok()).unwrap_or(usual)
        }
    };
    if window > 0 { Once::Token } else { replacing }
}

/// The value of a setting in the text of an engine: `... SETTINGS a = 1, b = 2`.
fn setting_in(full: &str, setting: &str) -> Option<u64> {
    let (_, settings) = full.rsplit_once("SETTINGS ")?;
    let value = |pair: &str| pair.trim().strip_prefix(setting)?.trim().strip_prefix('=')?.trim().parse().ok();
    settings.split(',').find_map(value)
}

fn missing(client: &Client, table: &str) -> SinkError {
    let of = client.database().map(|database| format!("`{database}`.")).unwrap_or_default();
    SinkError::misconfigured(format!("there is no table {of}`{table}` that the sink's user may see"))
        .with_hint(
            "create the table, or run `muster migrate` for ours; see that the user may SELECT and INSERT",
        )
}

fn text(cells: &Cells, at: usize) -> &str {
    cells.get(at).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// A string as SQL has it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A name as SQL has it.
pub(super) fn name(text: &str) -> String {
    format!("`{}`", text.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_their_whole_name() {
        let full = "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100, index_granularity = 8192";
        assert_eq!(setting_in(full, "non_replicated_deduplication_window"), Some(100));
        assert_eq!(setting_in(full, "replicated_deduplication_window"), None);
        assert_eq!(setting_in("MergeTree ORDER BY a", "index_granularity"), None);
    }

    #[test]
    fn names_and_strings_are_quoted() {
        assert_eq!((name(r"we`ir\d"), literal(r"o'n\e")), (r"`we\`ir\\d`".into(), r"'o\'n\\e'".into()));
    }
}
