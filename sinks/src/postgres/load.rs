//! Entries on their way into the table: encoded for a binary `COPY`, straight into the table or by way of a staging
//! table of the session. It must never commit.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::catalog::Table;
use super::client::{Connection, quote};
use super::encode::Kind;
use super::error::Trouble;
use super::rows::{Entry, Refused};
use super::upsert::{Conflict, key_of, refusal};

/// How a binary `COPY` begins: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// How it ends.
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();
/// Bytes of rows that are handed to the socket at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Rows with values for the same columns.
#[derive(Debug)]
struct Group {
    columns: Vec<usize>,
    /// Their numbers in the staging table.
    numbers: Range<usize>,
    data: Bytes,
}

/// A batch, ready to be sent.
#[derive(Debug)]
pub(super) struct Load {
    groups: Vec<Group>,
    /// By number: which row of the batch it is.
    sources: Vec<usize>,
    staged: bool,
}

/// Encodes `entries`; `careful` keeps rows of one key apart, so that a refused row can be told from the others. Why a
/// row cannot be encoded is noted in `refused`; then nothing of it may be sent.
pub(super) fn encode(
    table: &Table,
    conflict: &Conflict,
    entries: Vec<Entry<'_>>,
    (staged, careful): (bool, bool),
    refused: &mut Refused,
) -> Load {
    let mut load = Load { groups: Vec::new(), sources: Vec::with_capacity(entries.len()), staged };
    for (columns, entries) in grouped(table, conflict, entries, careful) {
        let first = load.sources.len();
        let mut data = Vec::with_capacity(entries.len() * columns.len() * 16 + HEADER.len());
        data.extend_from_slice(HEADER);
        for entry in entries {
            let number = staged.then_some(load.sources.len());
            if let Err(reason) = encode_entry(table, &columns, &entry, number, &mut data) {
                refused.note(entry.source, reason);
            }
            load.sources.push(entry.source);
        }
        data.extend_from_slice(TRAILER);
        load.groups.push(Group { columns, numbers: first..load.sources.len(), data: data.into() });
    }
    load
}

fn encode_entry(
    table: &Table,
    columns: &[usize],
    entry: &Entry<'_>,
    number: Option<usize>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let fields = columns.len() + usize::from(number.is_some());
    out.extend(i16::try_from(fields).unwrap_or(i16::MAX).to_be_bytes());
    if let Some(number) = number {
        out.extend(4_i32.to_be_bytes());
        out.extend(i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes());
    }
    for at in columns {
        entry.fields[*at].encode(&table.columns[*at].kind, out).map_err(|why| refusal(table, *at, &why))?;
    }
    Ok(())
}

type Grouped<'a> = Vec<(Vec<usize>, Vec<Entry<'a>>)>;

/// Entries by the columns that they have values for, as far as that makes a difference: a column with a default is left
/// out where the row has no value, and a row that replaces another leaves alone what it does not name.
fn grouped<'a>(table: &Table, conflict: &Conflict, entries: Vec<Entry<'a>>, careful: bool) -> Grouped<'a> {
    let replaces = matches!(conflict, Conflict::Newest { .. });
    let mut used = vec![false; table.columns.len()];
    for entry in &entries {
        used.iter_mut().zip(&entry.fields).for_each(|(used, field)| *used |= !field.is_absent());
    }
    let all: Vec<usize> = (0..used.len()).filter(|at| used[*at]).collect();
    let matters: Vec<usize> =
        all.iter().copied().filter(|at| replaces || table.columns[*at].has_default).collect();
    if matters.is_empty() && !(careful && replaces) {
        return vec![(all, entries)];
    }
    let mut rounds: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut places: HashMap<(usize, Vec<bool>), usize> = HashMap::new();
    let mut groups: Vec<(usize, Vec<usize>, Vec<Entry<'a>>)> = Vec::new();
    for entry in entries {
        let round = match conflict {
            Conflict::Newest { key, .. } if careful => {
                // Rows without a usable key were refused before.
                let round = rounds.entry(key_of(table, key, &entry).unwrap_or_default()).or_default();
                *round += 1;
                *round
            }
            _ => 0,
        };
        let absent: Vec<bool> = matters.iter().map(|at| entry.fields[*at].is_absent()).collect();
        let place = *places.entry((round, absent)).or_insert_with_key(|(_, absent)| {
            let gone =
                |at: &usize| matters.iter().position(|other| other == at).is_some_and(|place| absent[place]);
            groups.push((round, all.iter().copied().filter(|at| !gone(at)).collect(), Vec::new()));
            groups.len() - 1
        });
        groups[place].2.push(entry);
    }
    // Of one key, the first row's round comes before the second's.
    groups.sort_by_key(|(round, ..)| *round);
    groups.into_iter().map(|(_, columns, entries)| (columns, entries)).collect()
}

impl Load {
    /// Whether it goes by way of the staging table.
    pub(super) fn staged(&self) -> bool {
        self.staged
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> u64 {
        self.sources.len() as u64
    }

    /// Sends everything at once; how many rows the table took.
    pub(super) async fn send(&self, connection: &mut Connection, into: &Into<'_>) -> Result<u64, Trouble> {
        let mut taken = 0;
        for group in &self.groups {
            taken += self.copy(connection, into, group).await?;
        }
        if !self.staged {
            return Ok(taken);
        }
        taken = 0;
        for group in &self.groups {
            let (from, to) = (number(group.numbers.start), number(group.numbers.end));
            let insert = into.insert(&group.columns) + &into.tail(&group.columns, "$1", "$2");
            let insert = connection.prepared("writing rows", &insert).await?;
            taken += connection.execute("writing rows", &insert, &[&from, &to]).await?;
        }
        Ok(taken)
    }

    /// Finds exactly the rows that the table refuses, and why: what is refused is halved until it stands alone. The
    /// others are in the table afterwards. Answers with how many the table took.
    pub(super) async fn hunt(
        &self,
        connection: &mut Connection,
        into: &Into<'_>,
        refused: &mut Refused,
    ) -> Result<u64, Trouble> {
        let doing = "looking for the row that is refused";
        for group in &self.groups {
            self.copy(connection, into, group).await?;
        }
        let mut taken = 0;
        for group in &self.groups {
            let mut open = vec![group.numbers.clone()];
            while let Some(range) = open.pop() {
                let (from, to) = (range.start.to_string(), range.end.to_string());
                let insert = into.insert(&group.columns) + &into.tail(&group.columns, &from, &to);
                let tried = connection.batch(doing, &format!("SAVEPOINT hunt; {insert}; RELEASE hunt")).await;
                let reason = match tried {
                    Ok(many) => {
                        taken += many;
                        continue;
                    }
                    Err(Trouble::Row(reason)) => reason,
                    Err(other) => return Err(other),
                };
                connection.batch(doing, "ROLLBACK TO hunt; RELEASE hunt").await?;
                if range.len() > 1 {
                    let middle = range.start + range.len() / 2;
                    open.extend([middle..range.end, range.start..middle]);
                } else if let Some(source) = self.sources.get(range.start) {
                    refused.note(*source, reason);
                }
            }
        }
        Ok(taken)
    }

    async fn copy(
        &self,
        connection: &mut Connection,
        into: &Into<'_>,
        group: &Group,
    ) -> Result<u64, Trouble> {
        let copy = if self.staged {
            let columns = group.columns.iter().map(|at| format!(", c{at}")).collect::<String>();
            format!("COPY {} (_n{columns}) FROM STDIN (FORMAT binary)", into.stage)
        } else {
            format!("COPY {} ({}) FROM STDIN (FORMAT binary)", into.table.sql, into.names(&group.columns))
        };
        let copy = connection.prepared("writing rows", &copy).await?;
        connection.copy("writing rows", &copy, pieces(group.data.clone())).await
    }
}

fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!data.is_empty()).then(|| data.split_to(PIECE_BYTES.min(data.len()))))
}

fn number(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

/// The table, and the statements that bring rows into it.
pub(super) struct Into<'a> {
    pub(super) table: &'a Table,
    pub(super) conflict: &'a Conflict,
    /// The staging table's name.
    pub(super) stage: &'a str,
}

impl Into<'_> {
    fn names(&self, columns: &[usize]) -> String {
        let names = columns.iter().map(|at| quote(&self.table.columns[*at].name));
        names.collect::<Vec<_>>().join(", ")
    }

    fn insert(&self, columns: &[usize]) -> String {
        let value = |at: &usize| match &self.table.columns[*at] {
            column if column.kind == Kind::AsText => format!("CAST(c{at} AS {})", column.type_name),
            _ => format!("c{at}"),
        };
        let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
        let names = self.names(columns);
        format!("INSERT INTO {} AS t ({names}) SELECT {values} FROM {}", self.table.sql, self.stage)
    }

    fn tail(&self, columns: &[usize], from: &str, to: &str) -> String {
        let clause = self.conflict.clause(self.table, columns);
        format!(" WHERE _n >= {from} AND _n < {to}{clause}")
    }

    /// The statement that makes the staging table. It has the table's types but none of its rules, and is empty again
    /// after each transaction.
    pub(super) fn create_stage(&self) -> String {
        let mut sql = format!("CREATE TEMPORARY TABLE IF NOT EXISTS {} (_n int4", self.stage);
        for (at, column) in self.table.columns.iter().enumerate().filter(|(_, column)| !column.generated) {
            let kind = match column.kind {
                Kind::Text | Kind::AsText => "text",
                _ => &column.type_name,
            };
            sql += &format!(", c{at} {kind}");
        }
        sql + ") ON COMMIT DELETE ROWS"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        let data = Bytes::from(vec![7; PIECE_BYTES * 2 + 1]);
        let sizes: Vec<_> = pieces(data).map(|piece| piece.len()).collect();
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
    }
}
