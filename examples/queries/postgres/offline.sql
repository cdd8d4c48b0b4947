-- Who is offline now, since when, and why; whoever is gone longest comes first.
SELECT clientid, disconnected_at AS since, reason
FROM device_status
WHERE NOT online
ORDER BY since, clientid
