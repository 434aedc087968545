"""The yardstick, as a process: what aiohttp alone takes to accept an event. It reads, parses, answers and keeps nothing."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from tests.bench.helpers import line_of, loop_factory, running
from tests.bench.machine import MEASURED_CORE


async def _track(request: web.Request) -> web.Response:
    orjson.loads(await request.read())
    return web.Response(body=b'{"success":true}', content_type="application/json")


async def _serve() -> None:
    app = web.Application()
    app.router.add_post("/track/event", _track)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@asynccontextmanager
async def running_bare(loop: str) -> AsyncIterator[tuple[int, int]]:
    """Run it; yield its process id and its port."""
    async with running("bare", loop, core=MEASURED_CORE) as process:
        yield process.pid, int(await line_of(process))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner_of_loop:
        runner_of_loop.run(_serve())
