-- Devices in MongoDB: who is here (device_status), what happened (device_history), what was wrong
-- (device_alarms) and what was said (device_messages). `muster migrate` makes the indexes.

CREATE SINK devices TYPE mongodb WITH (
  url = '${env:DEVICES_URL}', database = '${env:DEVICES_DATABASE}', username = '${env:DEVICES_USER}',
  password = '${env:DEVICES_PASSWORD}');

CREATE RULE device_status INTO devices.device_status WITH (start = 'earliest') AS
SELECT *
FROM "$events/client/connected", "$events/client/disconnected";

-- duration: how long the connection had lasted that a disconnect ended, in milliseconds.
CREATE RULE device_history INTO devices.device_history WITH (start = 'earliest') AS
SELECT *,
  CASE WHEN event = 'client.disconnected' THEN disconnected_at - connected_at END AS duration
FROM "$events/client/connected", "$events/client/disconnected";

-- An alarm's end writes into the row of its beginning. One that is about no device has '' for clientid.
CREATE RULE device_alarms INTO devices.device_alarms WITH (start = 'earliest') AS
SELECT *, coalesce(clientid, '') AS clientid,
  CASE WHEN event = 'alarm.deactivated' THEN deactivated_at - activated_at END AS duration
FROM "$events/sys/alarm_activated", "$events/sys/alarm_deactivated";

CREATE RULE device_messages INTO devices.device_messages WITH (start = 'earliest') AS
SELECT *
FROM "devices/#";
