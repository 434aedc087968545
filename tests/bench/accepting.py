"""What it costs to accept an event in an HTTP post, by kind of buffer, against the bare handlers under the same flood.

Each time as new processes: the measured one on one core, the flood on the other; figures of one round are compared. The far
side withholds its answers, so nothing is delivered meanwhile.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.bare import AIOHTTP, HTTPTOOLS, running_bare
from tests.bench.comparisons import PAIRS, Figure, Goal, against, alternate
from tests.bench.far_side import running_far_side
from tests.bench.flood import ONE_EVENT_POSTS, Traffic, flood
from tests.bench.ours import KINDS, running_ours
from tests.system.processes import COMMAND

BARE = {AIOHTTP: "bare aiohttp handler", HTTPTOOLS: "bare httptools handler"}
DAEMON = Path(".venv/bin/growlytics-forwarder")
"""Within a checkout: the command that runs what is in it."""
TWO_SEGMENTS = Traffic(segments=2)
BATCHES = Traffic(requests=8, events=100)
_GOALS = {BARE[AIOHTTP]: Goal(0.5, 0.8)}
_BATCHES_GOAL = Goal(1.5, more_is_better=True)
_PATIENCE = {"growlytics__timeout_seconds": 600}


async def measure(
    loop: str,
    traffic: Traffic = ONE_EVENT_POSTS,
    *,
    kinds: Sequence[str] = ("disk",),
    libraries: Sequence[str] = (AIOHTTP, HTTPTOOLS),
    pairs: int = PAIRS,
) -> list[Figure]:
    """Return CPU microseconds for each accepted event."""
    title = "accepting in one-event posts" + (" of two segments" if traffic.segments > 1 else "")
    measures = {BARE[library]: partial(_flood_bare, loop, library, traffic) for library in libraries}
    measures |= {kind: partial(flood_ours, loop, kind, traffic) for kind in kinds}
    found = await alternate(f"{title}, {loop}", measures, pairs=pairs)
    bare = {name: found[name] for name in BARE.values() if name in found}
    unit = "CPU µs an event"
    return [
        figure
        for kind in kinds
        for figure in against(
            f"{title}, {kind}, {loop}",
            unit,
            bare | {kind: found[kind]},
            kind,
            goals=_GOALS if kind == "disk" else {},
        )
    ]


async def measure_batches(base: Path) -> list[Figure]:
    """Return events accepted in a second of CPU, against those of another checkout, which has a `.venv` of its own."""
    version = _version(base)
    command = [str(base / DAEMON)]  # not with -m, which would run what is in this directory

    async def rate(command: Sequence[str]) -> float:
        return 1e6 / await flood_ours("uvloop", "disk", BATCHES, command=command)

    measures = {"ours": partial(rate, COMMAND), version: partial(rate, command)}
    found = await alternate("accepting in batches", measures)
    name = f"accepting in batches of {BATCHES.events}, disk, uvloop"
    return against(name, "events a CPU second", found, "ours", goals={version: _BATCHES_GOAL})


def _version(checkout: Path) -> str:
    command = ("git", "-C", checkout, "rev-parse", "--short", "HEAD")
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=10, check=True).stdout.strip()


async def _flood_bare(loop: str, library: str, traffic: Traffic) -> float:
    async with running_bare(loop, library) as (pid, port):
        return (await flood(port, pid, traffic)).cpu_microseconds_per_event


async def flood_ours(
    loop: str, kind: str = "disk", traffic: Traffic = ONE_EVENT_POSTS, *, command: Sequence[str] = COMMAND
) -> float:
    """Return CPU microseconds for each accepted event of our daemon, or of that of another `command`."""
    settings: dict[str, object] = {"loop": loop, **_PATIENCE, **KINDS[kind]}
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with running_far_side() as far:
            await far.withhold()
            async with running_ours(Path(name), far.url, command, **settings) as (daemon, _):
                port = int(daemon.base.rpartition(":")[2])
                return (await flood(port, daemon.process.pid, traffic)).cpu_microseconds_per_event
