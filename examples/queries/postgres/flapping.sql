-- Which ten devices went away most often in the last seven days.
SELECT clientid, count(*) AS disconnects
FROM device_history
WHERE event = 'client.disconnected' AND "timestamp" >= now() - interval '7 days' AND "timestamp" < now()
GROUP BY clientid
ORDER BY disconnects DESC, clientid
LIMIT 10
