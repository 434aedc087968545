"""Ours as a measured system: each kind of buffer, way in and event loop."""

import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.driver import Feed, driving
from tests.bench.machine import MEASURED_CORE, on_core
from tests.bench.nginx import Nginx
from tests.bench.systems import Running, System
from tests.system.processes import COMMAND, Daemon, starting_daemon, until

KINDS: dict[str, dict[str, object]] = {
    "memory": {"buffer__kind": "memory"},
    "disk": {},
    "fsync": {"buffer__fsync": "true"},
}
WAYS = {"http": 64, "batches": 8, "lines": 1, "datagram": 1}
"""Each with its number of connections."""
DATAGRAMS_PER_SECOND = 5_000
"""What is faster than it delivers is refused in the end, as nobody waits."""
ROOM: dict[str, object] = {
    "buffer__max_events": 10_000_000,
    "buffer__max_bytes": 1 << 33,
    "intake__max_body_bytes": 1 << 22,
    "shutdown__drain_seconds": 0,
    "delivery__probe_max_seconds": 1,
}
BEST_CONCURRENCY = 768
"""What delivered most of 512, 768 and 1,024 at 50 ms; it takes a whole core then."""


def ours(kind: str, way: str, loop: str, *, concurrency: int = 64) -> System:
    """Name one; 64 is the default number of attempts on the wire, and `BEST_CONCURRENCY` the best one at 50 ms."""
    best = "/best" if concurrency == BEST_CONCURRENCY else ""

    @asynccontextmanager
    async def start(far: Nginx, most_events: int, directory: Path) -> AsyncIterator[Running]:
        settings = KINDS[kind] | {"loop": loop, "delivery__max_concurrency": concurrency}
        if way in ("lines", "datagram"):
            settings[f"intake__{way}_socket"] = directory / way
        async with running_ours(directory, far, **settings) as (daemon, ready_seconds):
            rate = DATAGRAMS_PER_SECOND if way == "datagram" else 0
            feed = Feed(way, _address(daemon, directory, way), most_events, connections=WAYS[way], per_second=rate)

            async def accepted(sent: int) -> int:
                """Return what the ledger says, once all that was sent is in it."""

                async def all_came() -> bool:
                    return int((await daemon.ledger())["received"]) >= sent

                await until(all_came, "the daemon has read what was sent", seconds=10)
                return int((await daemon.ledger())["accepted"])

            async with driving(feed) as driver:
                yield Running(daemon.process.pid, ready_seconds, driver, accepted)

    return System(f"ours/{kind}/{way}/{loop}{best}", start, concurrency)


def _address(daemon: Daemon, directory: Path, way: str) -> str:
    return daemon.base.removeprefix("http://") if way in ("http", "batches") else str(directory / way)


@asynccontextmanager
async def running_ours(
    directory: Path, far: Nginx | str, command: Sequence[str] = COMMAND, /, **settings: object
) -> AsyncIterator[tuple[Daemon, float]]:
    """Run the daemon, or that of another `command`, on the measured core; yield it with the seconds to `/readyz`."""
    url = far if isinstance(far, str) else far.url
    if isinstance(far, Nginx) and far.authority is not None:
        settings["growlytics__ca_file"] = far.authority
    started = time.perf_counter()
    pinned = [*on_core(MEASURED_CORE), *command]
    async with starting_daemon(directory, url, pinned, **(ROOM | settings)) as daemon:
        assert await daemon.until_ready(), daemon.lines
        async with daemon.http.get(f"{daemon.admin}/readyz") as response:
            assert response.status == 200
        yield daemon, time.perf_counter() - started


async def warm_up() -> None:
    """Start it once, so that what Python compiles is there, as it is for a user from the second start on."""
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with running_ours(Path(name), "http://127.0.0.1:9/track/event"):
            pass
