-- A clock that shows another era for a moment does not make history old: since when events have come, one after the other,
-- whose time is far from `pruned_day`, and how many.
ALTER TABLE _muster_history ADD COLUMN era_since  INTEGER NOT NULL DEFAULT 0; -- milliseconds since 1970
ALTER TABLE _muster_history ADD COLUMN era_events INTEGER NOT NULL DEFAULT 0;

-- The alarms that are on, by the device that they are about.
CREATE INDEX _muster_alarm_history_on_of ON _muster_alarm_history (clientid, id) WHERE deactivated_at IS NULL;
