"""The yardsticks as rows of the table: a bare handler, which only accepts, and a bare client, which only delivers.

An event is one that the former answered, or that the far side got from the latter; a run lasts 5 s.
"""

import asyncio
import time
from typing import Any

from tests.bench.bare import running_bare
from tests.bench.bare_client import running_bare_client
from tests.bench.driver import Feed, driving, fed
from tests.bench.instructions import Counted, counting
from tests.bench.machine import Others, cpu_seconds, memory_bytes
from tests.bench.nginx import running_nginx
from tests.bench.systems import Conditions
from tests.bench.through import Through

SECONDS = 5.0
_WARM_UP_SECONDS = 1.0
_CONNECTIONS = 64
_MORE_THAN_CAN_BE = 10_000_000


async def measure_handler(library: str, loop: str) -> list[Through]:
    others, started = Others(), time.perf_counter()
    async with running_bare(loop, library) as (pid, port):
        ready_seconds, idle = time.perf_counter() - started, memory_bytes(pid)
        feed = Feed("http", f"127.0.0.1:{port}", _MORE_THAN_CAN_BE, SECONDS, _CONNECTIONS)
        async with driving(feed) as driver, counting(pid) as instructions:
            cpu = cpu_seconds(pid)
            taken = await fed(driver, seconds=4 * SECONDS)
            used = cpu_seconds(pid) - cpu
        figures = _figures(pid, idle, used, instructions, taken.events)
    return [
        Through(
            system=f"bare handler/{library}/{loop}",
            conditions="none",
            accepted_per_second=taken.events / taken.seconds,
            delivered_per_second=None,
            p50_ms=taken.p50_ms,
            p99_ms=taken.p99_ms,
            ready_seconds=ready_seconds,
            note="accepts only",
            others_share=others.share(),
            **figures,
        )
    ]


async def measure_client(library: str, loop: str) -> list[Through]:
    others = Others()
    async with running_nginx() as far:
        started = time.perf_counter()
        async with running_bare_client(loop, far.url, library, connections=_CONNECTIONS) as pid:
            ready_seconds, idle = time.perf_counter() - started, memory_bytes(pid)
            await asyncio.sleep(_WARM_UP_SECONDS)
            async with counting(pid) as instructions:
                began, cpu, count = time.perf_counter(), cpu_seconds(pid), await far.count()
                await asyncio.sleep(SECONDS)
                used, events = cpu_seconds(pid) - cpu, await far.count() - count
                seconds = time.perf_counter() - began
            figures = _figures(pid, idle, used, instructions, events)
    return [
        Through(
            system=f"bare client/{library}/{loop}",
            conditions=str(Conditions()),
            accepted_per_second=None,
            delivered_per_second=events / seconds,
            p50_ms=None,
            p99_ms=None,
            ready_seconds=ready_seconds,
            note="delivers only",
            others_share=others.share(),
            **figures,
        )
    ]


def _figures(pid: int, idle: int, used: float, instructions: Counted, events: int) -> dict[str, Any]:
    assert events, "nothing was answered"
    return {
        "events": events,
        "cpu_microseconds_per_delivered_event": used / events * 1e6,
        "instructions_per_delivered_event": instructions.number and instructions.number / events,
        "idle_mb": idle / 1e6,
        "full_mb": memory_bytes(pid, "VmHWM") / 1e6,
        "after_mb": memory_bytes(pid) / 1e6,
    }
