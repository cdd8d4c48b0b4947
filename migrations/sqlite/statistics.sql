-- Counters, peaks and samples that survive a restart. What is folded from the event log can be rebuilt from it as long
-- as the log is whole; what no event holds is a snapshot. Only `muster` writes here.

-- How far the fold has come; moved in the same transaction as `counters` and `topics`.
CREATE TABLE IF NOT EXISTS fold (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    log_id TEXT    NOT NULL,
    cursor INTEGER NOT NULL -- the next offset to read
) STRICT;

-- Folded from the log.
CREATE TABLE IF NOT EXISTS counters (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Folded from the log: publishes to the topics that are watched, from an offset on.
CREATE TABLE IF NOT EXISTS topics (
    topic       TEXT    NOT NULL PRIMARY KEY,
    from_offset INTEGER NOT NULL,
    qos0        INTEGER NOT NULL,
    qos1        INTEGER NOT NULL,
    qos2        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What no event holds, and the largest value of each gauge.
CREATE TABLE IF NOT EXISTS snapshots (
    kind  TEXT    NOT NULL CHECK (kind IN ('counter', 'peak')),
    name  TEXT    NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- What was going on, in steps that grow with age.
CREATE TABLE IF NOT EXISTS samples (
    tier INTEGER NOT NULL,
    at   INTEGER NOT NULL, -- milliseconds since 1970
    body TEXT    NOT NULL, -- a JSON object
    PRIMARY KEY (tier, at)
) STRICT, WITHOUT ROWID;
