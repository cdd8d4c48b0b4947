-- Which ten devices went away most often in the last seven days.
WITH now64(3, 'UTC') - INTERVAL 7 DAY AS since, now64(3, 'UTC') AS until
SELECT clientid, count() AS disconnects
FROM device_history_now
WHERE event = 'client.disconnected' AND timestamp >= since AND timestamp < until
GROUP BY clientid
ORDER BY disconnects DESC, clientid
LIMIT 10
