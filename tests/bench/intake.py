"""What it costs to accept an event, by kind of buffer, against a bare aiohttp handler under the same flood.

All are measured in turn, again and again, each time as new processes on one core, with the flood on the other; each figure
is compared with the bare handler's of the same round. The far side withholds its answers, so nothing is delivered meanwhile.
"""

import tempfile
from pathlib import Path

from tests.bench.bare import running_bare
from tests.bench.far_side import running_far_side
from tests.bench.flood import Flooded, flood
from tests.bench.machine import MEASURED_CORE, pin
from tests.bench.rows import LOOPS, Rows, progress, spread
from tests.system.processes import running_daemon

ROUNDS = 5
KINDS: dict[str, dict[str, object]] = {
    "disk": {},
    "memory": {"buffer__kind": "memory"},
    "disk, fsync": {"buffer__fsync": "true"},
}
GOALS = {"disk": "≤ 2.0"}
_ROOM = {"buffer__max_events": 10_000_000, "buffer__max_bytes": 1 << 33, "growlytics__timeout_seconds": 600}


BARE = "bare aiohttp"


async def measure() -> Rows:
    rows = Rows()
    for loop in LOOPS:
        rounds = [await _round(loop, backwards=number % 2 == 1) for number in range(ROUNDS)]
        for name in (BARE, *KINDS):
            costs = [one[name].cpu_microseconds_per_event for one in rounds]
            rows.put(loop, f"accepting one event, {name}, CPU, µs", spread(costs, 0))
            if name == BARE:
                continue
            ratios = [cost / one[BARE].cpu_microseconds_per_event for cost, one in zip(costs, rounds, strict=True)]
            rows.put(loop, f"the same against {BARE}, {name}", spread(ratios), goal=GOALS.get(name, ""))
            rates = [one[name].events / one[name].seconds for one in rounds]
            rows.put(loop, f"accepted events/s on one core, {name}", spread(rates, 0))
    return rows


async def _round(loop: str, *, backwards: bool) -> dict[str, Flooded]:
    """Flood each once; backwards every other time, so that nothing that drifts favours one of them."""
    names = [BARE, *KINDS]
    found: dict[str, Flooded] = {}
    for name in reversed(names) if backwards else names:
        found[name] = await (_flooded_bare(loop) if name == BARE else _flooded_daemon(loop, KINDS[name]))
    costs = (f"{name} {one.cpu_microseconds_per_event:.0f} µs" for name, one in found.items())
    progress(f"{loop}: {'; '.join(costs)}")
    return found


async def _flooded_bare(loop: str) -> Flooded:
    async with running_bare(loop) as (pid, port):
        return await flood(port, pid)


async def _flooded_daemon(loop: str, settings: dict[str, object]) -> Flooded:
    with tempfile.TemporaryDirectory() as name:
        async with running_far_side() as far:
            await far.withhold()
            async with running_daemon(Path(name), far.url, loop=loop, **_ROOM, **settings) as daemon:
                pin(daemon.process.pid, MEASURED_CORE)
                return await flood(int(daemon.base.rpartition(":")[2]), daemon.process.pid)
