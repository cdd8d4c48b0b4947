-- What the sensors measure: one row for each publish to sensors/NAME/up whose payload is like
-- {"temp": 21.5, "humidity": 40, "n": 7}.

CREATE RULE telemetry INTO sqlite.telemetry AS
SELECT clientid, topic, payload.temp AS temp, payload.humidity AS humidity, payload.n AS n, timestamp AS at
FROM "sensors/+/up";
