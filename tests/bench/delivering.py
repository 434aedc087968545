"""What it costs to deliver an event, against the bare clients that post the same events to the same far side.

Each time as new processes: the measured one on one core, the far side on the other. The daemon's buffer is filled while the
far side refuses connections, so nothing is accepted while it delivers.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from tests.bench.bare import AIOHTTP, HTTPTOOLS
from tests.bench.bare_client import running_bare_client
from tests.bench.comparisons import PAIRS, Figure, Goal, against, alternate
from tests.bench.events import CUSTOMERS
from tests.bench.filling import fill
from tests.bench.machine import cpu_seconds
from tests.bench.nginx import free_port, running_nginx
from tests.bench.ours import running_ours

CONNECTIONS = 64
EVENTS = 20_000
WARM_UP_EVENTS = 3_000
BARE = {AIOHTTP: "bare aiohttp client", HTTPTOOLS: "bare httptools client"}
_GOALS = {BARE[AIOHTTP]: Goal(0.4, 0.6)}
_SECONDS = 60.0


class Counting(Protocol):
    """A far side."""

    async def count(self) -> int:
        """Return how many requests came, or were answered."""


Opening = Callable[[int], AbstractAsyncContextManager[Counting]]
"""Has a far side listen on this port of 127.0.0.1."""


async def measure(
    loop: str,
    *,
    libraries: Sequence[str] = (AIOHTTP, HTTPTOOLS),
    pairs: int = PAIRS,
    opening: Opening | None = None,
    events: int = EVENTS,
) -> list[Figure]:
    """Return CPU microseconds for each delivered event."""
    opening = opening or open_nginx
    measures = {BARE[library]: partial(_post_bare, loop, library, opening, events) for library in libraries}
    measures |= {"ours": partial(drain_ours, loop, opening=opening, events=events)}
    found = await alternate(f"delivering, {loop}", measures, pairs=pairs)
    return against(f"delivering, disk, {loop}", "CPU µs an event", found, "ours", goals=_GOALS)


@asynccontextmanager
async def open_nginx(port: int) -> AsyncIterator[Counting]:
    async with running_nginx(port=port) as far:
        yield far


async def _post_bare(loop: str, library: str, opening: Opening, events: int) -> float:
    port = free_port()
    async with (
        opening(port) as far,
        running_bare_client(loop, _url(port), library, connections=CONNECTIONS) as pid,
    ):
        return await _cost(pid, far, events)


async def drain_ours(
    loop: str,
    *,
    opening: Opening = open_nginx,
    events: int = EVENTS,
    customers: int = CUSTOMERS,
    attributes: int = 7,
) -> float:
    """Return what delivering one of so many events costs, after a few others."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with running_ours(Path(name), _url(port), loop=loop, delivery__max_concurrency=CONNECTIONS) as (
            daemon,
            _,
        ):
            await fill(daemon, events + 2 * WARM_UP_EVENTS, customers=customers, attributes=attributes)
            async with opening(port) as far:
                cost = await _cost(daemon.process.pid, far, events)
                assert not await daemon.drained(), "it had nothing to do for a while"
                return cost


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/track/event"


async def _cost(pid: int, far: Counting, events: int) -> float:
    """Return what one event takes, in microseconds of CPU time."""
    begin = await reach(far, WARM_UP_EVENTS)
    cpu = cpu_seconds(pid)
    end = await reach(far, begin + events)
    return (cpu_seconds(pid) - cpu) / (end - begin) * 1e6


async def reach(far: Counting, events: int) -> int:
    deadline = time.monotonic() + _SECONDS
    while (count := await far.count()) < events:
        assert time.monotonic() < deadline, f"{count} of {events} events were posted in {_SECONDS} s"
        await asyncio.sleep(0.01)
    return count
