"""What the benchmark's flood sends: whole requests, in as many segments as it says."""

import asyncio
from typing import cast

import pytest

from tests.bench.flood import Flood, Traffic
from tests.system.processes import until

HEAD_END = b"\r\n\r\n"
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers requests, and counts them and the segments in which they came."""

    def __init__(self) -> None:
        self.segments = self.requests = 0
        self.bodies: list[bytes] = []


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._server.segments += 1
        self._received += data
        head, blank, body = self._received.partition(HEAD_END)
        if blank and len(body) == int(head.rpartition(b": ")[2]):
            self._received = b""
            self._server.requests += 1
            self._server.bodies.append(body)
            self._transport.write(ANSWER)


@pytest.mark.parametrize("requests", [1, 8, 64])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("events", [1, 100])
async def test_a_request_comes_in_as_many_segments_as_the_flood_says(requests: int, segments: int, events: int) -> None:
    server = Server()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0)
    flood = Flood(Traffic(requests=requests, segments=segments, events=events))
    async with listening:
        await flood.connect(listening.sockets[0].getsockname()[1])
        await until(lambda: server.requests >= 1000, "a thousand requests have come")
        flood.close()
    assert flood.refused is None
    heads_alone = requests * (segments - 1)
    assert server.segments >= 0.95 * segments * server.requests, "few were put together on their way"
    assert server.segments <= segments * server.requests + heads_alone
    assert server.requests - requests <= flood.answered <= server.requests
    assert {body.count(b'"customerId"') for body in server.bodies} == {events}
