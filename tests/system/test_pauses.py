"""The daemon's process stands still while posts are on the wire: answers that came meanwhile are used, on both loops."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.system.processes import Daemon, example_event, running_daemon, until

TIMEOUT_SECONDS = 1.0
POSTS = 50
ANSWER_SECONDS = 0.05
"""What of it is chance is little, so the daemon soon has many on the wire."""


@dataclass
class HesitantFarSide:
    """Answers soon, or, when it is told to wait, not before it is told to go on."""

    url: str = ""
    came: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.came[json.loads(await request.read())["attributes"]["Product Id"]] += 1
        self.waiting += 1
        await asyncio.sleep(ANSWER_SECONDS)
        await self.may_answer.wait()
        self.waiting -= 1
        return web.json_response({"success": True})


@asynccontextmanager
async def hesitant_far_side() -> AsyncIterator[HesitantFarSide]:
    far = HesitantFarSide()
    app = web.Application()
    app.router.add_post("/track/event", far.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        far.url = f"http://127.0.0.1:{runner.addresses[0][1]}/track/event"
        far.may_answer.set()
        yield far
    finally:
        far.may_answer.set()
        await runner.cleanup()


async def post(daemon: Daemon, numbers: range) -> None:
    events = [example_event(number) | {"customerId": f"c-{number}"} for number in numbers]
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        assert response.status == 202


@pytest.mark.parametrize(
    ("loop", "on_ambiguous"), [("asyncio", "retry"), ("uvloop", "retry"), ("uvloop", "dead_letter")]
)
async def test_fifty_posts_that_are_answered_while_the_process_is_stopped_beyond_the_timeout_are_fifty_posts(
    tmp_path: Path, loop: str, on_ambiguous: str
) -> None:
    settings = {"loop": loop, "growlytics__timeout_seconds": TIMEOUT_SECONDS, "delivery__on_ambiguous": on_ambiguous}
    async with hesitant_far_side() as far, running_daemon(tmp_path, far.url, **settings) as daemon:
        events = 0
        while (await daemon.metrics())["growlytics_forwarder_delivery_concurrency_limit"] < POSTS:
            await post(daemon, range(events, events + 500))
            await until(daemon.drained, "some events are delivered")
            events += 500
        far.may_answer.clear()
        await post(daemon, range(events, events + POSTS))
        began = time.monotonic()
        await until(lambda: far.waiting == POSTS, "all are on the wire", seconds=5)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            far.may_answer.set()
            await until(lambda: not far.waiting, "all are answered")
            await until(lambda: time.monotonic() > began + 1.5 * TIMEOUT_SECONDS, "the timeouts have passed")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        await until(daemon.drained, "all are delivered")
        assert set(far.came.values()) == {1}
        ledger, metrics = await daemon.ledger(), await daemon.metrics()
        assert ledger["delivered"] == events + POSTS
        assert set(ledger["dead_lettered"].values()) == {0}
        assert metrics["growlytics_forwarder_possible_duplicates_total"] == 0
