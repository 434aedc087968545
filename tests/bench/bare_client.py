"""The yardstick of delivering, as a process: it posts events, so many at once, reads the answers, and knows nothing else.

On aiohttp, which is what the daemon has below it, in a loop for each connection; or on httptools with requests written by
hand, to show what aiohttp costs. It posts until it is ended.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from tests.bench.bare import AIOHTTP
from tests.bench.events import CUSTOMERS, event
from tests.bench.helpers import line_of, loop_factory, running
from tests.bench.machine import MEASURED_CORE

_HEADERS = {"x-growlytics-key": "some-key", "Content-Type": "application/json", "Accept": "application/json"}


async def _post_with_aiohttp(url: str, connections: int, bodies: list[bytes]) -> None:
    async def post() -> None:
        while True:
            for body in bodies:
                async with http.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
                    await response.read()
                    assert response.status == 200

    connector = aiohttp.TCPConnector(limit=connections)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as http,
        asyncio.TaskGroup() as posting,
    ):
        print("ready", flush=True)
        for _ in range(connections):
            posting.create_task(post())


class _Connection(asyncio.Protocol):
    """Parses with httptools, whose callbacks these are."""

    def __init__(self, parser: Callable[[object], Any], requests: list[bytes]) -> None:
        self._parser = parser(self)
        self._requests, self._number = requests, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._post()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200
        self._post()

    def _post(self) -> None:
        self._transport.write(self._requests[self._number % CUSTOMERS])
        self._number += 1


async def _post_with_httptools(url: str, connections: int, bodies: list[bytes]) -> None:
    from httptools import HttpResponseParser  # noqa: PLC0415 - only `make bench` installs it

    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    headers = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
    head = f"POST /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: "
    requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(HttpResponseParser, requests), host, int(port))
    await asyncio.Event().wait()


@asynccontextmanager
async def running_bare_client(loop: str, url: str, library: str = AIOHTTP, *, connections: int) -> AsyncIterator[int]:
    """Run it against a far side; yield its process id."""
    async with running("bare_client", loop, library, url, str(connections), core=MEASURED_CORE) as process:
        assert await line_of(process) == "ready"
        yield process.pid


if __name__ == "__main__":
    post_with = _post_with_aiohttp if sys.argv[2] == AIOHTTP else _post_with_httptools
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(post_with(sys.argv[3], int(sys.argv[4]), [event(number) for number in range(CUSTOMERS)]))
