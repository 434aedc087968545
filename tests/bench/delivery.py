"""What it costs to deliver an event against a bare aiohttp client, and how many go out where each takes 50 ms.

The costs are measured in pairs: each round a new bare client and a new daemon, on one core, post the same events to the same
kind of far side on the other. The daemon's buffer was filled before, so nothing is accepted meanwhile.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from tests.bench.bare_client import running_bare_client
from tests.bench.far_side import FarSide, running_far_side
from tests.bench.filling import fill
from tests.bench.machine import MEASURED_CORE, OTHER_CORE, cpu_seconds, pin
from tests.bench.rows import LOOPS, Rows, progress, spread
from tests.system.processes import Daemon, running_daemon, running_sandbox, until

ROUNDS = 5
CONNECTIONS = 64
EVENTS = 40_000
WARM_UP_EVENTS = 5_000
LATENCY_SECONDS = 0.05
CONCURRENCIES = (64, 256)
THROUGHPUT_SECONDS = 10.0
GROWTH_SECONDS = 30.0
"""At most how long the limit may grow before: by one in every other round trip, once it has met a sign of load."""
_ROOM = {
    "buffer__max_events": 10_000_000,
    "buffer__max_bytes": 1 << 33,
    "shutdown__drain_seconds": 0,
    "delivery__probe_max_seconds": 1,
}


async def measure() -> Rows:
    rows = Rows()
    for loop in LOOPS:
        bare: list[float] = []
        ours: list[float] = []
        for number in range(ROUNDS):
            for what in reversed(("bare", "ours")) if number % 2 else ("bare", "ours"):
                (bare if what == "bare" else ours).append(await (_bare(loop) if what == "bare" else _ours(loop)))
            progress(f"{loop}: bare client {bare[-1]:.0f} µs; delivering {ours[-1]:.0f} µs")
        ratios = [one / other for one, other in zip(ours, bare, strict=True)]
        rows.put(loop, "posting one event, bare aiohttp client, CPU, µs", spread(bare, 0))
        rows.put(loop, "delivering one event, disk, CPU, µs", spread(ours, 0))
        rows.put(loop, "the same against the bare client", spread(ratios), goal="≤ 1.3, at most 1.5")
    for loop in LOOPS:
        for concurrency in CONCURRENCIES:
            ideal = concurrency / LATENCY_SECONDS
            rate = await _throughput(loop, concurrency)
            figure = f"delivered/s at {LATENCY_SECONDS * 1e3:.0f} ms, max_concurrency {concurrency}; share of the ideal"
            rows.put(loop, figure, f"{rate:.0f}; {rate / ideal:.0%}", goal=f"> {0.9 * ideal:.0f}; 90%")
            progress(f"{loop}: {rate:.0f} events/s of {ideal:.0f}")
    return rows


async def _bare(loop: str) -> float:
    async with running_far_side() as far:
        await far.answer()
        async with running_bare_client(loop, far.url, connections=CONNECTIONS) as client:
            return await _cost(client.process.pid, far)


async def _ours(loop: str) -> float:
    with tempfile.TemporaryDirectory() as name:
        async with (
            running_far_side() as far,
            running_daemon(Path(name), far.url, loop=loop, delivery__max_concurrency=CONNECTIONS, **_ROOM) as daemon,
        ):
            pin(daemon.process.pid, MEASURED_CORE)
            await fill(daemon, EVENTS + 2 * WARM_UP_EVENTS)
            await far.answer()
            cost = await _cost(daemon.process.pid, far)
            assert not await daemon.drained(), "it had nothing to do for a while"
            return cost


async def _cost(pid: int, far: FarSide) -> float:
    """Return what one event takes, in microseconds of CPU time."""
    begin = await _reach(far, WARM_UP_EVENTS)
    cpu = cpu_seconds(pid)
    end = await _reach(far, begin + EVENTS)
    return (cpu_seconds(pid) - cpu) / (end - begin) * 1e6


async def _reach(far: FarSide, events: int) -> int:
    deadline = time.monotonic() + 60
    while (count := await far.count()) < events:
        assert time.monotonic() < deadline, f"{count} of {events} events were posted in 60 s"
        await asyncio.sleep(0.01)
    return count


async def _throughput(loop: str, concurrency: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        async with running_sandbox("--latency-ms", str(LATENCY_SECONDS * 1e3)) as sandbox:
            pin(sandbox.process.pid, OTHER_CORE)
            await sandbox.faults(down=True)
            async with running_daemon(
                Path(name), sandbox.url, loop=loop, delivery__max_concurrency=concurrency, **_ROOM
            ) as daemon:
                pin(daemon.process.pid, MEASURED_CORE)
                most_seconds = GROWTH_SECONDS + 1.5 * THROUGHPUT_SECONDS
                await fill(daemon, round(most_seconds * concurrency / LATENCY_SECONDS / 1000) * 1000)
                await sandbox.faults(down=False)
                await until(lambda: _delivers(daemon), "an event is delivered")
                began = time.perf_counter()
                while time.perf_counter() < began + GROWTH_SECONDS and await _limit(daemon) < concurrency:
                    await asyncio.sleep(0.5)
                progress(f"{loop}: a limit of {await _limit(daemon)} after {time.perf_counter() - began:.0f} s")
                delivered, began = (await daemon.ledger())["delivered"], time.perf_counter()
                await asyncio.sleep(THROUGHPUT_SECONDS)
                delivered = (await daemon.ledger())["delivered"] - delivered
                seconds = time.perf_counter() - began
                assert not await daemon.drained(), "it had nothing to do for a while"
                return float(delivered / seconds)


async def _limit(daemon: Daemon) -> int:
    return int((await daemon.status())["delivery"]["concurrency_limit"])


async def _delivers(daemon: Daemon) -> bool:
    return bool((await daemon.ledger())["delivered"])
