"""What every measured system has in common: it is started against a far side, on one core, with who feeds it connected."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.driver import Feed, driving
from tests.bench.events import EVENTS
from tests.bench.helpers import running_program, until_it_listens
from tests.bench.machine import MEASURED_CORE
from tests.bench.nginx import Nginx

RUN_SECONDS = 20.0
"""A run ends then even if not all events are delivered."""
_MEANT_SECONDS = 14.0


@dataclass(frozen=True)
class Conditions:
    """What the far side is like."""

    latency_ms: int = 0
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.latency_ms}ms/{'tls' if self.tls else 'plain'}"


@dataclass
class Running:
    """A system that is ready."""

    pid: int
    ready_seconds: float
    driver: asyncio.subprocess.Process
    """It speaks as `driver.py` does. It may be the system itself."""
    accepted: Callable[[int], Awaitable[int]] | None = None
    """Of so many events that were sent: how many it took; None where all that were sent are meant."""
    events_per_request: int = 1


@dataclass(frozen=True)
class System:
    """One kind of system and setting, to be started any number of times."""

    name: str
    start: Callable[[Nginx, int, Path], AbstractAsyncContextManager[Running]]
    """With the far side, the most events that will be sent, and a directory of its own."""
    concurrency: int
    """At most so many requests on the wire."""
    per_second: int = 1_000_000
    """About the most that it delivers without latency, where that limits the events of a run."""

    def most_events(self, latency_ms: int) -> int:
        """Return how many events a run can do in its time; the documented number if more."""
        rate = min(self.per_second, self.concurrency / (latency_ms / 1000) if latency_ms else self.per_second)
        return min(EVENTS, int(rate * _MEANT_SECONDS))


@asynccontextmanager
async def running_collector(
    name: str, config: str, directory: Path, feed: Feed, *command: str
) -> AsyncIterator[Running]:
    """Run a program of others that takes events as lines over TCP; its configuration goes to a file of that name."""
    (directory / name).write_text(config, encoding="utf-8")
    started = time.perf_counter()
    async with running_program(*command, core=MEASURED_CORE) as process:
        await until_it_listens(process, int(feed.address.rpartition(":")[2]))
        ready_seconds = time.perf_counter() - started
        async with driving(feed) as driver:
            yield Running(process.pid, ready_seconds, driver)
