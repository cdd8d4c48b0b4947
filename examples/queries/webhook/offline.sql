-- Who is offline now, since when, and why; whoever is gone longest comes first. Times are milliseconds since 1970.
SELECT clientid, disconnected_at AS since, reason, datetime(disconnected_at / 1000, 'unixepoch') AS since_utc
FROM device_status
WHERE event = 'client.disconnected'
ORDER BY since, clientid
