-- What the alarms about devices know (DATA/alarms.db), with their place in the log. Times are milliseconds since 1970.
CREATE TABLE IF NOT EXISTS place (log_id TEXT NOT NULL PRIMARY KEY, cursor INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS definitions (name TEXT NOT NULL PRIMARY KEY, identity TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS armed (
    name     TEXT    NOT NULL,
    clientid TEXT    NOT NULL,
    username TEXT,
    since    INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    held     INTEGER NOT NULL,
    PRIMARY KEY (name, clientid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS active (
    name         TEXT    NOT NULL,
    clientid     TEXT    NOT NULL,
    username     TEXT,
    since        INTEGER NOT NULL,
    activated_at INTEGER NOT NULL,
    raised_at    INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    severity     TEXT    NOT NULL,
    message      TEXT    NOT NULL,
    until        INTEGER,
    why          TEXT,
    PRIMARY KEY (name, clientid)
) STRICT, WITHOUT ROWID;
-- times: a JSON list of when the client did what FLAPPING counts, within the window of the last of them.
CREATE TABLE IF NOT EXISTS flaps (
    name     TEXT NOT NULL,
    clientid TEXT NOT NULL,
    times    TEXT NOT NULL,
    PRIMARY KEY (name, clientid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS summaries (
    name         TEXT    NOT NULL PRIMARY KEY,
    activated_at INTEGER NOT NULL,
    severity     TEXT    NOT NULL,
    message      TEXT    NOT NULL,
    count        INTEGER NOT NULL,
    told_count   INTEGER NOT NULL, -- the last that was told, and when
    told_at      INTEGER NOT NULL,
    why          TEXT              -- why it ends, unless nobody is left
) STRICT;
