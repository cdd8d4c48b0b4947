-- Who stays away for half a minute is told of, once, and so is the return, with the outage's length: a row in a table,
-- `muster alarms list`, and a message to everybody who watches: mosquitto_sub -t 'alarms/#' -v

CREATE ALARM offline INTO sqlite.alarms REPUBLISH TO 'alarms/${clientid}' WITH (qos = 1)
WITH (severity = 'major', message = '${clientid} is gone since ${since}') AS
ABSENCE OF "$events/client/connected" FOR 30s AFTER "$events/client/disconnected";
