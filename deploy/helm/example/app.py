"""A stand-in for your app: posts an event every second to the forwarder beside it, until SIGTERM.

FORWARDER is where to: http://127.0.0.1:8920, or unix:/run/growlytics-forwarder/intake.sock.
"""

import http.client
import json
import os
import signal
import socket
import threading
import time


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def post(where: str, number: int) -> None:
    event = {
        "name": "Add To Cart",
        "customerId": f"customer-{number % 10}",
        "time": int(time.time() * 1000),
        "attributes": {"Product Id": "abcdef", "Quantity": number % 5 + 1},
    }
    connection: http.client.HTTPConnection
    if where.startswith("unix:"):
        connection = UnixConnection(where.removeprefix("unix:"))
    else:
        connection = http.client.HTTPConnection(where.removeprefix("http://"), timeout=5)
    try:
        # The key makes it safe to post again after an answer that was lost.
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{os.getpid()}-{event['time']}-{number}"}
        connection.request("POST", "/track/event", json.dumps(event), headers)
        answer = connection.getresponse()
        print(answer.status, answer.read().decode(), flush=True)
    except OSError as error:
        print(f"the forwarder does not answer: {error}", flush=True)
    finally:
        connection.close()


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    where = os.environ.get("FORWARDER", "http://127.0.0.1:8920")
    count = 0
    while not stop.is_set():
        post(where, count)
        count += 1
        stop.wait(1)


if __name__ == "__main__":
    main()
