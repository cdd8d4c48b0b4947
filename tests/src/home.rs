//! The folder that a Muster lives in: data, rules, configuration; and eyes for what it leaves there.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tokio::process::Command;

use crate::log::LogContents;
use crate::muster::Muster;
use crate::tools;
use crate::wait::{PATIENCE, until};

/// Runs on ports that are free.
const PORTS: [&str; 5] = ["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"];

/// A folder of its own for one test; it goes with the test.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// An empty home with a folder for rules.
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// The same, below a folder of the caller's choice.
    pub fn new_in(place: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("muster-").tempdir_in(place).expect("a folder");
        std::fs::create_dir(folder.path().join("rules")).expect("a folder");
        Self { folder }
    }

    /// A home with one rule file.
    pub fn with_rules(text: &str) -> Self {
        let home = Self::new();
        home.write_rules("rules.sql", text);
        home
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where Muster keeps everything durable.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Where the rule files are.
    pub fn rules(&self) -> PathBuf {
        self.path().join("rules")
    }

    /// Writes `muster.toml`, which is read at the next start.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.path().join("muster.toml"), text).expect("a file");
    }

    /// Writes a rule file the way a careful editor does: whole, by renaming.
    pub fn write_rules(&self, name: &str, text: &str) {
        let draft = self.path().join(name).with_extension("draft");
        std::fs::write(&draft, text).expect("a file");
        std::fs::rename(draft, self.rules().join(name)).expect("a file");
    }

    /// `muster ARGUMENTS` in this home, with none of the settings that the caller's environment may hold.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&crate::muster::binary(), arguments)
    }

    /// Another program, in the same way.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = tools::command(program);
        command.args(arguments).current_dir(self.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts `muster run` on free ports and waits until it serves.
    pub async fn start(&self) -> Muster {
        self.start_with(&[]).await
    }

    /// As [`Home::start`], with more arguments.
    pub async fn start_with(&self, arguments: &[&str]) -> Muster {
        Muster::start(self.command(&[&PORTS, arguments].concat())).await
    }

    /// `muster run` on free ports, whose wall clock is stepped by [`Home::step_clock`].
    pub fn stepped(&self, arguments: &[&str]) -> Command {
        self.command_of(&crate::muster::stepped(), &[&PORTS, arguments].concat())
    }

    /// Sets the clock of what [`Home::stepped`] starts so many milliseconds before or behind the machine's; also while
    /// it runs.
    pub fn step_clock(&self, by_ms: i64) {
        let draft = self.path().join("clock.draft");
        std::fs::write(&draft, by_ms.to_string()).expect("a file");
        std::fs::rename(draft, self.path().join("clock")).expect("a file");
    }

    /// `muster key add`: the key and its secret.
    ///
    /// # Panics
    /// When it prints anything but these two lines.
    pub async fn add_key(&self, name: &str, role: &str) -> (String, String) {
        let output = tools::run(&mut self.command(&["key", "add", "--name", name, "--role", role])).await;
        let word = |title: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(title));
            line.unwrap_or_else(|| panic!("no {title}: {output}")).to_owned()
        };
        (word("key: "), word("secret: "))
    }

    /// The embedded database.
    pub fn database(&self) -> PathBuf {
        self.data().join("muster.db")
    }

    /// Asks the embedded database. None while there is no such database, table or column yet.
    pub fn query(&self, sql: &str) -> Option<Vec<Vec<Value>>> {
        let db = Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        db.busy_timeout(PATIENCE).expect("a limit");
        let mut statement = match db.prepare(sql) {
            Ok(statement) => statement,
            Err(error)
                if ["no such table", "no such column"].iter().any(|it| error.to_string().contains(it)) =>
            {
                return None;
            }
            Err(error) => panic!("{sql}: {error}"),
        };
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).expect("rows");
        Some(rows.map(|row| row.unwrap_or_else(|error| panic!("{sql}: {error}"))).collect())
    }

    /// The rows of a query as text, columns separated by `|`, as the command line of SQLite shows them.
    pub fn lines(&self, sql: &str) -> Vec<String> {
        let rows = self.query(sql).unwrap_or_default();
        rows.into_iter().map(|row| row.iter().map(shown).collect::<Vec<_>>().join("|")).collect()
    }

    /// Waits until a query gives as many rows, and gives them as [`Home::lines`] does.
    ///
    /// # Panics
    /// When there are more, or too few for too long.
    pub async fn until_lines(&self, sql: &str, count: usize) -> Vec<String> {
        let what = format!("{count} rows of `{sql}`");
        until(&what, PATIENCE, async || {
            let lines = self.lines(sql);
            assert!(lines.len() <= count, "{} rows of `{sql}`, expected {count}:\n{lines:#?}", lines.len());
            (lines.len() == count).then_some(lines)
        })
        .await
    }

    /// What is in the log, read from a copy, so that nothing is changed by looking; for when no Muster runs here.
    pub async fn log(&self) -> LogContents {
        LogContents::copy_of(&self.data().join("log")).await
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
