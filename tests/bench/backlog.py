"""The disk buffer with a million events in it: memory, start, and what delivering one of them costs.

In order: an outage fills the buffer; it ends, and part is delivered by the process that saw it; the process is killed, and
ready again several times; then all the rest is delivered, with a pause after each slice, in which another process delivers
events of which only 10,000 are buffered. What an event costs is compared between the two, which so had the same conditions.
"""

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.far_side import FarSide, running_far_side
from tests.bench.filling import BATCH, fill
from tests.bench.machine import MEASURED_CORE, cpu_seconds, forget_cached, memory_bytes, pin
from tests.bench.rows import Rows, progress, spread
from tests.system.processes import Daemon, running_daemon, until

EVENTS = 1_000_000
FEW = 10_000
SLICE = 50_000
FEW_ROUNDS = 3
STARTS = 3
LOOP = "uvloop"
"""The default, where it is installed."""
_DRAIN_SECONDS = 60.0
_RECOVERY_EVENTS = 1000
"""Delivered after an outage before any are measured: until the first retries are due there is little to do."""
_SETTINGS = {
    "loop": LOOP,
    "buffer__max_events": 10_000_000,
    "buffer__max_bytes": 1 << 33,
    "growlytics__timeout_seconds": 600,
    "shutdown__drain_seconds": 0,
}


async def measure() -> Rows:
    rows = Rows()
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        async with running_far_side() as far, _daemon(Path(few), far) as daemon:
            await _deliver_few(daemon, far)  # to warm up
            await _deliver_many(Path(many), rows, lambda: _deliver_few(daemon, far))
        read = await _deliver_few_read(Path(few))
    rows.put(LOOP, f"delivering one of {FEW:,} read from the file after a start, CPU, µs", spread(read, 0))
    return rows


async def _deliver_many(directory: Path, rows: Rows, deliver_few: Callable[[], Awaitable[float]]) -> None:
    async with running_far_side() as far:
        async with _daemon(directory, far) as daemon:
            await _fill_in_an_outage(daemon, rows)
            outage = [await _drain(daemon, far, events) for events in (_RECOVERY_EVENTS, SLICE)][1]
            few_in_outage = await deliver_few()
            await daemon.stop(signal.SIGKILL)
        await _start_often(directory, far, rows)
        async with _daemon(directory, far) as daemon:
            few, many = [], []
            while (left := (await daemon.ledger())["buffered"]) > SLICE // 2:
                many.append(await _drain(daemon, far, min(SLICE, left)))
                few.append(await deliver_few())
            await far.answer()
            await until(daemon.drained, "everything is delivered")
            peak = memory_bytes(daemon.process.pid, "VmHWM") / 1e6
    rows.put(LOOP, f"most resident memory while {EVENTS:,} events are delivered, MB", f"{peak:.1f}")
    rows.put(LOOP, f"delivering one of {FEW:,} events, CPU, µs", spread(few, 0))
    rows.put(LOOP, f"delivering one of {EVENTS:,} events, each {SLICE:,}, CPU, µs", spread(many, 0))
    ratios = [one / other for one, other in zip(many, few, strict=True)]
    rows.put(LOOP, "the same against the former, each", spread(ratios), goal="0.80–1.20")
    for name, ratio in (("first", ratios[0]), ("middle", ratios[len(ratios) // 2]), ("last", ratios[-1])):
        rows.put(LOOP, f"the same against the former, the {name}", f"{ratio:.2f}", goal="0.80–1.20")
    rows.put(LOOP, f"the same, {SLICE:,} by the process that saw the outage", f"{outage / few_in_outage:.2f}")


async def _fill_in_an_outage(daemon: Daemon, rows: Rows) -> None:
    pid = daemon.process.pid
    await fill(daemon, FEW)
    few_bytes = memory_bytes(pid)
    started = time.perf_counter()
    await fill(daemon, EVENTS - FEW)
    seconds = time.perf_counter() - started
    many_bytes = memory_bytes(pid)
    rows.put(LOOP, f"accepting in batches of {BATCH:,}, events/s", f"{(EVENTS - FEW) / seconds:.0f}")
    rows.put(LOOP, f"resident memory with {FEW:,} events buffered, MB", f"{few_bytes / 1e6:.1f}")
    rows.put(LOOP, f"resident memory with {EVENTS:,} events buffered, MB", f"{many_bytes / 1e6:.1f}")
    rows.put(LOOP, "difference, MB", f"{(many_bytes - few_bytes) / 1e6:.1f}", goal="< 30")
    # So that after the part that is delivered next there are as many again, and a few more.
    await fill(daemon, SLICE + _RECOVERY_EVENTS + 5 * BATCH)


async def _start_often(directory: Path, far: FarSide, rows: Rows) -> None:
    """Start on the file, several times after a kill, and after a stop."""
    for how, number in (("a kill", signal.SIGKILL), ("a stop", signal.SIGTERM)):
        taken: list[float] = []
        for _ in range(STARTS):
            log_bytes = sum(path.stat().st_size for path in (directory / "buffer").glob("*-wal"))
            forget_cached(directory / "buffer")
            started = time.perf_counter()
            async with _daemon(directory, far) as daemon:
                async with daemon.http.get(f"{daemon.admin}/readyz") as response:
                    assert response.status == 200
                taken.append(time.perf_counter() - started)
                assert (await daemon.ledger())["buffered"] >= EVENTS
                progress(f"ready with a write-ahead log of {log_bytes} bytes in {taken[-1]:.2f} s")
                if number == signal.SIGKILL:
                    assert log_bytes, "a write-ahead log is left by a kill"
                    await fill(daemon, BATCH)  # so that there is one again
                await daemon.stop(number)
        figure = f"start to ready with {EVENTS:,} events, after {how}, files not in memory, s"
        rows.put(LOOP, figure, spread(taken), goal="< 2")


# Few


async def _deliver_few(daemon: Daemon, far: FarSide) -> float:
    """Have a few events accepted, then delivered; return what one cost, in microseconds of CPU time."""
    await fill(daemon, FEW)
    return await _drain(daemon, far, FEW)


async def _deliver_few_read(directory: Path) -> list[float]:
    """Do so after a start, when none of them is in memory; return what it cost each time."""
    costs: list[float] = []
    async with running_far_side() as far:
        for _ in range(FEW_ROUNDS):
            async with _daemon(directory, far) as daemon:
                await fill(daemon, FEW)
                await daemon.stop()
            async with _daemon(directory, far) as daemon:
                costs.append(await _drain(daemon, far, FEW))
    return costs


# Both


async def _drain(daemon: Daemon, far: FarSide, events: int) -> float:
    """Let that many events be delivered, and then no more; return what one cost, in microseconds of CPU time."""
    pid = daemon.process.pid
    begin, cpu = await far.count(), cpu_seconds(pid)
    deadline = time.monotonic() + _DRAIN_SECONDS
    await far.answer()
    while await far.count() - begin < events:
        assert time.monotonic() < deadline, f"{events} events were not delivered in {_DRAIN_SECONDS} s"
        await asyncio.sleep(0.01)
    count = await far.withhold() - begin
    cost = (cpu_seconds(pid) - cpu) / count * 1e6
    progress(f"delivered {count:,} at {cost:.0f} µs each")
    return cost


@asynccontextmanager
async def _daemon(directory: Path, far: FarSide) -> AsyncIterator[Daemon]:
    async with running_daemon(directory, far.url, **_SETTINGS) as daemon:
        pin(daemon.process.pid, MEASURED_CORE)
        yield daemon
