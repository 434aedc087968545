"""What an event costs at the rates that sidecars see: CPU and voluntary switches at 10, 100 and 500 a second, and idle.

The far side answers after 50 ms. The daemon is compared with syslog-ng with its reliable disk-buffer, and with the two
floors of `lean.py`. Each is started anew in each round, and is measured at all rates in turn.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import syslog_ng
from tests.bench.comparisons import Figure, Goal
from tests.bench.delivering import reach
from tests.bench.events import event
from tests.bench.lean import running_lean
from tests.bench.machine import cpu_seconds
from tests.bench.nginx import Nginx, running_nginx
from tests.bench.ours import KINDS, running_ours
from tests.bench.rows import progress

RATES = (10, 100, 500)
SECONDS = 5.0
ROUNDS = 3
_CONNECTIONS = 4
_SETTLE_SECONDS = 0.5
_ANSWER_SECONDS = 0.3
_ACK_SECONDS = 0.2
"""Within which an ack is committed once the answer has come."""
OURS, MEMORY, SYSLOG_NG, LEAN, SQLITE = "disk", "memory", "syslog-ng, disk-buffer", "floor", "floor with SQLite commits"
_CPU_GOAL = Goal(1.5, 2.0)
_SWITCH_GOALS = {100: Goal(2, 5), 500: Goal(1.6, 3.5), 0: Goal(1, 3)}


@dataclass(frozen=True)
class _Ready:
    pid: int
    port: int
    posts: bool = True
    """Whether it takes HTTP posts; else lines."""


_Start = Callable[[Nginx, Path], AbstractAsyncContextManager[_Ready]]
_Found = dict[tuple[str, int], list[tuple[float, float]]]
"""By system and rate: CPU microseconds and voluntary switches for an event, or for a second where the rate is 0."""


def switches_by_thread(pid: int) -> dict[str, int]:
    """Return how often each thread of a process gave up its core of its own accord."""
    found: dict[str, int] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (thread / "status").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        found[thread.name] = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


async def measure(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Figure]:
    """Measure all systems in turn, backwards every other round."""
    found: _Found = defaultdict(list)
    starts: dict[str, _Start] = {
        OURS: partial(_ours, OURS),
        MEMORY: partial(_ours, MEMORY),
        SYSLOG_NG: _syslog_ng,
        LEAN: _lean,
        SQLITE: _lean_with_sqlite,
    }
    async with running_nginx(latency_ms=50) as far:
        for number in range(rounds):
            for name in reversed(list(starts)) if number % 2 else starts:
                with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as directory:
                    async with starts[name](far, Path(directory)) as ready:
                        await _measure(name, ready, far, found, seconds)
                shown = "; ".join(f"{rate}/s {found[name, rate][-1][0]:.0f} µs" for rate in (0, *RATES))
                progress(f"low rates, {number + 1} of {rounds}: {name} {shown}")
    return figures(found)


def figures(found: _Found) -> list[Figure]:
    """Return the ratios of CPU, then the plain figures: switches, and what the daemon does when idle."""

    def values(name: str, rate: int, which: int) -> list[float]:
        return [one[which] for one in found[name, rate]]

    ratios = [
        Figure(
            f"one event at {rate} a second, {kind}",
            "CPU µs an event",
            values(kind, rate, 0),
            other,
            values(other, rate, 0),
            _CPU_GOAL if (kind, other) == (OURS, SYSLOG_NG) else None,
        )
        for rate in RATES
        for kind in (OURS, MEMORY)
        for other in (SYSLOG_NG, LEAN, SQLITE)
    ]
    switches = [
        Figure(
            f"voluntary switches at {rate} events a second, {name}",
            "an event",
            values(name, rate, 1),
            goal=_SWITCH_GOALS.get(rate) if name == OURS else None,
        )
        for rate in RATES
        for name in (OURS, MEMORY, SYSLOG_NG, LEAN, SQLITE)
    ]
    idle = [
        one
        for name in (OURS, SYSLOG_NG)
        for one in (
            Figure(
                f"voluntary switches when idle, {name}",
                "a second",
                values(name, 0, 1),
                goal=_SWITCH_GOALS[0] if name == OURS else None,
            ),
            Figure(f"CPU when idle, {name}", "µs a second", values(name, 0, 0)),
        )
    ]
    return ratios + switches + idle


async def _measure(name: str, ready: _Ready, far: Nginx, found: _Found, seconds: float) -> None:
    await _feed(ready, 50, 1.0)  # what is learned and connected once
    for rate in (0, *RATES):
        await asyncio.sleep(_SETTLE_SECONDS)
        already = await far.count()
        cpu, before = cpu_seconds(ready.pid), switches_by_thread(ready.pid)
        events = await _feed(ready, rate, seconds)
        if events:
            await reach(far, already + events)
            await asyncio.sleep(_ACK_SECONDS)
        used, after = cpu_seconds(ready.pid) - cpu, switches_by_thread(ready.pid)
        switches = sum(count - before.get(thread, 0) for thread, count in after.items())
        per = events or seconds
        found[name, rate].append((used * 1e6 / per, switches / per))


async def at_rate(pid: int, port: int, rate: int) -> None:
    """Post events at an even pace until cancelled."""
    while True:
        await _feed(_Ready(pid, port), rate, SECONDS)


async def feed(port: int, rate: int, seconds: float) -> int:
    """Post events at an even pace, wait for the last answer, and return how many."""
    return await _feed(_Ready(0, port), rate, seconds)


async def _feed(ready: _Ready, rate: int, seconds: float) -> int:
    """Send events at an even pace, whatever the answers take, wait for the last answer, and return how many."""
    if not rate:
        await asyncio.sleep(seconds)
        return 0
    loop = asyncio.get_running_loop()
    streams = [
        await asyncio.open_connection("127.0.0.1", ready.port) for _ in range(_CONNECTIONS if ready.posts else 1)
    ]
    events = int(rate * seconds)
    async with asyncio.TaskGroup() as reading:
        readers = [reading.create_task(_answers(reader)) for reader, _ in streams]
        begin = loop.time()
        for number in range(events):
            await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
            streams[number % len(streams)][1].write(_post(number) if ready.posts else event(number) + b"\n")
        await asyncio.sleep(_ANSWER_SECONDS)
        for _, writer in streams:
            writer.close()
    answers = sum(one.result() for one in readers)
    assert not ready.posts or answers == events, f"{answers} of {events} posts were accepted"
    return events


def _post(number: int) -> bytes:
    body = event(number)
    head = f"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _answers(reader: asyncio.StreamReader) -> int:
    """Count the good answers until the connection is closed."""
    received = b""
    while data := await reader.read(65536):
        received += data
    return received.count(b"HTTP/1.1 200 ")


@asynccontextmanager
async def _ours(kind: str, far: Nginx, directory: Path) -> AsyncIterator[_Ready]:
    async with running_ours(directory, far, loop="uvloop", **KINDS[kind]) as (daemon, _):
        yield _Ready(daemon.process.pid, int(daemon.base.rpartition(":")[2]))


@asynccontextmanager
async def _syslog_ng(far: Nginx, directory: Path) -> AsyncIterator[_Ready]:
    async with syslog_ng.running_with_disk_buffer(far, directory) as (pid, port):
        yield _Ready(pid, port, posts=False)


@asynccontextmanager
async def _lean(far: Nginx, directory: Path) -> AsyncIterator[_Ready]:
    async with running_lean(far.url) as (pid, port):
        yield _Ready(pid, port)


@asynccontextmanager
async def _lean_with_sqlite(far: Nginx, directory: Path) -> AsyncIterator[_Ready]:
    async with running_lean(far.url, directory / "events.db") as (pid, port):
        yield _Ready(pid, port)
