#!/usr/bin/env python3
"""Who is offline now, since when, and why; whoever is gone longest comes first. Asks the records of device_status:

    kafka-console-consumer.sh --bootstrap-server HOST:9092 --topic device_status --from-beginning --timeout-ms 10000 \\
      --isolation-level read_committed | ./offline.py

Of each device the record with the largest `seq` counts: compaction removes the others, but not at once. Prints client,
moment (milliseconds since 1970) and reason, with tabs between.
"""

import json
import sys

status = {}
for line in sys.stdin:
    row = json.loads(line)
    known = status.get(row["clientid"])
    if known is None or row["seq"] > known["seq"]:
        status[row["clientid"]] = row

gone = [row for row in status.values() if row["event"] == "client.disconnected"]
for row in sorted(gone, key=lambda row: (row["disconnected_at"], row["clientid"])):
    print(row["clientid"], row["disconnected_at"], row["reason"], sep="\t")
