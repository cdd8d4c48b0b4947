-- What operators set while the platform runs and is no rule: keys, users, permissions, bans. One JSON object each, whose
-- meaning is its collection's business.
CREATE TABLE documents (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id)
) STRICT, WITHOUT ROWID;
