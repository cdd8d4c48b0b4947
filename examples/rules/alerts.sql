-- Only what is out of the ordinary: a rule's WHERE sees the columns and everything that SELECT made.

CREATE RULE hot_sensors INTO sqlite.alerts AS
SELECT clientid, payload.temp AS temp, 'hot' AS kind, timestamp AS at
FROM "sensors/+/up"
WHERE payload.temp > 40;
