"""The other yardstick, as a process: what aiohttp alone takes to post an event. A loop each for so many connections.

It posts until it is ended, and writes a line with how many posts it has made whenever it reads one.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson

from tests.bench.helpers import line_of, loop_factory, running
from tests.bench.machine import MEASURED_CORE
from tests.system.processes import example_event

_HEADERS = {"x-growlytics-key": "some-key", "Content-Type": "application/json", "Accept": "application/json"}
_DIFFERENT_EVENTS = 2000


class _Client:
    def __init__(self) -> None:
        self.posted = 0
        self._bodies = [orjson.dumps(example_event(number)) for number in range(_DIFFERENT_EVENTS)]

    async def post(self, http: aiohttp.ClientSession, url: str) -> None:
        while True:
            body = self._bodies[self.posted % _DIFFERENT_EVENTS]
            self.posted += 1
            async with http.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
                await response.read()
                assert response.status == 200


async def _run(url: str, connections: int) -> None:
    client = _Client()
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    connector = aiohttp.TCPConnector(limit=connections)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as http,
        asyncio.TaskGroup() as posting,
    ):
        print("ready", flush=True)
        for _ in range(connections):
            posting.create_task(client.post(http, url))
        async for _ in commands:
            print(client.posted, flush=True)


@dataclass(frozen=True)
class BareClient:
    """The running process."""

    process: asyncio.subprocess.Process

    async def count(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(b"count\n")
        return int(await line_of(self.process))


@asynccontextmanager
async def running_bare_client(loop: str, url: str, *, connections: int) -> AsyncIterator[BareClient]:
    """Run it against a far side."""
    async with running("bare_client", loop, url, str(connections), core=MEASURED_CORE) as process:
        assert await line_of(process) == "ready"
        yield BareClient(process)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(_run(sys.argv[2], int(sys.argv[3])))
