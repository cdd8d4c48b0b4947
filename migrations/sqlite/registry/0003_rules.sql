-- Rules made over REST, beside those of the rule files. Times are milliseconds since 1970.
CREATE TABLE rules (
    id             TEXT    NOT NULL PRIMARY KEY,
    body           TEXT    NOT NULL, -- a JSON object: name, sql, actions, enable, description, metadata
    created_at_ms  INTEGER NOT NULL,
    modified_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
