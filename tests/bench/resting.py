"""The daemon that does nothing: how soon it is ready, and its memory when idle and with 100,000 events buffered."""

import tempfile
from pathlib import Path

from tests.bench.comparisons import Figure, Goal
from tests.bench.events import EVENTS
from tests.bench.filling import fill
from tests.bench.machine import memory_bytes
from tests.bench.ours import running_ours
from tests.bench.rows import progress

STARTS = 7
FILLS = 3
_NOBODY = "http://127.0.0.1:9/track/event"


async def measure() -> list[Figure]:
    ready: list[float] = []
    idle: list[float] = []
    full: list[float] = []
    for number in range(STARTS):
        with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
            async with running_ours(Path(name), _NOBODY, loop="uvloop") as (daemon, seconds):
                ready.append(seconds)
                idle.append(memory_bytes(daemon.process.pid) / 1e6)
                if number < FILLS:
                    await fill(daemon, EVENTS)
                    full.append(memory_bytes(daemon.process.pid) / 1e6)
        progress(f"ready in {ready[-1]:.2f} s; {idle[-1]:.1f} MB idle, {full[-1]:.1f} MB full")
    return [
        Figure("resident memory idle, uvloop", "MB", idle, goal=Goal(40, 47)),
        Figure(f"resident memory with {EVENTS:,} events buffered, disk, uvloop", "MB", full, goal=Goal(80)),
        Figure("start to ready, uvloop", "s", ready, goal=Goal(0.6)),
    ]
