-- The history of each device, and what of it the table of devices tells. Folded anew from the log's beginning, since what
-- was folded until now has no history.
ALTER TABLE devices ADD COLUMN number INTEGER NOT NULL DEFAULT 0;         -- in the order in which devices were first seen
ALTER TABLE devices ADD COLUMN longest_outage INTEGER NOT NULL DEFAULT 0; -- milliseconds; of those that are over
ALTER TABLE devices ADD COLUMN flapping_until INTEGER NOT NULL DEFAULT 0; -- until when it counts as flapping
ALTER TABLE devices ADD COLUMN went TEXT NOT NULL DEFAULT '[]';           -- when it went the last times; a JSON array
CREATE UNIQUE INDEX devices_by_number ON devices (number) WHERE number > 0;

-- One row a session. `fork` places a session that is over in a tree over time, so that those that held at a moment are
-- found by some forty short searches, however many there were: it is the number in [came, went] that has most zero bits
-- at its end.
CREATE TABLE _muster_sessions (
    device      INTEGER NOT NULL, -- its number
    session     INTEGER NOT NULL,
    came        INTEGER NOT NULL,
    went        INTEGER,          -- null while it is open
    fork        INTEGER,          -- null while it is open
    reason      TEXT,             -- why it ended
    username    TEXT,
    peername    TEXT    NOT NULL,
    came_offset INTEGER,          -- of the event that began it; null if that was not seen
    went_offset INTEGER,
    PRIMARY KEY (device, session)
) STRICT, WITHOUT ROWID;
CREATE INDEX _muster_sessions_by_end ON _muster_sessions (fork, went) WHERE fork IS NOT NULL;
CREATE INDEX _muster_sessions_by_beginning ON _muster_sessions (fork, came) WHERE fork IS NOT NULL;
CREATE INDEX _muster_sessions_open ON _muster_sessions (came) WHERE fork IS NULL;

-- How many came and went in each minute since 1970 in which any did.
CREATE TABLE _muster_minutes (
    minute      INTEGER NOT NULL PRIMARY KEY,
    connects    INTEGER NOT NULL,
    disconnects INTEGER NOT NULL
) STRICT;

-- What else happened to a device: subscriptions and alarms.
CREATE TABLE _muster_device_events (
    device INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    detail TEXT    NOT NULL, -- a JSON object
    PRIMARY KEY (device, offset)
) STRICT, WITHOUT ROWID;

-- Every alarm that was raised, the platform's own among them; by the offset of the event that raised it.
CREATE TABLE _muster_alarm_history (
    id              INTEGER NOT NULL PRIMARY KEY,
    name            TEXT    NOT NULL,
    clientid        TEXT    NOT NULL, -- empty where it is about no one device
    username        TEXT,
    kind            TEXT    NOT NULL,
    severity        TEXT    NOT NULL,
    message         TEXT    NOT NULL,
    details         TEXT    NOT NULL, -- a JSON object, or empty
    since           INTEGER NOT NULL, -- of the absence; 0 where there is none
    activated_at    INTEGER NOT NULL,
    deactivated_at  INTEGER,          -- null while it is on
    duration        INTEGER,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    comment         TEXT
) STRICT;
CREATE INDEX _muster_alarm_history_by_name ON _muster_alarm_history (name, clientid, activated_at);
CREATE INDEX _muster_alarm_history_on ON _muster_alarm_history (id) WHERE deactivated_at IS NULL;

-- What is listed and not told; by the offset of the event that says so.
CREATE TABLE _muster_alarm_silences (
    id       INTEGER NOT NULL PRIMARY KEY,
    name     TEXT,             -- null: alarms of any name
    clientid TEXT,             -- a pattern with `*`; null: about anybody
    until    INTEGER NOT NULL,
    made_by  TEXT    NOT NULL,
    comment  TEXT    NOT NULL
) STRICT;

-- Where the fold began, and up to which day old history was removed.
CREATE TABLE _muster_history (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    first      INTEGER NOT NULL, -- offset of the first event that was folded
    pruned_day INTEGER NOT NULL  -- days since 1970
) STRICT;

DELETE FROM devices;
DELETE FROM _muster_alarms;
DELETE FROM _muster_projections WHERE name = 'devices';
