-- The alarms that are on, by name: folded from alarm.activated and alarm.deactivated, under the cursor of `devices`.
CREATE TABLE _muster_alarms (
    name    TEXT    NOT NULL PRIMARY KEY,
    since   INTEGER NOT NULL, -- milliseconds since 1970
    message TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
