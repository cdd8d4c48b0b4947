-- How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
-- these days, counts with its part within them.
WITH asked AS (
  SELECT 'meter-1' AS clientid, now() - interval '7 days' AS since, now() AS until
), sessions AS (
  SELECT session, min(connected_at) AS began, max(disconnected_at) AS ended
  FROM device_history JOIN asked USING (clientid)
  WHERE event IN ('client.connected', 'client.disconnected')
  GROUP BY session
), parts AS (
  SELECT greatest(began, since) AS began, least(ended, until) AS ended -- least() passes over NULL: still open
  FROM sessions, asked
)
SELECT clientid,
  round(coalesce(sum(extract(epoch FROM ended - began)) FILTER (WHERE ended > began), 0), 3) AS online_seconds,
  round(coalesce(sum(extract(epoch FROM ended - began)) FILTER (WHERE ended > began), 0)
    / extract(epoch FROM until - since) * 100, 2) AS online_percent
FROM asked LEFT JOIN parts ON true
GROUP BY clientid, since, until
