"""A stand-in for your app: posts an event every second to the forwarder beside it, until SIGTERM.

FORWARDER is where to: http://127.0.0.1:8920, or unix:/run/growlytics-forwarder/intake.sock. What the forwarder could not
take is posted again for a while, with the same key. In your app, deploy/clients/growlytics_forwarder.py does that.
"""

import http.client
import json
import os
import signal
import socket
import threading
import time
import uuid

GIVE_UP_SECONDS = 10.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection_to(where: str) -> http.client.HTTPConnection:
    if where.startswith("unix:"):
        return UnixConnection(where.removeprefix("unix:"))
    return http.client.HTTPConnection(where.removeprefix("http://"), timeout=5)


def post(where: str, number: int, stop: threading.Event) -> None:
    """Post an event until the forwarder has it or refuses it for what it is, or it is time to give up."""
    event = {
        "name": "Add To Cart",
        "customerId": f"customer-{number % 10}",
        "time": int(time.time() * 1000),
        "attributes": {"Product Id": "abcdef", "Quantity": number % 5 + 1},
    }
    # The key makes it safe to post again: an event whose answer was lost does not count twice.
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
    deadline = time.monotonic() + GIVE_UP_SECONDS
    pause = 0.1
    while True:
        wait = attempt(where, json.dumps(event), headers)
        if wait is None:
            return
        wait = max(wait, pause)
        pause = min(2 * pause, 2.0)
        if time.monotonic() + wait >= deadline:
            print("gave up", flush=True)
            return
        if stop.wait(wait):
            return


def attempt(where: str, body: str, headers: dict[str, str]) -> float | None:
    """Post once. Return None if that is that, else for how many seconds to wait at least before the next attempt."""
    connection = connection_to(where)
    try:
        connection.request("POST", "/track/event", body, headers)
        answer = connection.getresponse()
        print(answer.status, answer.read().decode(), flush=True)
    except (OSError, http.client.HTTPException) as error:
        print(f"the forwarder does not answer: {error}", flush=True)
        return 0.0
    finally:
        connection.close()
    # 429: the buffer is full. 503: it is stopping, or its disk fails. Anything else does not change by itself.
    return float(answer.headers.get("Retry-After", "1")) if answer.status in (429, 503) else None


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    where = os.environ.get("FORWARDER", "http://127.0.0.1:8920")
    count = 0
    while not stop.is_set():
        post(where, count, stop)
        count += 1
        stop.wait(1)


if __name__ == "__main__":
    main()
