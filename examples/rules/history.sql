-- The history of every device: one row each time one comes or goes.
-- The table is created when the first row arrives: sqlite3 DATA/muster.db 'SELECT * FROM device_history'

CREATE RULE device_history INTO sqlite.device_history AS
SELECT clientid, event, reason, username, peername, session, seq, timestamp AS at
FROM "$events/client/connected", "$events/client/disconnected";
