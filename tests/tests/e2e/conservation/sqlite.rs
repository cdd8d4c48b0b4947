//! SQLite: a file; somebody who keeps it locked is its outage. Poison breaks a constraint of the table.

use muster_test_servers::Proxy;
use muster_tests::PATIENCE;
use rusqlite::Connection;
use tempfile::TempDir;

use super::run::conserve;
use super::target::{Arrived, Target};

pub(super) struct Sqlite {
    folder: TempDir,
    lock: Option<Connection>,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        let target = Self { folder: tempfile::tempdir().expect("a folder"), lock: None };
        // With a number for the order of arrival, which the table that the sink would make does not have.
        let table = "PRAGMA journal_mode = WAL; CREATE TABLE oracle (place INTEGER PRIMARY KEY AUTOINCREMENT, \
                     client TEXT, n INTEGER, v CHECK (typeof(v) = 'integer'))";
        target.connection().execute_batch(table).expect("a table");
        target
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.folder.path().join("oracle.db")).expect("a database");
        connection.busy_timeout(PATIENCE).expect("a limit");
        connection
    }
}

impl Target for Sqlite {
    fn declaration(&self) -> String {
        format!("sqlite WITH (path = '{}')", self.folder.path().join("oracle.db").display())
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn way(&self) -> Option<&Proxy> {
        None
    }

    async fn down(&mut self, _at_once: bool) {
        let connection = self.connection();
        connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        self.lock = Some(connection);
    }

    async fn up(&mut self) {
        self.lock = None;
    }

    async fn rows(&mut self) -> Vec<Arrived> {
        let connection = self.connection();
        let mut rows = connection.prepare("SELECT client, n FROM oracle ORDER BY place").expect("rows");
        let rows = rows.query_map([], |row| Ok(Arrived::new(row.get::<_, String>(0)?, row.get(1)?)));
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    conserve(Sqlite::new()).await;
}
