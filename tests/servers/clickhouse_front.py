"""ClickHouse's HTTP interface, as far as Muster and its tests use it, before the engine in this process (chdb).

usage: clickhouse_front.py PORT FOLDER. The requests are answered one after the other. What a server does and this does
not: TLS, sessions, roles, quotas, progress headers, compressed answers, query parameters.
"""

import base64
import os
import re
import signal
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
from chdb import session
from clickhouse_cityhash.cityhash import CityHash128

USERS = {"default": "", "muster": "secret"}
# What a URL holds beside settings.
NO_SETTINGS = {"query", "database", "default_format", "decompress", "compress", "user", "password", "query_id",
               "wait_end_of_query", "buffer_size", "enable_http_compression"}
# Data follows an INSERT behind the name of its format.
INSERT = re.compile(rb"^\s*(INSERT\s+INTO\s.*?)\sFORMAT\s+(\w+)\s*(.*)$", re.I | re.S)
STATUS = {6: 400, 26: 400, 27: 400, 38: 400, 41: 400, 43: 400, 53: 400, 62: 400, 72: 400, 117: 400, 376: 400,
          16: 404, 60: 404, 81: 404, 497: 403, 516: 403}

engine = session.Session(sys.argv[2])
one_at_a_time = threading.Lock()


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f"Code: {code}. DB::Exception: {text}")


def decompressed(body):
    """Blocks of 16 bytes of checksum, 1 of method, 4 of size with header, 4 of size before compression, and data."""
    out, at = [], 0
    while at < len(body):
        if len(body) < at + 25:
            raise Refused(33, "Cannot read all data. (CANNOT_READ_ALL_DATA)")
        method, packed, plain = struct.unpack_from("<BII", body, at + 16)
        block = body[at + 16:at + 16 + packed]
        if len(block) != packed:
            raise Refused(33, "Cannot read all data. (CANNOT_READ_ALL_DATA)")
        low, high = struct.unpack_from("<QQ", body, at)
        if CityHash128(bytes(block)) not in ((low, high), (high, low), low << 64 | high, high << 64 | low):
            raise Refused(40, "Checksum doesn't match: corrupted data. (CHECKSUM_DOESNT_MATCH)")
        if method == 0x82:
            out.append(lz4.block.decompress(block[9:], uncompressed_size=plain))
        elif method == 0x02:
            out.append(block[9:])
        else:
            raise Refused(432, f"Unknown codec family code: {method}. (UNKNOWN_CODEC)")
        at += 16 + packed
    return b"".join(out)


def text(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def ask(sql, form="TabSeparated"):
    answer = engine.query(sql, form)
    return bytes(answer.bytes()) if answer is not None and hasattr(answer, "bytes") else b""


def insert(statement, form, data):
    # By a file, since text behind a statement is searched for further statements.
    path = os.path.join(sys.argv[2], "..", "insert")
    with open(path, "wb") as file:
        file.write(data)
    ask(statement + b" FROM INFILE " + text(path).encode() + b" FORMAT " + form)


def run(url, body):
    if url.get("decompress") == "1":
        body = decompressed(body)
    sql = url["query"].encode() + b"\n" + body if "query" in url else body
    settings = [(name, value) for name, value in url.items() if name not in NO_SETTINGS]
    with one_at_a_time:
        database = url.get("database", "default")
        ask(f"USE `{database}`")
        try:
            if settings:
                ask("SET " + ", ".join(f"{name} = {text(value)}" for name, value in settings))
            if found := INSERT.match(sql):
                insert(*found.groups())
                return b""
            return ask(sql, url.get("default_format", "TabSeparated"))
        finally:
            forget([name for name, _ in settings])


def forget(names):
    try:
        if names:
            ask("SET " + ", ".join(f"{name} = DEFAULT" for name in names))
    except Exception:
        # There is no such setting; the request was refused for it. The others may be set all the same.
        for name in names if len(names) > 1 else []:
            forget([name])


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are two packets; the second must not wait for an acknowledgement of the first.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            return body if len(body) == length else None
        pieces = []
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            piece = self.rfile.read(size)
            self.rfile.readline()
            if len(piece) != size:
                return None
            if size == 0:
                return b"".join(pieces)
            pieces.append(piece)
        return None

    def who(self, url):
        user, password = url.get("user", "default"), url.get("password", "")
        user = self.headers.get("X-ClickHouse-User", user)
        password = self.headers.get("X-ClickHouse-Key", password)
        basic = self.headers.get("Authorization", "")
        if basic.startswith("Basic "):
            user, _, password = base64.b64decode(basic[6:]).decode().partition(":")
        if USERS.get(user) != password:
            raise Refused(516, f"{user}: Authentication failed: password is incorrect, or there is no user with such "
                               "name. (AUTHENTICATION_FAILED)")

    def answer(self, status, body, code=None):
        self.send_response(status)
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        address = urlsplit(self.path)
        url = dict(parse_qsl(address.query, keep_blank_values=True))
        body = self.body()
        if body is None:
            self.close_connection = True
            return
        if address.path == "/ping" or (not body and "query" not in url):
            self.answer(200, b"Ok.\n")
            return
        try:
            self.who(url)
            self.answer(200, run(url, body))
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            words = str(error)
            words = words[max(words.find("Code: "), 0):]
            found = re.match(r"Code: (\d+)", words)
            code = int(found[1]) if found else 1002
            self.answer(STATUS.get(code, 500), words.encode() + b"\n", code)

    do_GET = do_POST = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def stop(*_):
    # Between two requests, so that no insert is torn.
    with one_at_a_time:
        engine.close()
        sys.stdout.flush()
        os._exit(0)


signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop).start())
Server(("127.0.0.1", int(sys.argv[1])), Front).serve_forever()
