"""How long the way of one event is: calls of our functions and changes of module for a plain post that is alone.

They are counted in the running daemon, in all threads. What the daemon does when idle is taken off, and so is what it costs
to ask the ledger whether an event is delivered and its ack committed, which is asked again and again. These are counts, so
a busy machine changes them little.
"""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.comparisons import Figure, Goal
from tests.system.processes import Daemon, example_event, running_sandbox, starting_daemon, until

POSTS = 20
IDLE_SECONDS = 5.0
_ASKING = 20
_ASK_EVERY_SECONDS = 0.05
_WARM_UP_POSTS = 10


@dataclass(frozen=True)
class Way:
    """What one plain post takes, alone, from the socket to the committed ack."""

    calls: float
    changes: float
    modules: int
    idle_calls_per_second: float


@dataclass(frozen=True)
class _Counts:
    calls: float
    changes: float
    modules: int
    seconds: float

    def less(self, other: "_Counts", times: float) -> "_Counts":
        return _Counts(
            self.calls - times * other.calls, self.changes - times * other.changes, self.modules, self.seconds
        )


async def count_way(directory: Path, **settings: object) -> Way:
    """Start a daemon with a sandbox as its far side, and count."""
    file = directory / "calls.json"
    command = [sys.executable, "-P", str(Path(__file__).with_name("counted.py")), str(file)]
    async with running_sandbox() as sandbox, starting_daemon(directory, sandbox.url, command, **settings) as daemon:
        assert await daemon.until_ready(), daemon.lines
        await _posts(daemon, _WARM_UP_POSTS)
        idle = await _counted(daemon, file, lambda: asyncio.sleep(IDLE_SECONDS, 0))
        asking = await _counted(daemon, file, lambda: _ask(daemon))
        asking = asking.less(idle, asking.seconds / idle.seconds)
        asked = 0

        async def post() -> int:
            nonlocal asked
            asked = await _posts(daemon, POSTS)
            return asked

        posting = await _counted(daemon, file, post)
        posting = posting.less(idle, posting.seconds / idle.seconds).less(asking, asked / _ASKING)
    return Way(posting.calls / POSTS, posting.changes / POSTS, posting.modules, idle.calls / idle.seconds)


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        way = await count_way(Path(name), loop="uvloop")
    return [
        Figure("our functions called, one plain post alone, disk", "calls", [round(way.calls)], goal=Goal(100, 160)),
        Figure("changes of module, one plain post alone, disk", "changes", [round(way.changes)], goal=Goal(50, 90)),
        Figure("our functions called when idle", "calls a second", [way.idle_calls_per_second]),
    ]


async def _counted(daemon: Daemon, file: Path, work: Callable[[], Awaitable[int]]) -> _Counts:
    begun = file.with_suffix(".counting")
    daemon.process.send_signal(signal.SIGUSR2)
    await until(begun.exists, "the daemon counts")
    started = time.monotonic()
    await work()
    seconds = time.monotonic() - started
    daemon.process.send_signal(signal.SIGUSR2)
    await until(file.exists, "the counts are written")
    _forget(begun)
    return _Counts(**_taken(file), seconds=seconds)


def _forget(file: Path) -> None:
    file.unlink()


def _taken(file: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return found


async def _ask(daemon: Daemon) -> int:
    for _ in range(_ASKING):
        await asyncio.sleep(_ASK_EVERY_SECONDS)
        assert await daemon.drained()
    return _ASKING


async def _posts(daemon: Daemon, posts: int) -> int:
    """Post so many, each when the one before has left the buffer; return how often the ledger was asked for that."""
    asked = 0
    for number in range(posts):
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
            assert response.status == 200, await response.text()
        deadline = time.monotonic() + 30
        while True:
            await asyncio.sleep(_ASK_EVERY_SECONDS)
            asked += 1
            if await daemon.drained():
                break
            assert time.monotonic() < deadline, "an event alone is not delivered within 30 s"
    return asked
