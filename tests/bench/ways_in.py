"""What it costs to accept an event over the lines and the datagram socket, against one event in each HTTP post.

All are measured in turn, again and again, each time as a new daemon on one core, with a buffer on disk, while who sends has
the other core; each figure is compared with the posts' of the same round. The far side withholds its answers, so nothing is
delivered meanwhile.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.far_side import running_far_side
from tests.bench.flood import SECONDS, WARM_UP_SECONDS, Flooded, flood
from tests.bench.helpers import line_of, running
from tests.bench.machine import MEASURED_CORE, OTHER_CORE, cpu_seconds, pin
from tests.bench.rows import LOOPS, Rows, progress, spread
from tests.bench.shower import PER_SECOND
from tests.system.processes import Daemon, running_daemon

ROUNDS = 5
POSTS = "one event in each HTTP post"
WAYS = {
    "lines": "lines socket, many lines at a time",
    "linewise": "lines socket, 64 connections, one line at a time",
    "datagram": "datagram socket, more than it can take",
    "paced": f"datagram socket, {PER_SECOND:,} a second",
}
GOAL = "≥ 5, at least 3"
_ROOM = {"buffer__max_events": 10_000_000, "buffer__max_bytes": 1 << 33, "growlytics__timeout_seconds": 600}


@dataclass(frozen=True)
class Showered(Flooded):
    """What it came to where nothing is answered; the CPU time is that of refusing, too."""

    refused_share: float = 0.0


async def measure() -> Rows:
    rows = Rows()
    for loop in LOOPS:
        rounds = [await _round(loop, backwards=number % 2 == 1) for number in range(ROUNDS)]
        for name, title in ((POSTS, POSTS), *WAYS.items()):
            found = [one[name] for one in rounds]
            rates = [one.events / one.cpu_seconds for one in found]
            rows.put(loop, f"events accepted per CPU second, {title}", spread(rates, 0))
            if name != POSTS:
                times = [
                    rate * one[POSTS].cpu_seconds / one[POSTS].events for rate, one in zip(rates, rounds, strict=True)
                ]
                rows.put(loop, "times as many as posts, " + title, spread(times, 1), goal=GOAL)
            if any(shares := [one.refused_share * 100 for one in found if isinstance(one, Showered)]):
                rows.put(loop, f"refused of what was sent, {title}, %", spread(shares, 0))
    return rows


async def _round(loop: str, *, backwards: bool) -> dict[str, Flooded]:
    """Measure each once; backwards every other time, so that nothing that drifts favours one of them."""
    names = [POSTS, *WAYS]
    found = {name: await _measured(loop, name) for name in (reversed(names) if backwards else names)}
    progress(f"{loop}: " + "; ".join(f"{name} {one.cpu_microseconds_per_event:.1f} µs" for name, one in found.items()))
    return found


async def _measured(loop: str, way: str) -> Flooded:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sockets = {"intake__lines_socket": directory / "lines", "intake__datagram_socket": directory / "datagram"}
        async with running_far_side() as far:
            await far.withhold()
            async with running_daemon(directory, far.url, loop=loop, **_ROOM, **sockets) as daemon:
                pin(daemon.process.pid, MEASURED_CORE)
                if way == POSTS:
                    return await flood(int(daemon.base.rpartition(":")[2]), daemon.process.pid)
                path = sockets["intake__lines_socket" if way.startswith("line") else "intake__datagram_socket"]
                async with running("shower", way, str(path), core=OTHER_CORE) as shower:
                    await line_of(shower)
                    return await _accepted_in_a_while(daemon)


async def _accepted_in_a_while(daemon: Daemon) -> Showered:
    """Ask the daemon how many events it accepted, as nothing is answered; asking costs it a thousandth of the time."""
    await asyncio.sleep(WARM_UP_SECONDS)
    before, cpu, started = await _accepted(daemon), cpu_seconds(daemon.process.pid), time.perf_counter()
    await asyncio.sleep(SECONDS)
    after, used = await _accepted(daemon), cpu_seconds(daemon.process.pid) - cpu
    seconds = time.perf_counter() - started
    accepted, refused = (after[name] - before[name] for name in ("accepted", "rejected"))
    return Showered(accepted, used, seconds, refused / (accepted + refused))


async def _accepted(daemon: Daemon) -> dict[str, int]:
    ledger: dict[str, int] = await daemon.ledger()
    return ledger
