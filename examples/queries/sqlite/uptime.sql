-- How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
-- these days, counts with its part within them.
WITH asked AS (
  SELECT 'meter-1' AS clientid, unixepoch('now', '-7 days') * 1000 AS since, unixepoch('now') * 1000 AS until
), sessions AS (
  SELECT min(connected_at) AS began, max(disconnected_at) AS ended
  FROM device_history JOIN asked USING (clientid)
  WHERE event IN ('client.connected', 'client.disconnected')
  GROUP BY session
), parts AS (
  SELECT max(0, min(coalesce(ended, until), until) - max(began, since)) AS ms FROM sessions, asked
)
SELECT clientid,
  (SELECT coalesce(sum(ms), 0) FROM parts) / 1000.0 AS online_seconds,
  round((SELECT coalesce(sum(ms), 0) FROM parts) * 100.0 / (until - since), 2) AS online_percent
FROM asked
