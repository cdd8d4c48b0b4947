-- What delivery must not forget, in DATA/delivery.db. Applied when the file is opened; idempotent.
-- Cursors and books of the sinks that cannot keep them in the target itself.
CREATE TABLE IF NOT EXISTS checkpoints (
  pipeline      TEXT PRIMARY KEY,
  rule          TEXT NOT NULL,
  sink          TEXT NOT NULL,
  target        TEXT NOT NULL,
  log_id        BLOB NOT NULL,
  cursor_offset INTEGER NOT NULL,
  cursor_row    INTEGER NOT NULL,
  matched       INTEGER NOT NULL,
  delivered     INTEGER NOT NULL,
  dead          INTEGER NOT NULL,
  updated_ms    INTEGER NOT NULL
) WITHOUT ROWID;

-- The batch that is under way: where it began, where it ends, and which text of the rule made its rows.
CREATE TABLE IF NOT EXISTS batches (
  pipeline     TEXT PRIMARY KEY,
  log_id       BLOB NOT NULL,
  from_offset  INTEGER NOT NULL,
  from_row     INTEGER NOT NULL,
  to_offset    INTEGER NOT NULL,
  to_row       INTEGER NOT NULL,
  rule_version TEXT NOT NULL
) WITHOUT ROWID;

-- Rows that a target refused, and events on which a rule failed.
CREATE TABLE IF NOT EXISTS dead_letters (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  pipeline     TEXT NOT NULL,
  rule         TEXT NOT NULL,
  sink         TEXT NOT NULL,
  target       TEXT NOT NULL,
  rule_version TEXT NOT NULL,
  log_id       BLOB NOT NULL,
  event_offset INTEGER NOT NULL,
  event_row    INTEGER NOT NULL,
  event_id     TEXT NOT NULL,
  event_ms     INTEGER NOT NULL,
  attempts     INTEGER NOT NULL,
  reason       TEXT NOT NULL,
  row_json     TEXT,
  event_kind   INTEGER NOT NULL,
  event_topic  TEXT NOT NULL,
  event_body   BLOB NOT NULL,
  created_ms   INTEGER NOT NULL,
  UNIQUE (pipeline, log_id, event_offset, event_row)
);

-- A replay of dead letters that is under way: the totals that the target has once it is committed, and the letters
-- that then go.
CREATE TABLE IF NOT EXISTS replays (
  pipeline  TEXT PRIMARY KEY,
  matched   INTEGER NOT NULL,
  delivered INTEGER NOT NULL,
  dead      INTEGER NOT NULL,
  letters   TEXT NOT NULL
) WITHOUT ROWID;

-- What an operator has asked of a pipeline: to stand still until told otherwise, and to go on from another offset, which
-- is taken back once it is done.
CREATE TABLE IF NOT EXISTS orders (
  pipeline TEXT PRIMARY KEY,
  paused   INTEGER NOT NULL DEFAULT 0,
  reset_to INTEGER
) WITHOUT ROWID;

-- In how many lanes a pipeline is delivered, if that was ever changed, and how often it was.
CREATE TABLE IF NOT EXISTS lanes (
  pipeline   TEXT PRIMARY KEY,
  generation INTEGER NOT NULL,
  lanes      INTEGER NOT NULL
) WITHOUT ROWID;

-- Replays of recorded events: what was asked for, and how it ended. Cursor and books of one that has not ended are in
-- `checkpoints`, or in the target.
CREATE TABLE IF NOT EXISTS log_replays (
  id              INTEGER PRIMARY KEY,
  rule            TEXT NOT NULL,
  sink            TEXT NOT NULL,
  target          TEXT NOT NULL,
  log_id          BLOB NOT NULL,
  from_offset     INTEGER NOT NULL,
  to_offset       INTEGER NOT NULL,
  rows_per_second INTEGER,
  created_ms      INTEGER NOT NULL,
  ended_ms        INTEGER,
  cancelled       INTEGER NOT NULL DEFAULT 0,
  cursor_offset   INTEGER NOT NULL DEFAULT 0,
  matched         INTEGER NOT NULL DEFAULT 0,
  delivered       INTEGER NOT NULL DEFAULT 0,
  dead            INTEGER NOT NULL DEFAULT 0
);
