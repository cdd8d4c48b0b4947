-- What MQTT sessions must find again after a restart. Times are milliseconds since 1970, offsets those of the event log.

-- Sessions that outlive their connections.
CREATE TABLE session (
    id         INTEGER NOT NULL PRIMARY KEY,
    clientid   TEXT    NOT NULL,
    facts      TEXT    NOT NULL, -- a JSON object: who the client is and what it asked for
    gone_at_ms INTEGER,          -- when its last connection ended; NULL while connected
    seen_to    INTEGER NOT NULL  -- what it is owed of events before this offset stands in `delivery`, if it is owed still
) STRICT;

CREATE TABLE subscription (
    session INTEGER NOT NULL,
    filter  TEXT    NOT NULL,
    number  INTEGER NOT NULL, -- its number in the session
    since   INTEGER NOT NULL, -- no event before this offset is owed for it
    options TEXT    NOT NULL, -- a JSON object
    PRIMARY KEY (session, filter)
) STRICT, WITHOUT ROWID;

-- Messages on their way to clients.
CREATE TABLE delivery (
    session INTEGER NOT NULL,
    message INTEGER NOT NULL, -- the offset of its publish
    number  INTEGER NOT NULL, -- of the subscription
    stage   INTEGER NOT NULL, -- 0 waits, 1 sent, 2 released (QoS 2), 3 done and remembered (QoS 2)
    pkid    INTEGER NOT NULL, -- 0 where it has none
    topic   TEXT    NOT NULL,
    body    BLOB    NOT NULL, -- the message with its envelope
    qos     INTEGER NOT NULL,
    retain  INTEGER NOT NULL,
    subscription_id INTEGER,
    PRIMARY KEY (session, message, number)
) STRICT, WITHOUT ROWID;

-- QoS 2 publishes from clients, by the packet identifier that their client has not released, or has released a moment ago.
CREATE TABLE inbound (
    session  INTEGER NOT NULL,
    pkid     INTEGER NOT NULL,
    message  INTEGER NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (session, pkid)
) STRICT, WITHOUT ROWID;

-- What is to be published when a connection ends without a goodbye, of every client that left such a message.
CREATE TABLE will (
    clientid TEXT    NOT NULL PRIMARY KEY,
    session  INTEGER NOT NULL, -- the number of the connection in events
    facts    TEXT    NOT NULL,
    topic    TEXT    NOT NULL,
    body     BLOB    NOT NULL, -- Protocol Buffers, a message of an event
    due_at_ms INTEGER          -- NULL while connected
) STRICT, WITHOUT ROWID;

-- Up to where the event log is known to be in `delivery` and `inbound`.
CREATE TABLE mark (
    one       INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    log_id    BLOB    NOT NULL,
    read_from INTEGER NOT NULL
) STRICT;
