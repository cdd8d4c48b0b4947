"""Takes webhooks as a stranger would: verifies signatures with the reference library of Standard Webhooks, reads
CloudEvents with their SDK, and writes down what it took as JSON lines. See `webhook` beside this file."""

import json
import os
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.conversion import to_dict
from cloudevents.http import from_http, from_json
from standardwebhooks import Webhook, WebhookVerificationError

FOLDER, PORT = sys.argv[1], int(sys.argv[2])
WRITING = threading.Lock()


def read(name):
    path = os.path.join(FOLDER, name)
    return open(path, encoding="utf-8").read().strip() if os.path.exists(path) else ""


def events(headers, body):
    """The CloudEvents of a request, as the SDK reads them."""
    kind = headers.get("content-type", "")
    if kind.startswith("application/cloudevents-batch+json"):
        found = [from_json(json.dumps(event)) for event in json.loads(body)]
    elif kind.startswith("application/cloudevents+json") or "ce-id" in headers:
        found = [from_http(headers, body)]
    else:
        return []
    return [to_dict(event) for event in found]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def take(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        peer = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        secret = read("secret")
        try:
            if secret:
                Webhook(secret).verify(body, headers, json_parse=False)
            taken = {"method": self.command, "path": self.path, "headers": headers, "events": events(headers, body)}
        except WebhookVerificationError as error:
            return self.answer(401, str(error))
        except Exception as error:
            return self.answer(400, f"{type(error).__name__}: {error}")
        taken["body"] = body.decode("utf-8", "replace")
        taken["peer"] = peer and dict(pair for group in peer["subject"] for pair in group)["commonName"]
        with WRITING, open(os.path.join(FOLDER, "received"), "a", encoding="utf-8") as file:
            file.write(json.dumps(taken) + "\n")
        return self.answer(200, "")

    do_POST = do_PUT = do_PATCH = do_HEAD = take

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class TlsServer(ThreadingHTTPServer):
    """The handshake is the connection's own thread's work, so that a client that fails it holds up nobody."""

    def finish_request(self, request, address):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(FOLDER, "server.pem"), os.path.join(FOLDER, "server.key"))
        context.load_verify_locations(os.path.join(FOLDER, "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        with context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, address)

    def handle_error(self, request, address):
        pass


plain = ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
tls = TlsServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=tls.serve_forever, daemon=True).start()
with open(os.path.join(FOLDER, "tls-port.new"), "w", encoding="utf-8") as file:
    file.write(str(tls.server_address[1]))
os.replace(os.path.join(FOLDER, "tls-port.new"), os.path.join(FOLDER, "tls-port"))
plain.serve_forever()
