"""The yardstick of accepting, as a process: it reads a request, parses its JSON, answers, and keeps nothing.

On aiohttp, as many a small server is; or on httptools with an answer written by hand, to show what aiohttp costs.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
from aiohttp import web

from tests.bench.far_side import ANSWER
from tests.bench.helpers import line_of, loop_factory, running
from tests.bench.machine import MEASURED_CORE

AIOHTTP, HTTPTOOLS = "aiohttp", "httptools"


async def _track(request: web.Request) -> web.Response:
    orjson.loads(await request.read())
    return web.Response(body=b'{"success":true}', content_type="application/json")


async def _serve_on_aiohttp() -> int:
    logging.getLogger("aiohttp.server").disabled = True  # the flood ends amid requests, after what is measured
    app = web.Application()
    app.router.add_post("/track/event", _track)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


class _Connection(asyncio.Protocol):
    """Parses with httptools, whose callbacks these are."""

    def __init__(self, parser: Callable[[object], Any]) -> None:
        self._parser = parser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        orjson.loads(b"".join(self._body))
        self._body.clear()
        self._transport.write(ANSWER)


async def _serve_on_httptools() -> int:
    from httptools import HttpRequestParser  # noqa: PLC0415 - only `make bench` installs it

    server = await asyncio.get_running_loop().create_server(lambda: _Connection(HttpRequestParser), "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


async def _serve(library: str) -> None:
    print(await (_serve_on_aiohttp() if library == AIOHTTP else _serve_on_httptools()), flush=True)
    await asyncio.Event().wait()


@asynccontextmanager
async def running_bare(loop: str, library: str = AIOHTTP) -> AsyncIterator[tuple[int, int]]:
    """Run it; yield its process id and its port."""
    async with running("bare", loop, library, core=MEASURED_CORE) as process:
        yield process.pid, int(await line_of(process))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner_of_loop:
        runner_of_loop.run(_serve(sys.argv[2]))
