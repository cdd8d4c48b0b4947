//! Text in columns for people: labels on the left, what belongs to them on the right, wrapped to a width that fits most
//! terminals. Nothing in quotes is broken.

/// Widest line that is made on purpose; one long word may still be longer.
pub(super) const WIDTH: usize = 100;

/// Width of the labels.
const LABEL: usize = 11;

/// Lines under labels.
#[derive(Debug, Default)]
pub(super) struct Layout {
    out: String,
}

impl Layout {
    /// A line on its own.
    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    /// `label  text`, wrapped; the label is shown at the first line only.
    pub(super) fn entry(&mut self, label: &str, text: &str) {
        for (n, line) in wrap(text, WIDTH - LABEL - 2).iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            self.line(&format!("  {label:<LABEL$}{line}"));
        }
    }

    /// Entries under one label, each with a first column as wide as the widest.
    pub(super) fn table(&mut self, label: &str, rows: &[(String, String)]) {
        let widest = rows.iter().map(|(name, _)| name.chars().count()).filter(|width| *width <= 40).max();
        let width = widest.unwrap_or(40) + 2;
        for (n, (name, text)) in rows.iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            let lines = wrap(text, (WIDTH - LABEL - 2).saturating_sub(width).max(30));
            // A name that is too wide has a line of its own.
            let too_wide = name.chars().count() > width;
            if too_wide {
                self.line(&format!("  {label:<LABEL$}{name}"));
            }
            for (n, line) in lines.iter().enumerate() {
                let first = n == 0 && !too_wide;
                let (label, name) = if first { (label, name.as_str()) } else { ("", "") };
                self.line(&format!("  {label:<LABEL$}{name:<width$}{line}"));
            }
        }
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// Lines of at most `width` characters, broken at blanks outside of quotes.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut taken = 0;
    for word in words(text) {
        let length = word.chars().count();
        if taken > 0 && taken + 1 + length > width {
            lines.push(String::new());
            taken = 0;
        }
        if let Some(line) = lines.last_mut() {
            if taken > 0 {
                line.push(' ');
                taken += 1;
            }
            line.push_str(word);
            taken += length;
        }
    }
    lines
}

/// What stands between blanks; blanks in quotes belong to the word.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut quote, mut start) = (None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, ' ') => {
                found.extend(text.get(start..at).filter(|word| !word.is_empty()));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.extend(text.get(start..).filter(|word| !word.is_empty()));
    found
}

/// A statement on one line as several, one a clause.
pub(super) fn clauses(sql: &str) -> Vec<String> {
    const STARTS: &[&str] = &[
        "INTO",
        "REPUBLISH",
        "WITH",
        "AS SELECT",
        "AS FOREACH",
        "AS ABSENCE",
        "AS PRESENCE",
        "DO",
        "INCASE",
        "FROM",
        "WHERE",
    ];
    let words = words(sql);
    let mut lines: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let starts = STARTS.iter().any(|start| match start.split_once(' ') {
            Some((first, second)) => *word == first && next == second,
            None => word == start,
        });
        match lines.last_mut() {
            Some(line) if !starts => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push((*word).to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stay_whole() {
        assert_eq!(wrap("a 'b  c' d", 6), ["a", "'b  c'", "d"]);
        let sql = "CREATE RULE a INTO sqlite.a WITH (start = ' FROM ') AS SELECT 'x WHERE y' AS b FROM \"t\" WHERE a = 1";
        assert_eq!(
            clauses(sql),
            [
                "CREATE RULE a",
                "INTO sqlite.a",
                "WITH (start = ' FROM ')",
                "AS SELECT 'x WHERE y' AS b",
                "FROM \"t\"",
                "WHERE a = 1"
            ]
        );
    }
}
