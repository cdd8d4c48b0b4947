"""The write endpoint of InfluxDB's v2 API before an InfluxDB 1.6: `influxdb-front.py PORT PROGRAM CONFIG` starts the
program on a port of its own and passes everything on. Only what 1.6 lacks is made here: `/health`, the path and the
parameters of `/api/v2/write`, and `Authorization: Token USER:PASSWORD`. Answers are the server's own."""

import base64
import http.client
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH = b'{"name":"influxdb","message":"ready for queries and writes","status":"pass","checks":[]}'
PASSED_ON = ["Authorization", "Content-Encoding", "Content-Type"]
PASSED_BACK = ["Content-Type", "X-Influxdb-Version", "X-Influxdb-Error", "WWW-Authenticate"]
PRECISION = {"ns": "n", "us": "u", "ms": "ms", "s": "s"}


def translated(path):
    """The path that 1.6 knows."""
    url = urllib.parse.urlsplit(path)
    if url.path != "/api/v2/write":
        return path
    given = dict(urllib.parse.parse_qsl(url.query))
    database, _, policy = given.get("bucket", "").partition("/")
    query = {"db": database, "rp": policy, "precision": PRECISION.get(given.get("precision", "ns"), "n")}
    return "/write?" + urllib.parse.urlencode({name: value for name, value in query.items() if value})


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def pass_on(self):
        body = self.body()
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme == "Token":
            headers["Authorization"] = "Basic " + base64.b64encode(token.encode()).decode()
        if self.path == "/health":
            return self.answer(200, {"Content-Type": "application/json"}, HEALTH)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        try:
            upstream.request(self.command, translated(self.path), body, headers)
            answer = upstream.getresponse()
            kept = {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
            return self.answer(answer.status, kept, answer.read())
        except OSError as error:
            return self.answer(502, {}, str(error).encode())
        finally:
            upstream.close()

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204 and self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = pass_on


def main():
    port, program, config = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        inner = free.getsockname()[1]
    environment = dict(os.environ, INFLUXDB_HTTP_BIND_ADDRESS=f"127.0.0.1:{inner}")
    server = subprocess.Popen([program, "-config", config], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: (server.terminate(), server.wait(), sys.exit(0)))
    front = ThreadingHTTPServer(("127.0.0.1", port), Front)
    front.daemon_threads = True
    front.upstream = inner
    front.serve_forever()


main()
