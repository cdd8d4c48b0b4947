-- The last retained message of each topic, with its envelope (client, time, properties) before the payload.
CREATE TABLE retained (
    topic     TEXT    NOT NULL PRIMARY KEY,
    message   BLOB    NOT NULL,
    set_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
