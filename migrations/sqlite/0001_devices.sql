-- Who is here, who is missing, since when, and why: one row a device, folded from the event log. Times are
-- milliseconds since 1970. Only `muster` writes here; the table can be rebuilt from the log at any time.
CREATE TABLE devices (
    clientid        TEXT    NOT NULL PRIMARY KEY,
    online          INTEGER NOT NULL CHECK (online IN (0, 1)),
    since           INTEGER NOT NULL, -- of the present state
    last_seen       INTEGER NOT NULL, -- last sign of presence: when it came or, if it is gone, when it went
    reason          TEXT,             -- why it went the last time
    connected_at    INTEGER,
    disconnected_at INTEGER,
    session         INTEGER NOT NULL, -- grows with each connection
    seq             INTEGER NOT NULL, -- grows with each event; guards against late and repeated writes
    connects        INTEGER NOT NULL,
    disconnects     INTEGER NOT NULL,
    username        TEXT,
    peername        TEXT    NOT NULL,
    sockname        TEXT    NOT NULL,
    proto_name      TEXT    NOT NULL,
    proto_ver       INTEGER NOT NULL,
    keepalive       INTEGER NOT NULL, -- seconds
    clean_start     INTEGER NOT NULL CHECK (clean_start IN (0, 1)),
    expiry_interval INTEGER NOT NULL, -- seconds
    mountpoint      TEXT,
    attrs           TEXT    NOT NULL  -- a JSON object
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_by_state ON devices (online, since);

-- How far the fold has come; moved in the same transaction as the rows.
CREATE TABLE _muster_projections (
    name   TEXT    NOT NULL PRIMARY KEY,
    log_id TEXT    NOT NULL,
    cursor INTEGER NOT NULL -- the next offset to read
) STRICT, WITHOUT ROWID;
