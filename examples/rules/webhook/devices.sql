-- Devices in whatever takes HTTP: who is here (device_status), what happened (device_history), what was wrong
-- (device_alarms) and what was said (device_messages).
-- receiver.py beside this file is such a receiver: it keeps the tables in an SQLite file of its own.

CREATE SINK devices TYPE webhook WITH (
  url = '${env:DEVICES_URL}', batch = 'true', batch_rows = 500, "header.Authorization" = 'Bearer ${env:DEVICES_TOKEN}');

CREATE RULE device_status INTO devices WITH (start = 'earliest') AS
SELECT 'device_status' AS "table",
  clientid, event, reason, username, peername, connected_at, disconnected_at, session, seq, offset, timestamp
FROM "$events/client/connected", "$events/client/disconnected";

-- duration: how long the connection had lasted that a disconnect ended, in milliseconds.
CREATE RULE device_history INTO devices WITH (start = 'earliest') AS
SELECT 'device_history' AS "table",
  clientid, event, reason, username, peername, connected_at, disconnected_at, session, seq, offset, timestamp,
  CASE WHEN event = 'client.disconnected' THEN disconnected_at - connected_at END AS duration
FROM "$events/client/connected", "$events/client/disconnected";

-- An alarm's end writes into the row of its beginning. One that is about no device has '' for clientid.
CREATE RULE device_alarms INTO devices WITH (start = 'earliest') AS
SELECT 'device_alarms' AS "table",
  name, kind, severity, username, message, details, since, activated_at,
  deactivated_at, event, offset, timestamp, coalesce(clientid, '') AS clientid,
  CASE WHEN event = 'alarm.deactivated' THEN deactivated_at - activated_at END AS duration
FROM "$events/sys/alarm_activated", "$events/sys/alarm_deactivated";

CREATE RULE device_messages INTO devices WITH (start = 'earliest') AS
SELECT 'device_messages' AS "table",
  clientid, topic, qos, payload, session, seq, offset, timestamp
FROM "devices/#";
