"""The daemon as it mostly is: posted to one event at a time; and the sandbox's own speed."""

import asyncio
import json
import tempfile
import time
from pathlib import Path

from tests.bench.comparisons import Figure, Goal
from tests.bench.machine import cpu_seconds
from tests.bench.ours import KINDS
from tests.bench.rows import LOOPS, Rows, percentile, progress
from tests.system.processes import Daemon, Sandbox, example_event, running_daemon, running_sandbox, until

RATE_PER_SECOND = 500
LATENCY_SECONDS = 6
_P99_ROUNDS = 5
FLOOD_SECONDS = 5
FLOOD_CONNECTIONS = 32


async def measure_latency() -> Rows:
    rows = Rows()
    for loop in LOOPS:
        for kind, settings in KINDS.items():
            with tempfile.TemporaryDirectory() as name:
                async with (
                    running_sandbox("--loop", loop) as sandbox,
                    running_daemon(Path(name), sandbox.url, loop=loop, **settings) as daemon,
                ):
                    taken = await _latencies_ms(daemon)
                    await until(daemon.drained, "everything is delivered")
                    memory = daemon.rss_bytes() / 1e6
            for share in (50, 99):
                figure = f"`POST /track/event` at {RATE_PER_SECOND}/s, delivering meanwhile, {kind}, p{share}, ms"
                goal = "< 2" if (kind, share) == ("disk", 50) else ""
                rows.put(loop, figure, f"{percentile(taken, share):.2f}", goal=goal)
            rows.put(loop, f"resident memory after that, {kind}, MB", f"{memory:.1f}")
    return rows


async def measure_p99() -> list[Figure]:
    """Return the 99th percentile of a post's time with the buffer on disk, of several daemons."""
    found: list[float] = []
    for _ in range(_P99_ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            async with (
                running_sandbox("--loop", "uvloop") as sandbox,
                running_daemon(Path(name), sandbox.url, loop="uvloop") as daemon,
            ):
                found.append(percentile(await _latencies_ms(daemon), 99))
        progress(f"p99 of a post at {RATE_PER_SECOND}/s: {found[-1]:.2f} ms")
    return [Figure(f"p99 of a post at {RATE_PER_SECOND} a second, disk, uvloop", "ms", found, goal=Goal(1.0, 2.0))]


async def measure_sandbox() -> Rows:
    rows = Rows()
    for loop in LOOPS:
        async with running_sandbox("--loop", loop) as sandbox:
            wall, cpu = await _sandbox_rate(sandbox)
        rows.put(loop, "sandbox, requests/s", f"{wall:.0f}")
        rows.put(loop, "sandbox, requests per second of one core", f"{cpu:.0f}", goal="> 10000 (uvloop)")
    return rows


async def _latencies_ms(daemon: Daemon) -> list[float]:
    """Post at a fixed rate, whatever the answers take, and return each post's time to its answer, sorted."""
    taken: list[float] = []

    async def post(number: int) -> None:
        started = time.perf_counter()
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
            await response.read()
            assert response.status == 200
        taken.append((time.perf_counter() - started) * 1000)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as posts:
        for number in range(RATE_PER_SECOND * LATENCY_SECONDS):
            await asyncio.sleep(max(0.0, begin + number / RATE_PER_SECOND - time.perf_counter()))
            posts.create_task(post(number))
    return sorted(taken)


async def _sandbox_rate(sandbox: Sandbox) -> tuple[float, float]:
    """Flood the sandbox alone; return requests a second, and requests a second of its own CPU time."""
    host, port = sandbox.base.removeprefix("http://").rsplit(":", 1)
    body = json.dumps(example_event(1)).encode()
    head = (
        f"POST /track/event HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"x-growlytics-key: system-test-key\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    deadline = time.perf_counter() + FLOOD_SECONDS

    async def flood() -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        count = 0
        while time.perf_counter() < deadline:
            writer.write(request)
            answer = await reader.readuntil(b"}")
            assert b" 200 " in answer, answer
            count += 1
        writer.close()
        return count

    before, started = cpu_seconds(sandbox.process.pid), time.perf_counter()
    count = sum(await asyncio.gather(*(flood() for _ in range(FLOOD_CONNECTIONS))))
    elapsed = time.perf_counter() - started
    return count / elapsed, count / (cpu_seconds(sandbox.process.pid) - before)
