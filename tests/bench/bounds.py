"""The daemon beside crowds: memory, and how soon others are answered. Each figure is the worst of several daemons'."""

import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path

from tests.bench.comparisons import Figure, Goal
from tests.bench.far_side import FarSide, running_far_side
from tests.bench.ours import running_ours
from tests.bench.rows import progress
from tests.system import crowds
from tests.system.processes import COMMAND, Daemon

ROUNDS = 3
_MIB = 1 << 20
_SERVED = {"posts": "posts answered", "lives": "/livez answered", "delivered": "events delivered"}


async def measure_batches(kind: str) -> list[Figure]:
    """Return what many large batches at once come to, and how long single posts beside them take."""
    accepted, seconds, most_mib, median_ms, longest_ms = ([] for _ in range(5))
    for _ in range(ROUNDS):
        async with _daemon() as (daemon, _):
            daemon.forget_peak()
            async with (
                crowds.posting_batches(daemon, kind) as posting,
                crowds.posting_steadily(daemon) as taken,
            ):
                posted = await posting
            most_mib.append(daemon.peak_bytes() / _MIB)
        accepted.append(posted.accepted)
        seconds.append(posted.seconds)
        median_ms.append(statistics.median(taken) * 1e3)
        longest_ms.append(max(taken) * 1e3)
        progress(f"{kind}: {posted}, {most_mib[-1]:.0f} MiB, posts {median_ms[-1]:.1f} and {longest_ms[-1]:.0f} ms")
    title = f"{crowds.BATCHES} batches of 1 MiB at once, {kind}"
    return [
        _worst(f"{title}: accepted within {crowds.BATCHES_SECONDS:.0f} s", "batches", accepted, _all(crowds.BATCHES)),
        _worst(f"{title}: until all are accepted", "s", seconds, Goal(crowds.BATCHES_SECONDS)),
        _worst(f"{title}: most resident memory", "MiB", most_mib, Goal(256)),
        _worst(f"{title}: a single post beside them, median", "ms", median_ms, Goal(100)),
        _worst(f"{title}: a single post beside them, longest", "ms", longest_ms, Goal(1000)),
    ]


async def measure_parts() -> list[Figure]:
    """Return by how much bodies that never end let the memory grow."""
    figures = []
    for until_then, is_reset in product(crowds.UNTIL_THEN, (False, True)):
        grown = []
        for _ in range(ROUNDS):
            async with _daemon() as (daemon, _):
                grown.append(await crowds.growth_by_bodies_in_part(daemon, until_then, is_reset=is_reset) / 1e6)
        end = "reset" if is_reset else "closed"
        title = f"{crowds.BODIES} bodies of 1 MiB one after the other, {until_then}, then {end}: growth of memory"
        figures.append(_worst(title, "MB", grown, Goal(20)))
        progress(str(figures[-1]))
    return figures


async def measure_silence(listener: str) -> list[Figure]:
    """Return how much is served beside silent connections to the `admin` or the `intake` port."""
    found = []
    for _ in range(ROUNDS):
        async with _daemon([*crowds.LIMITED, *COMMAND]) as (daemon, far):
            await far.answer()
            base = daemon.admin if listener == "admin" else daemon.base
            found.append(await crowds.serve_beside_silence(daemon, base, far.count))
        progress(f"{listener}: {found[-1]}")
    title = f"{crowds.CONNECTIONS:,} silent connections to the {listener} port, {crowds.DESCRIPTORS:,} descriptors"
    return [
        _worst(f"{title}: {what}", f"of {crowds.TRIES}", [getattr(one, name) for one in found], _all(crowds.TRIES))
        for name, what in _SERVED.items()
    ]


@asynccontextmanager
async def _daemon(command: Sequence[str] = COMMAND) -> AsyncIterator[tuple[Daemon, FarSide]]:
    settings: dict[str, object] = {"loop": "uvloop", "intake__max_body_bytes": _MIB}
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with (
            running_far_side() as far,
            running_ours(Path(name), far.url, command, **settings) as (daemon, _),
        ):
            yield daemon, far


def _worst(name: str, unit: str, values: Sequence[float], goal: Goal) -> Figure:
    return Figure(name, unit, [min(values) if goal.more_is_better else max(values)], goal=goal)


_all = partial(Goal, more_is_better=True)
