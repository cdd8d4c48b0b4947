-- Rules say which events become rows, and where the rows go. Remove the `-- ` in front of a statement to try it: this
-- folder is watched, and what changes in it takes effect while Muster runs. `muster rules check .` checks it offline.
--
-- A new rule begins with what happens from now on; WITH (start = 'earliest') before AS begins with the oldest event
-- that the log still has.

-- The history of every device, into a table of DATA/muster.db that is created with the first row:
--
-- CREATE RULE device_history INTO sqlite.device_history AS
-- SELECT clientid, event, reason, username, peername, timestamp AS at
-- FROM "$events/client/connected", "$events/client/disconnected";

-- Numbers from JSON payloads such as {"temp": 21.5}, published to sensors/NAME/up:
--
-- CREATE RULE telemetry INTO sqlite.telemetry AS
-- SELECT clientid, topic, payload.temp AS temp, timestamp AS at
-- FROM "sensors/+/up"
-- WHERE payload.temp > -50;

-- The same to a webhook; a secret is taken from the environment, never written here:
--
-- CREATE SINK hook TYPE webhook WITH (url = '${env:HOOK_URL}');
-- CREATE RULE hot INTO hook AS
-- SELECT clientid, payload.temp AS temp FROM "sensors/+/up" WHERE payload.temp > 40;
