-- How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
-- these days, counts with its part within them.
WITH asked AS (
  SELECT 'meter-1' AS clientid, (julianday('now') - 2440587.5 - 7) * 86400000 AS since, -- milliseconds since 1970
    (julianday('now') - 2440587.5) * 86400000 AS until
), sessions AS (
  SELECT min(connected_at) AS began, max(disconnected_at) AS ended
  FROM device_history JOIN asked USING (clientid)
  WHERE event IN ('client.connected', 'client.disconnected')
  GROUP BY session
), parts AS (
  SELECT max(0, min(coalesce(ended, until), until) - max(began, since)) AS ms FROM sessions, asked
)
SELECT clientid,
  round((SELECT coalesce(sum(ms), 0) FROM parts) / 1000.0, 3) AS online_seconds,
  round((SELECT coalesce(sum(ms), 0) FROM parts) * 100.0 / (until - since), 2) AS online_percent
FROM asked
