#!/usr/bin/env python3
"""How long one device was online in the last seven days, or between two moments. Asks device_history:

    kafka-console-consumer.sh --bootstrap-server HOST:9092 --topic device_history --from-beginning --timeout-ms 10000 \\
      --isolation-level read_committed | ./uptime.py meter-1 [SINCE UNTIL]

Moments are milliseconds since 1970. A connection that lasts, or that began or ended outside of these days, counts with
its part within them. Prints client, seconds and percent, with tabs between.
"""

import json
import sys
import time

WEEK_MS = 7 * 24 * 60 * 60 * 1000

now = int(time.time() * 1000)
client = sys.argv[1]
since, until = map(int, sys.argv[2:] or (now - WEEK_MS, now))
sessions = {}
for line in sys.stdin:
    row = json.loads(line)
    if row["clientid"] == client:
        # A session that is over says both; its end comes last.
        ended = row["disconnected_at"] if row["event"] == "client.disconnected" else None
        known = sessions.get(row["session"], (None, None))[1]
        sessions[row["session"]] = row["connected_at"], known if ended is None else ended

parts = (min(until if ended is None else ended, until) - max(began, since) for began, ended in sessions.values())
online_ms = sum(max(0, part) for part in parts)
print(client, online_ms / 1000, round(online_ms / (until - since) * 100, 2), sep="\t")
