-- Only what is out of the ordinary: a rule's WHERE sees the columns and everything that SELECT made. Each row goes into
-- a table and, as a message that is kept for who comes later, to everybody who watches: mosquitto_sub -t 'alerts/#' -v

CREATE RULE hot_sensors INTO sqlite.alerts, REPUBLISH TO 'alerts/${clientid}' WITH (qos = 1, retain = true) AS
SELECT clientid, payload.temp AS temp, 'hot' AS kind, timestamp AS at
FROM "sensors/+/up"
WHERE payload.temp > 40;
