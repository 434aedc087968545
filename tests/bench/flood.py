"""A flood, from a process of its own: one event per POST on kept-alive connections, the next once the last is answered.

The process reads the CPU time of the server itself, when the flood has warmed it up and at the end, so that it is that of
exactly the events in between.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

from tests.bench.events import CUSTOMERS, event
from tests.bench.helpers import fast_loop, line_of, running
from tests.bench.machine import OTHER_CORE, cpu_seconds

WARM_UP_SECONDS = 0.7
SECONDS = 2.0


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


class _Flood:
    def __init__(self, attributes: int) -> None:
        self.requests = [_request(event(number, attributes=attributes)) for number in range(CUSTOMERS)]
        self.answered = 0
        self.refused: bytes | None = None

    def next_request(self) -> bytes:
        return self.requests[self.answered % CUSTOMERS]


class _Connection(asyncio.Protocol):
    def __init__(self, flood: _Flood) -> None:
        self._flood = flood
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._transport.write(self._flood.next_request())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not data.endswith(b"}"):  # of the answer's JSON, which has no other
            return
        if not self._received.startswith(b"HTTP/1.1 200 "):
            self._flood.refused = self._received
        self._received = b""
        self._flood.answered += 1
        self._transport.write(self._flood.next_request())


def _request(body: bytes) -> bytes:
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"POST /track/event HTTP/1.1\r\n" + head.encode() + body


async def _run(port: int, pid: int, connections: int, attributes: int) -> Flooded:
    flood = _Flood(attributes)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(flood), "127.0.0.1", port)
    await asyncio.sleep(WARM_UP_SECONDS)
    cpu, events, started = cpu_seconds(pid), flood.answered, time.perf_counter()
    await asyncio.sleep(SECONDS)
    flooded = Flooded(flood.answered - events, cpu_seconds(pid) - cpu, time.perf_counter() - started)
    assert flood.refused is None, flood.refused
    assert flooded.events, "nothing was answered"
    return flooded


async def flood(port: int, pid: int, *, connections: int = 64, attributes: int = 7) -> Flooded:
    """Flood the server with this port and process id."""
    async with running("flood", str(port), str(pid), str(connections), str(attributes), core=OTHER_CORE) as process:
        return Flooded(**json.loads(await line_of(process)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        print(json.dumps(asdict(runner.run(_run(*map(int, sys.argv[1:]))))))
