"""Ours against the collectors of others on the same work: events as lines over a socket in, one request per event out."""

from collections.abc import Callable
from functools import partial

from tests.bench import fluent_bit, syslog_ng
from tests.bench.comparisons import Figure, Goal, against, alternate
from tests.bench.ours import BEST_CONCURRENCY, ours
from tests.bench.systems import Conditions, System
from tests.bench.through import Through, measure_through

OURS = "ours"
_EVENTS = 20_000
_EVENTS_AT_50_MS = 40_000


async def measure_cpu() -> list[Figure]:
    """Return CPU microseconds from the socket to delivered, at 64 concurrent requests each."""
    systems = {OURS: ours("disk", "lines", "uvloop"), **_collectors("64")}
    found = await _compare("lines to delivered", systems, Conditions(), _cpu, _EVENTS)
    return against(
        "lines socket to delivered, disk, uvloop", "CPU µs an event", found, OURS, goals={"syslog-ng": Goal(1.0, 1.4)}
    )


async def measure_throughput() -> list[Figure]:
    """Return events delivered per second at 50 ms, each at its best setting."""
    systems = {OURS: ours("disk", "lines", "uvloop", concurrency=BEST_CONCURRENCY), **_collectors("best")}
    found = await _compare("throughput at 50 ms", systems, Conditions(50), _rate, _EVENTS_AT_50_MS)
    goals = {name: Goal(1.2, 1.0, more_is_better=True) for name in systems}
    return against("delivered at 50 ms, each at its best setting", "events/s", found, OURS, goals=goals)


def _collectors(series: str) -> dict[str, System]:
    found = {"syslog-ng": syslog_ng.syslog_ng(series)} if syslog_ng.found() else {}
    return found | ({"Fluent Bit": fluent_bit.fluent_bit(series)} if fluent_bit.found() else {})


def _cpu(one: Through) -> float:
    assert one.cpu_microseconds_per_delivered_event is not None
    return one.cpu_microseconds_per_delivered_event


def _rate(one: Through) -> float:
    assert one.delivered_per_second is not None
    return one.delivered_per_second


async def _compare(
    title: str,
    systems: dict[str, System],
    conditions: Conditions,
    value: Callable[[Through], float],
    most_events: int = 0,
) -> dict[str, list[float]]:
    async def measure(system: System) -> float:
        return value(await measure_through(system, conditions, most_events=most_events))

    return await alternate(title, {name: partial(measure, system) for name, system in systems.items()})
