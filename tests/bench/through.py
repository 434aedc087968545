"""One system's row: events through it, from accepted to delivered, in one run of at most 20 s."""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.driver import fed
from tests.bench.instructions import counting
from tests.bench.machine import NOISY_SHARE, Others, cpu_seconds, memory_bytes
from tests.bench.nginx import Nginx, running_nginx
from tests.bench.systems import RUN_SECONDS, Conditions, Running, System

_POLL_SECONDS = 0.02
HEAD = (
    "| system, far side | events | accepted/s | delivered/s | CPU µs an event | instructions "
    "| p50, ms | p99, ms | MB idle / full / after | ready, s | |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Through:
    """What a run came to; its fields are the table's columns, None where a system has no such figure."""

    system: str
    conditions: str
    events: int
    """Delivered in the run."""
    accepted_per_second: float | None
    delivered_per_second: float | None
    cpu_microseconds_per_delivered_event: float | None
    instructions_per_delivered_event: float | None
    p50_ms: float | None
    """Of the accepting call."""
    p99_ms: float | None
    idle_mb: float
    full_mb: float
    """The most that it ever was."""
    after_mb: float
    ready_seconds: float
    note: str
    others_share: float
    """What other processes took of the machine meanwhile, as a share of one core."""

    def __str__(self) -> str:
        noise = f"others took {self.others_share:.0%} of a core" if self.others_share > NOISY_SHARE else ""
        cells = [
            f"{self.system}, {self.conditions.replace('/', ', ')}",
            *(_shown(value) for value in (self.events, self.accepted_per_second, self.delivered_per_second)),
            _shown(self.cpu_microseconds_per_delivered_event),
            _shown(self.instructions_per_delivered_event),
            *(_shown(value, 3) for value in (self.p50_ms, self.p99_ms)),
            " / ".join(_shown(value) for value in (self.idle_mb, self.full_mb, self.after_mb)),
            _shown(self.ready_seconds, 2),
            "; ".join(filter(None, (self.note, noise))),
        ]
        return f"| {' | '.join(cells)} |"


async def measure_through(system: System, conditions: Conditions, *, most_events: int = 0) -> Through:
    """Run it once, with as many events as it can do in its time, or so many."""
    most_events = most_events or system.most_events(conditions.latency_ms)
    others = Others()
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-") as name:
        async with (
            running_nginx(latency_ms=conditions.latency_ms, tls=conditions.tls) as far,
            system.start(far, most_events, Path(name)) as running,
        ):
            figures = await _run(running, far)
    return Through(system.name, str(conditions), **figures, others_share=others.share())


async def _run(running: Running, far: Nginx) -> dict[str, Any]:
    pid = running.pid
    idle, already = memory_bytes(pid), await far.count()
    async with counting(pid) as instructions:
        started, cpu = time.perf_counter(), cpu_seconds(pid)
        taken = await fed(running.driver, seconds=RUN_SECONDS)
        accepted = await running.accepted(taken.events) if running.accepted else taken.events
        requests = -(-accepted // running.events_per_request)
        while (count := await far.count() - already) < requests and time.perf_counter() - started < RUN_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)
        seconds, used = time.perf_counter() - started, cpu_seconds(pid) - cpu
    delivered = min(count * running.events_per_request, accepted)
    assert delivered, "nothing was delivered"
    notes = [f"cut with {accepted - delivered:,} waiting"] if count < requests else []
    notes += [f"{taken.events - accepted:,} refused"] if accepted < taken.events else []
    return {
        "events": delivered,
        "accepted_per_second": accepted / taken.seconds,
        "delivered_per_second": delivered / seconds,
        "cpu_microseconds_per_delivered_event": used / delivered * 1e6,
        "instructions_per_delivered_event": instructions.number and instructions.number / delivered,
        "p50_ms": taken.p50_ms,
        "p99_ms": taken.p99_ms,
        "idle_mb": idle / 1e6,
        "full_mb": memory_bytes(pid, "VmHWM") / 1e6,
        "after_mb": memory_bytes(pid) / 1e6,
        "ready_seconds": running.ready_seconds,
        "note": "; ".join(notes),
    }


def _shown(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
