-- Alarms of one name may be about several things at once (a stalled pipeline each): what an alarm is about is part of
-- its key. `subject` is the alarm's `details`.
CREATE TABLE _muster_alarms_3 (
    name    TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    since   INTEGER NOT NULL, -- milliseconds since 1970
    message TEXT    NOT NULL,
    PRIMARY KEY (name, subject)
) STRICT, WITHOUT ROWID;
INSERT INTO _muster_alarms_3 SELECT name, '', since, message FROM _muster_alarms;
DROP TABLE _muster_alarms;
ALTER TABLE _muster_alarms_3 RENAME TO _muster_alarms;
