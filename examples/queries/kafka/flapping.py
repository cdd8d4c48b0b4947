#!/usr/bin/env python3
"""Which ten devices went away most often in the last seven days, or between two moments. Asks device_history:

    kafka-console-consumer.sh --bootstrap-server HOST:9092 --topic device_history --from-beginning --timeout-ms 10000 \\
      --isolation-level read_committed | ./flapping.py [SINCE UNTIL]

Moments are milliseconds since 1970. Prints client and count, with a tab between.
"""

import json
import sys
import time
from collections import Counter

DEVICES_MAX = 10
WEEK_MS = 7 * 24 * 60 * 60 * 1000

now = int(time.time() * 1000)
since, until = map(int, sys.argv[1:] or (now - WEEK_MS, now))
counts = Counter()
for line in sys.stdin:
    row = json.loads(line)
    if row["event"] == "client.disconnected" and since <= row["timestamp"] < until:
        counts[row["clientid"]] += 1

for client, count in sorted(counts.items(), key=lambda it: (-it[1], it[0]))[:DEVICES_MAX]:
    print(client, count, sep="\t")
