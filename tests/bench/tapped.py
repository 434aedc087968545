"""What one `tap` costs the daemon at 100 events a second: its CPU with the command running, against its CPU without.

One daemon is measured with and without, in turn, at the same even pace; the far side answers after 50 ms. The command writes
to a file, whose lines are counted: each event has two, and none may be lost.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from tests.bench.comparisons import Figure, Goal, alternate
from tests.bench.delivering import reach
from tests.bench.low_rates import feed
from tests.bench.machine import OTHER_CORE, cpu_seconds, on_core
from tests.bench.nginx import Nginx, running_nginx
from tests.bench.ours import running_ours
from tests.system.processes import COMMAND, Daemon, clean_environment

RATE = 100
SECONDS = 20.0
PAIRS = 3
_LINES_AN_EVENT = 2
_ACK_SECONDS = 0.2
"""Within which an ack is committed once the answer has come."""
_WITH, _WITHOUT, _WITH_PAYLOADS = "one tap", "no tap", "one tap with payloads"


async def measure(*, pairs: int = PAIRS, seconds: float = SECONDS) -> list[Figure]:
    """Measure with a tap, with one that shows payloads, and without, in turn."""
    missing: list[float] = []
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with (
            running_nginx(latency_ms=50) as far,
            running_ours(Path(name), far, loop="uvloop") as (daemon, _),
        ):
            output = Path(name) / "lines"

            def measuring(*flags: str, taps: bool = True) -> Callable[[], Awaitable[float]]:
                async def once() -> float:
                    async with _tapping(daemon, output, *flags) if taps else nullcontext():
                        used, events = await _cpu(daemon, far, seconds)
                        if taps:
                            await asyncio.sleep(1)  # the last lines come
                            missing.append(_missing(output, events))
                    return used * 1e6 / events

                return once

            await feed(_port(daemon), RATE, 2.0)  # what is learned and connected once
            found = await alternate(
                "taps",
                {
                    _WITH: measuring(),
                    _WITHOUT: measuring(taps=False),
                    _WITH_PAYLOADS: measuring("--payloads"),
                },
                pairs=pairs,
            )
    name, unit, without = f"one event at {RATE} a second", "CPU µs an event", found[_WITHOUT]
    return [
        Figure(f"{name}, {_WITH}", unit, found[_WITH], _WITHOUT, without, Goal(1.25)),
        Figure(f"{name}, {_WITH_PAYLOADS}", unit, found[_WITH_PAYLOADS], _WITHOUT, without),
        Figure(f"lines that a tap lost at {RATE} events a second", "lines", missing, goal=Goal(0)),
    ]


def _port(daemon: Daemon) -> int:
    return int(daemon.base.rpartition(":")[2])


async def _cpu(daemon: Daemon, far: Nginx, seconds: float) -> tuple[float, int]:
    """Return the CPU time that the daemon takes for events at an even pace, and how many there were."""
    already, before = await far.count(), cpu_seconds(daemon.process.pid)
    events = await feed(_port(daemon), RATE, seconds)
    await reach(far, already + events)
    await asyncio.sleep(_ACK_SECONDS)
    return cpu_seconds(daemon.process.pid) - before, events


@asynccontextmanager
async def _tapping(daemon: Daemon, output: Path, *flags: str) -> AsyncIterator[None]:
    """Run the command on the core that is not measured while the block runs."""
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *on_core(OTHER_CORE), *COMMAND, "tap", "--unix-socket", daemon.ready["control"], "--json", *flags,
            stdout=file, env=clean_environment(),
        )  # fmt: skip
        try:
            await asyncio.sleep(2)  # it starts, which nothing tells
            yield
        finally:
            process.terminate()
            await process.wait()


def _missing(output: Path, events: int) -> float:
    """Return how many lines are missing."""
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return _LINES_AN_EVENT * events - sum("id" in line for line in lines)
