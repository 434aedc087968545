"""A flood, from a process of its own: posts on kept-alive connections, the next one once the last is answered.

The process reads the CPU time of the server itself, when the flood has warmed it up and at the end, so that it is that of
exactly the events in between.
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import cast

from tests.bench.events import CUSTOMERS, event
from tests.bench.helpers import fast_loop, line_of, running
from tests.bench.machine import OTHER_CORE, cpu_seconds

WARM_UP_SECONDS = 0.7
SECONDS = 2.0


@dataclass(frozen=True)
class Traffic:
    """What a flood sends."""

    requests: int = 64
    """Sent whole and not answered, at a time."""
    attributes: int = 7
    events: int = 1
    """In each request: more than one are a batch."""
    segments: int = 1
    """In which a request is sent: with two, the server has read its head before its body is sent."""


ONE_EVENT_POSTS = Traffic()


@dataclass(frozen=True)
class Flooded:
    """What a flood came to."""

    events: int
    cpu_seconds: float
    """Of the server."""
    seconds: float

    @property
    def cpu_microseconds_per_event(self) -> float:
        return self.cpu_seconds / self.events * 1e6


@dataclass
class Flood:
    """The connections of a flood, which begins with `connect`, and what they came to so far.

    In two segments there are twice as many connections: half of them have sent a head, and wait. Each answer lets one send
    its body: the one whose head was sent longest ago, so before a whole request that has been answered since.
    """

    traffic: Traffic
    answered: int = 0
    refused: bytes | None = None
    _requests: list[tuple[bytes, bytes]] = field(init=False)
    _connections: "list[_Connection]" = field(default_factory=list)
    _headed: "deque[_Connection]" = field(default_factory=deque)

    def __post_init__(self) -> None:
        firsts = range(0, CUSTOMERS, self.traffic.events)
        self._requests = [_request(self.traffic, first) for first in firsts]

    async def connect(self, port: int) -> None:
        """Connect to this port of 127.0.0.1, and begin."""
        loop = asyncio.get_running_loop()
        for _ in range(self.traffic.requests * self.traffic.segments):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            self._connections.append(connection)

    def close(self) -> None:
        """End all connections, whatever they are waiting for."""
        for connection in self._connections:
            connection.transport.abort()

    def post(self, connection: "_Connection") -> None:
        """Send the next request on a connection that waits for no answer."""
        head, connection.body = self._requests[self.answered % len(self._requests)]
        connection.transport.write(head)
        if self.traffic.segments > 1:
            self._headed.append(connection)
            if len(self._headed) > self.traffic.requests:
                first = self._headed.popleft()
                first.transport.write(first.body)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport
    body: bytes

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._flood.post(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not data.endswith(b"}"):  # of the answer's JSON, which has no other
            return
        if not self._received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 202 ")):
            self._flood.refused = self._received
        self._received = b""
        self._flood.answered += 1
        self._flood.post(self)


def _request(traffic: Traffic, first: int) -> tuple[bytes, bytes]:
    """Return what is sent at once, and what follows it."""
    path, body = "/track/event", event(first, attributes=traffic.attributes)
    if traffic.events > 1:
        numbers = range(first, first + traffic.events)
        path = "/v1/events"
        body = b"[%b]" % b",".join(event(number, attributes=traffic.attributes) for number in numbers)
    fields = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    head = f"POST {path} HTTP/1.1\r\n{fields}".encode()
    return (head, body) if traffic.segments > 1 else (head + body, b"")


async def _run(port: int, pid: int, traffic: Traffic) -> Flooded:
    flood = Flood(traffic)
    await flood.connect(port)
    await asyncio.sleep(WARM_UP_SECONDS)
    cpu, answered, started = cpu_seconds(pid), flood.answered, time.perf_counter()
    await asyncio.sleep(SECONDS)
    events = (flood.answered - answered) * traffic.events
    flooded = Flooded(events, cpu_seconds(pid) - cpu, time.perf_counter() - started)
    assert flood.refused is None, flood.refused
    assert flooded.events, "nothing was answered"
    return flooded


async def flood(port: int, pid: int, traffic: Traffic = ONE_EVENT_POSTS) -> Flooded:
    """Flood the server with this port and process id."""
    async with running("flood", str(port), str(pid), json.dumps(asdict(traffic)), core=OTHER_CORE) as process:
        return Flooded(**json.loads(await line_of(process)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        found = runner.run(_run(int(sys.argv[1]), int(sys.argv[2]), Traffic(**json.loads(sys.argv[3]))))
        print(json.dumps(asdict(found)))
