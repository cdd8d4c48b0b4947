-- Which ten devices went away most often in the last seven days.
SELECT clientid, count(*) AS disconnects
FROM device_history
WHERE event = 'client.disconnected'
  AND timestamp >= unixepoch('now', '-7 days') * 1000 AND timestamp < (unixepoch('now') + 1) * 1000
GROUP BY clientid
ORDER BY disconnects DESC, clientid
LIMIT 10
