"""mosquitto to a table, as one writes it by hand: QoS 1, batches of what has come meanwhile, one commit a batch."""

import json
import queue
import sqlite3
import sys

import paho.mqtt.client as mqtt

BATCH_ROWS = 10_000


def writer(target):
    if target.startswith("postgres://"):
        import psycopg

        db = psycopg.connect(target)

        def write(rows):
            with db.cursor() as cursor:
                with cursor.copy("COPY bench (clientid, topic, p, n, t) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            db.commit()
    else:
        db = sqlite3.connect(target)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE IF NOT EXISTS bench (clientid, topic, p, n, t)")
        db.commit()

        def write(rows):
            db.executemany("INSERT INTO bench VALUES (?, ?, ?, ?, ?)", rows)
            db.commit()

    return write


def main():
    port, target = int(sys.argv[1]), sys.argv[2]
    messages = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="bridge")
    client.on_message = lambda _client, _data, message: messages.put((message.topic, message.payload))
    client.on_connect = lambda client, *_rest: client.subscribe("bench/+/up", 1)
    write = writer(target)
    client.connect("127.0.0.1", port)
    client.loop_start()
    while True:
        batch = [messages.get()]
        while len(batch) < BATCH_ROWS and not messages.empty():
            batch.append(messages.get())
        rows = []
        for topic, payload in batch:
            fields = json.loads(payload)
            rows.append((topic.split("/")[1], topic, fields["p"], fields["n"], fields["t"]))
        write(rows)


main()
