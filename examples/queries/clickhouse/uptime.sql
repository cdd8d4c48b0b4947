-- How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
-- these days, counts with its part within them.
WITH now64(3, 'UTC') - INTERVAL 7 DAY AS since, now64(3, 'UTC') AS until
SELECT
    'meter-1' AS device,
    sum(greatest(0,
        toUnixTimestamp64Milli(least(ended, until)) - toUnixTimestamp64Milli(greatest(began, since)))) / 1000
        AS online_seconds,
    round(online_seconds / (toUnixTimestamp64Milli(until) - toUnixTimestamp64Milli(since)) * 100000, 2)
        AS online_percent
FROM
(
    SELECT
        assumeNotNull(min(connected_at)) AS began,
        ifNull(max(disconnected_at), toDateTime64('2200-01-01 00:00:00', 3, 'UTC')) AS ended -- still open
    FROM device_history_now
    WHERE clientid = 'meter-1' AND event IN ('client.connected', 'client.disconnected')
    GROUP BY session
)
