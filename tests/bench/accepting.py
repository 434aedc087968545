"""What it costs to accept an event in an HTTP post, by kind of buffer, against the bare handlers under the same flood.

Each time as new processes: the measured one on one core, the flood on the other; figures of one round are compared. The far
side withholds its answers, so nothing is delivered meanwhile.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.bare import AIOHTTP, HTTPTOOLS, running_bare
from tests.bench.comparisons import PAIRS, Figure, Goal, against, alternate
from tests.bench.far_side import running_far_side
from tests.bench.flood import flood
from tests.bench.ours import KINDS, running_ours

BARE = {AIOHTTP: "bare aiohttp handler", HTTPTOOLS: "bare httptools handler"}
_GOALS = {BARE[AIOHTTP]: Goal(1.35, 1.6)}
_PATIENCE = {"growlytics__timeout_seconds": 600}


async def measure(
    loop: str, *, kinds: Sequence[str] = ("disk",), libraries: Sequence[str] = (AIOHTTP, HTTPTOOLS), pairs: int = PAIRS
) -> list[Figure]:
    """Return CPU microseconds for each accepted event."""
    measures = {BARE[library]: partial(_flood_bare, loop, library) for library in libraries}
    measures |= {kind: partial(flood_ours, loop, kind) for kind in kinds}
    found = await alternate(f"accepting, {loop}", measures, pairs=pairs)
    bare = {name: found[name] for name in BARE.values() if name in found}
    unit = "CPU µs an event"
    return [
        figure
        for kind in kinds
        for figure in against(
            f"accepting in one-event posts, {kind}, {loop}",
            unit,
            bare | {kind: found[kind]},
            kind,
            goals=_GOALS if kind == "disk" else {},
        )
    ]


async def _flood_bare(loop: str, library: str) -> float:
    async with running_bare(loop, library) as (pid, port):
        return (await flood(port, pid)).cpu_microseconds_per_event


async def flood_ours(loop: str, kind: str = "disk", *, connections: int = 64, attributes: int = 7) -> float:
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with running_far_side() as far:
            await far.withhold()
            async with running_ours(Path(name), far.url, loop=loop, **_PATIENCE, **KINDS[kind]) as (daemon, _):
                port = int(daemon.base.rpartition(":")[2])
                flooded = await flood(port, daemon.process.pid, connections=connections, attributes=attributes)
                return flooded.cpu_microseconds_per_event
