//! Rows as tables: a block for each rule, as wide as what is in it.

use std::io::{self, Write};

use muster_core::event::Event;
use muster_core::value::{Row, Value};

use crate::cli::time;

/// A block is printed when it has so many rows.
const BLOCK_ROWS_MAX: usize = 100;
/// A longer value is cut.
const CELL_CHARS_MAX: usize = 48;

/// Rows that wait for others of their rule.
#[derive(Debug, Default)]
pub(super) struct Tables {
    blocks: Vec<Block>,
    any_printed: bool,
}

#[derive(Debug)]
struct Block {
    rule: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Tables {
    /// Takes in a row; prints its block when that is full or when the row has columns that the block does not have.
    pub(super) fn put(
        &mut self,
        rule: &str,
        event: &Event,
        row: &Row,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let names: Vec<_> = ["offset", "time"].into_iter().chain(row.keys()).map(str::to_owned).collect();
        let at = match self.blocks.iter().position(|block| block.rule == rule) {
            Some(at) => at,
            None => {
                self.blocks.push(Block { rule: rule.to_owned(), columns: names.clone(), rows: Vec::new() });
                self.blocks.len() - 1
            }
        };
        let Some(block) = self.blocks.get_mut(at) else { return Ok(()) };
        if block.rows.len() >= BLOCK_ROWS_MAX || block.columns != names {
            block.print(&mut self.any_printed, out)?;
            block.columns = names;
        }
        let cells = [event.offset.to_string(), time(event.timestamp_ms)];
        block.rows.push(cells.into_iter().chain(row.values().map(cell)).collect());
        Ok(())
    }

    /// Prints what waits.
    pub(super) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        for block in &mut self.blocks {
            block.print(&mut self.any_printed, out)?;
        }
        Ok(())
    }
}

impl Block {
    fn print(&mut self, any_printed: &mut bool, out: &mut impl Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        if std::mem::replace(any_printed, true) {
            writeln!(out)?;
        }
        writeln!(out, "{}", self.rule)?;
        let width = |n: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(n)).chain(self.columns.get(n));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        writeln!(out, "{}", line(&self.columns))?;
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        writeln!(out, "{}", rule.join("  "))?;
        for row in &self.rows {
            writeln!(out, "{}", line(row))?;
        }
        self.rows.clear();
        Ok(())
    }
}

/// Text as it is, anything else as JSON; the absent is empty.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Undefined => String::new(),
        Value::Str(bytes) => String::from_utf8_lossy(bytes).escape_debug().to_string().replace("\\\"", "\""),
        other => other.to_json(),
    };
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    let head: String = text.chars().take(CELL_CHARS_MAX - 3).collect();
    format!("{head}...")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use muster_core::event::{EventKind, filled};
    use muster_core::value::Map;

    use super::*;

    #[test]
    fn a_block_a_rule_and_a_new_one_for_other_columns() {
        let columns = filled(EventKind::ClientConnected, 1_000, &Map::new());
        let event = Event::from_columns(EventKind::ClientConnected, &columns).expect("an event");
        let (mut tables, mut out) = (Tables::default(), Vec::new());
        let row = |pairs: &[(&str, Value)]| pairs.iter().cloned().collect::<Row>();
        let long: Value = "x".repeat(60).into();
        for (rule, pairs) in [
            ("a", [("n", Value::Int(1)), ("text", "a\"\n".into())]),
            ("b", [("m", vec![1i64.into()].into()), ("long", long)]),
            ("a", [("n", Value::Undefined), ("text", Value::Null)]),
            ("a", [("n", Value::Int(2)), ("other", true.into())]),
        ] {
            tables.put(rule, &event, &row(&pairs), &mut out).expect("memory");
        }
        tables.finish(&mut out).expect("memory");
        expect![[r#"
            a
            offset  time                      n  text
            ------  ------------------------  -  ----
            42      1970-01-01T00:00:01.000Z  1  a"\n
            42      1970-01-01T00:00:01.000Z     null

            a
            offset  time                      n  other
            ------  ------------------------  -  -----
            42      1970-01-01T00:00:01.000Z  2  true

            b
            offset  time                      m    long
            ------  ------------------------  ---  ------------------------------------------------
            42      1970-01-01T00:00:01.000Z  [1]  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
        "#]]
        .assert_eq(&String::from_utf8(out).expect("text"));
    }
}
