#!/usr/bin/env python3
"""Receives what devices.sql sends, and keeps it in tables of an SQLite file. Needs nothing but Python 3.8.

    DEVICES_TOKEN=secret ./receiver.py devices.db 127.0.0.1:8000

Or takes rows from its standard input, one a line, for one table, such as the records of a topic of
../kafka/devices.sql:

    kafka-console-consumer.sh --bootstrap-server HOST:9092 --topic device_status --from-beginning --timeout-ms 10000 \\
      --isolation-level read_committed | ./receiver.py devices.db device_status

A request may come again, when its answer was lost, or late: a status is replaced only by a larger `seq`, an alarm only
by a larger `offset`, and a row of history or messages is known by its event's `offset`. It answers 204 when all of the
rows are on the disk, and not before.
"""

import hmac
import json
import os
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

BODY_BYTES_MAX = 8 * 1024 * 1024
CONNECTION = ["clientid", "event", "reason", "username", "peername", "connected_at", "disconnected_at", "session",
              "seq", "offset", "timestamp"]
# Of each table: its columns, its key, and the column that must grow where a key may come again with news.
TABLES = {
    "device_status": (CONNECTION, ["clientid"], "seq"),
    "device_history": (CONNECTION + ["duration"], ["offset"], None),
    "device_alarms": (["name", "clientid", "activated_at", "deactivated_at", "duration", "kind", "severity", "username",
                       "message", "details", "since", "event", "offset", "timestamp"],
                      ["name", "clientid", "activated_at"], "offset"),
    "device_messages": (["clientid", "topic", "qos", "payload", "session", "seq", "offset", "timestamp"],
                        ["offset"], None),
}


def create(table):
    columns, key, _ = TABLES[table]
    names = ", ".join(f'"{name}"' for name in columns)
    return f'CREATE TABLE IF NOT EXISTS {table} ({names}, PRIMARY KEY ({", ".join(quoted(key))}))'


def insert(table):
    columns, key, guard = TABLES[table]
    text = f'INSERT INTO {table} VALUES ({", ".join("?" for _ in columns)}) ON CONFLICT ({", ".join(quoted(key))}) DO '
    if guard is None:
        return text + "NOTHING"
    news = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name not in key)
    return text + f'UPDATE SET {news} WHERE excluded."{guard}" > {table}."{guard}"'


def quoted(names):
    return [f'"{name}"' for name in names]


def values(row):
    columns, key, guard = TABLES[row["table"]]
    if any(row.get(name) is None for name in key + [guard or key[0]]):
        raise ValueError("a row without its key")
    plain = (row.get(name) for name in columns)
    return [json.dumps(value) if isinstance(value, (dict, list)) else value for value in plain]


class Store:
    def __init__(self, path):
        self.lock = Lock()
        self.db = sqlite3.connect(path, check_same_thread=False)
        self.db.executescript("PRAGMA journal_mode = wal; PRAGMA synchronous = full")
        for table in TABLES:
            self.db.execute(create(table))
        self.db.commit()

    def take(self, rows):
        prepared = [(insert(row["table"]), values(row)) for row in rows]
        with self.lock, self.db:  # one transaction
            for statement, cells in prepared:
                self.db.execute(statement, cells)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        given = self.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), b"Bearer " + self.server.token.encode()):
            return self.answer(401)
        try:
            rows = json.loads(body)
            self.server.store.take(rows if isinstance(rows, list) else [rows])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"refused: {error!r}", file=sys.stderr)
            return self.answer(422)  # trying again is of no use: the rows go to the dead letters
        except sqlite3.Error as error:
            print(f"not stored: {error!r}", file=sys.stderr)
            return self.answer(503)  # Muster tries again
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # whoever sent it is gone, and will send it again

    def log_message(self, *_):
        pass


def main():
    path, address = sys.argv[1:]
    if address in TABLES:
        return Store(path).take({**json.loads(line), "table": address} for line in sys.stdin)
    host, port = address.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    server.token, server.store = os.environ["DEVICES_TOKEN"], Store(path)
    print(f"listening on http://{host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
