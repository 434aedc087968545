"""A far side that answers each event as a test wants, by how often it has come; a real server in the test's own process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Script = Callable[[int, int], int | None]
"""From an event's number and how often it has come now, from 1, to the status of the answer; None: no answer at all."""


@dataclass
class FarSide:
    """What came, in the order of its coming: numbers of events, which are their times less 1,700,000,000,000."""

    script: Script
    retry_after: str | None = None
    """The header that answers have that are not 200."""
    url: str = ""
    came: list[int] = field(default_factory=list)
    times: Counter[int] = field(default_factory=Counter)
    stored: list[int] = field(default_factory=list)
    """Those that were answered 200."""
    stored_at: dict[int, float] = field(default_factory=dict)
    """When each was first, by the clock of the test's event loop."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        event = await request.json()
        number = event["time"] - 1700000000000
        self.came.append(number)
        self.times[number] += 1
        status = self.script(number, self.times[number])
        if status is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if status == 200:
            self.stored.append(number)
            self.stored_at.setdefault(number, asyncio.get_running_loop().time())
        headers = {"Retry-After": self.retry_after} if self.retry_after is not None and status != 200 else None
        return web.json_response({"success": status == 200}, status=status, headers=headers)


@asynccontextmanager
async def running_far_side(script: Script, *, retry_after: str | None = None) -> AsyncIterator[FarSide]:
    """Serve while the block runs."""
    far = FarSide(script, retry_after)
    app = web.Application()
    app.router.add_post("/track/event", far.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        far.url = f"http://127.0.0.1:{runner.addresses[0][1]}/track/event"
        yield far
    finally:
        await runner.cleanup()
