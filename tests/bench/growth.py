"""Growth curves: what an event costs against what may grow. Each should be flat."""

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.accepting import flood_ours
from tests.bench.comparisons import alternate
from tests.bench.delivering import drain_ours, reach
from tests.bench.far_side import running_far_side
from tests.bench.filling import fill
from tests.bench.flood import Traffic
from tests.bench.machine import cpu_seconds
from tests.bench.ours import running_ours
from tests.bench.rows import spread

ROUNDS = 3
LOOP = "uvloop"
EVENTS = 10_000
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)
CUSTOMERS = (1, 10, 100, 1_000, 10_000, 100_000)
ATTRIBUTES = (1, 7, 20, 50)
CONNECTIONS = (1, 10, 100, 1_000)


@dataclass(frozen=True)
class Curve:
    """CPU microseconds an event, at each size."""

    name: str
    points: dict[str, list[float]]

    def __str__(self) -> str:
        points = "; ".join(f"{size}: **{spread(values, 0)}**" for size, values in self.points.items())
        return f"| {self.name} | {points} |"


HEAD = "| cost per event, CPU µs, against | disk, uvloop: median (spread) |\n| --- | --- |"


async def measure_backlog() -> list[Curve]:
    return [await _curve("backlog: delivering", BACKLOGS, _drain_with_backlog)]


async def measure_customers() -> list[Curve]:
    return [await _curve("customers: delivering", CUSTOMERS, lambda n: drain_ours(LOOP, events=EVENTS, customers=n))]


async def measure_attributes() -> list[Curve]:
    return [
        await _curve("attributes: accepting", ATTRIBUTES, lambda n: flood_ours(LOOP, traffic=Traffic(attributes=n))),
        await _curve("attributes: delivering", ATTRIBUTES, lambda n: drain_ours(LOOP, events=EVENTS, attributes=n)),
    ]


async def measure_connections() -> list[Curve]:
    return [await _curve("connections: accepting", CONNECTIONS, lambda n: flood_ours(LOOP, traffic=Traffic(n)))]


async def _curve(name: str, sizes: tuple[int, ...], measure: Callable[[int], Awaitable[float]]) -> Curve:
    return Curve(name, await alternate(name, {f"{size:,}": partial(measure, size) for size in sizes}, pairs=ROUNDS))


async def _drain_with_backlog(backlog: int) -> float:
    """Return what delivering an event costs while never fewer than so many, nor many more, are behind it."""
    at_once = min(backlog, EVENTS)
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with (
            running_far_side() as far,
            running_ours(Path(name), far.url, loop=LOOP, growlytics__timeout_seconds=600) as (daemon, _),
        ):
            await fill(daemon, backlog)
            used = 0.0
            for number in range(1 + EVENTS // at_once):  # the first warms it up
                await fill(daemon, at_once)
                begin, cpu = await far.count(), cpu_seconds(daemon.process.pid)
                await far.answer()
                await reach(far, begin + at_once)
                await far.withhold()
                used += cpu_seconds(daemon.process.pid) - cpu if number else 0.0
            return used / (EVENTS // at_once * at_once) * 1e6
