"""An MQTT client that does what it reads on standard input, one JSON object a line, and says on standard output, one
JSON object a line, what happened to it. The end of its input ends it without a DISCONNECT."""

import json
import os
import socket
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

lock = threading.Lock()


def say(event, **fields):
    with lock:
        print(json.dumps({"event": event, **fields}), flush=True)


def code(reason):
    return getattr(reason, "value", reason)


def at_once(client, userdata, sock):
    """Sends each packet when it is made. A goodbye that waits in the kernel for the answer to what went before is thrown
    away with the socket, if something unread came meanwhile."""
    if hasattr(sock, "setsockopt"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def make(options):
    v5 = options.get("version", 4) == 5
    arguments = {} if v5 else {"clean_session": options.get("clean", True)}
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=options["clientid"],
        protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
        reconnect_on_failure=False,
        transport=options.get("transport", "tcp"),
        **arguments,
    )
    if "username" in options:
        client.username_pw_set(options["username"], options.get("password"))
    if "path" in options:
        client.ws_set_options(path=options["path"])
    if "ca" in options:
        client.tls_set(ca_certs=options["ca"], certfile=options.get("cert"), keyfile=options.get("key"))
    if "will" in options:
        will = options["will"]
        client.will_set(will["topic"], will["payload"], will.get("qos", 0), will.get("retain", False))
    client.on_socket_open = at_once
    client.on_connect = lambda c, u, flags, reason, p: say(
        "connected", code=code(reason), session_present=bool(flags.session_present)
    )
    client.on_disconnect = lambda c, u, flags, reason, p: say(
        "disconnected", code=code(reason), by_server=bool(flags.is_disconnect_packet_from_server)
    )
    client.on_publish = lambda c, u, mid, reason, p: say("published", mid=mid, code=code(reason))
    client.on_subscribe = lambda c, u, mid, reasons, p: say("subscribed", codes=[code(r) for r in reasons])
    client.on_unsubscribe = lambda c, u, mid, reasons, p: say("unsubscribed", codes=[code(r) for r in reasons])
    client.on_message = lambda c, u, message: say(
        "message",
        topic=message.topic,
        payload=message.payload.decode("utf-8", "replace"),
        qos=message.qos,
        retain=bool(message.retain),
        properties=message.properties.json() if v5 else {},
    )
    return client, v5


def connect(client, v5, options):
    arguments = {}
    if v5:
        arguments["clean_start"] = options.get("clean", True)
        properties = Properties(PacketTypes.CONNECT)
        if "expiry" in options:
            properties.SessionExpiryInterval = options["expiry"]
        arguments["properties"] = properties
    client.connect(options["host"], options["port"], keepalive=options.get("keepalive", 60), **arguments)
    client.loop_start()


def main():
    client = v5 = None
    for line in sys.stdin:
        order = json.loads(line)
        do = order.pop("do")
        if do == "connect":
            client, v5 = make(order)
            connect(client, v5, order)
        elif do == "publish":
            client.publish(order["topic"], order.get("payload"), order.get("qos", 0), order.get("retain", False))
        elif do == "subscribe":
            client.subscribe([(topic, order.get("qos", 0)) for topic in order["topics"]])
        elif do == "unsubscribe":
            client.unsubscribe(order["topics"])
        elif do == "disconnect":
            client.disconnect()
        else:
            say("unknown", order=do)
    sys.stdout.flush()
    os._exit(0)


main()
