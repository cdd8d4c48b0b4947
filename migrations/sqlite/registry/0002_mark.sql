-- Up to where the event log is known to be in the other tables: what is after it is read again at the next start.
CREATE TABLE mark (
    name        TEXT    NOT NULL PRIMARY KEY,
    log_id      BLOB    NOT NULL,
    read_from   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
