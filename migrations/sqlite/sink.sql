-- What an SQLite target remembers of each pipeline into it: who may write (the epoch), and what is committed, in the
-- same transaction as the rows. Applied when a pipeline opens the file; idempotent.
CREATE TABLE IF NOT EXISTS _muster_pipelines (
  pipeline      TEXT PRIMARY KEY,
  epoch         INTEGER NOT NULL,
  log_id        BLOB,
  cursor_offset INTEGER,
  cursor_row    INTEGER,
  matched       INTEGER,
  delivered     INTEGER,
  dead          INTEGER,
  updated_ms    INTEGER
) WITHOUT ROWID;

-- Which event was the first of an hour: rows do not say when they are from, but events come in the order of their ids.
-- Retention asks it. `log` is the id of the log's first event, `hour` counts from 1970.
CREATE TABLE IF NOT EXISTS _muster_times (
  log      TEXT NOT NULL,
  hour     INTEGER NOT NULL,
  event_id TEXT NOT NULL,
  PRIMARY KEY (log, hour)
) WITHOUT ROWID;
