"""Events without waiting for answers, from a process of its own: to a lines or a datagram socket, as fast as it takes them.

`lines` writes many at a time over one connection, as a log shipper does; `linewise` one at a time over each of many, as
the loggers of many processes do; `datagram` sends one in each datagram, and `paced` does so at a rate.
"""

import os
import socket
import sys
import time
from itertools import count

import orjson

from tests.system.processes import example_event

CONNECTIONS = 64
PER_SECOND = 25_000
_AT_ONCE = 25
_DIFFERENT_EVENTS = 2000


def main(way: str, path: str) -> None:
    """Send until killed, or until nobody reads any more."""
    events = [orjson.dumps(example_event(number)) for number in range(_DIFFERENT_EVENTS)]
    kind = socket.SOCK_DGRAM if way in ("datagram", "paced") else socket.SOCK_STREAM
    sockets = [socket.socket(socket.AF_UNIX, kind) for _ in range(CONNECTIONS if way == "linewise" else 1)]
    for one in sockets:
        one.connect(path)
    print(os.getpid(), flush=True)
    match way:
        case "lines":
            text = b"".join(event + b"\n" for event in events)
            while True:
                sockets[0].sendall(text)
        case "linewise":
            lines = [event + b"\n" for event in events]
            for number in count():
                sockets[number % CONNECTIONS].sendall(lines[number % _DIFFERENT_EVENTS])
        case _:
            started = time.perf_counter()
            for number in count():
                sockets[0].send(events[number % _DIFFERENT_EVENTS])
                if way == "paced" and number % _AT_ONCE == 0:
                    time.sleep(max(0.0, started + number / PER_SECOND - time.perf_counter()))


if __name__ == "__main__":
    main(*sys.argv[1:])
