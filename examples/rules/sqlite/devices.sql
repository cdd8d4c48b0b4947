-- Devices in the embedded SQLite: who is here (device_status), what happened (device_history), what was wrong
-- (device_alarms) and what was said (device_messages).
-- The tables are made by the first rows: sqlite3 DATA/devices.db.

CREATE SINK devices TYPE sqlite WITH (path = 'devices.db');

CREATE RULE device_status INTO devices.device_status WITH (start = 'earliest') AS
SELECT clientid, event, reason, username, peername, connected_at, disconnected_at, session, seq, offset,
  timestamp
FROM "$events/client/connected", "$events/client/disconnected";

-- duration: how long the connection had lasted that a disconnect ended, in milliseconds.
CREATE RULE device_history INTO devices.device_history WITH (start = 'earliest') AS
SELECT clientid, event, reason, username, peername, connected_at, disconnected_at, session, seq, offset,
  timestamp,
  CASE WHEN event = 'client.disconnected' THEN disconnected_at - connected_at END AS duration
FROM "$events/client/connected", "$events/client/disconnected";

-- An alarm's end writes into the row of its beginning. One that is about no device has '' for clientid.
CREATE RULE device_alarms INTO devices.device_alarms WITH (start = 'earliest') AS
SELECT name, kind, severity, username, message, details, since, activated_at, deactivated_at, event, offset,
  timestamp, coalesce(clientid, '') AS clientid,
  CASE WHEN event = 'alarm.deactivated' THEN deactivated_at - activated_at END AS duration
FROM "$events/sys/alarm_activated", "$events/sys/alarm_deactivated";

CREATE RULE device_messages INTO devices.device_messages WITH (start = 'earliest') AS
SELECT clientid, topic, qos, payload, session, seq, offset, timestamp
FROM "devices/#";
