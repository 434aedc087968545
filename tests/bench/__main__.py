"""`make bench`: absolute figures of real processes on this machine. Not a test; figures and commands go to README.md."""

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from tests.system.processes import Daemon, Sandbox, example_event, running_daemon, running_sandbox, until

RATE_PER_SECOND = 500
LATENCY_SECONDS = 10
FLOOD_SECONDS = 5
FLOOD_CONNECTIONS = 32
STARTS = 5


async def seconds_to_ready(directory: Path, loop: str) -> tuple[float, float]:
    """Return how long from the start of the process to `/readyz` 200, and then its resident memory in MB."""
    started = time.perf_counter()
    async with running_daemon(directory, "http://127.0.0.1:9/track/event", loop=loop) as daemon:
        async with daemon.http.get(f"{daemon.admin}/readyz") as response:
            assert response.status == 200
        seconds = time.perf_counter() - started
        return seconds, daemon.rss_bytes() / 1e6


async def latencies_ms(daemon: Daemon) -> list[float]:
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


async def sandbox_rate(sandbox: Sandbox) -> tuple[float, float]:
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


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("| figure | asyncio | uvloop |\n| --- | --- | --- |")
    rows: dict[str, list[str]] = {}
    for loop in ("asyncio", "uvloop"):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            starts = [await seconds_to_ready(directory, loop) for _ in range(STARTS)]
            ready, rss = (statistics.median(column) for column in zip(*starts, strict=True))
            rows.setdefault("start to ready, s (median of 5)", []).append(f"{ready:.2f}")
            rows.setdefault("resident memory, idle, MB", []).append(f"{rss:.1f}")
            async with (
                running_sandbox("--loop", loop) as sandbox,
                running_daemon(directory, sandbox.url, loop=loop) as daemon,
            ):
                taken = await latencies_ms(daemon)
                await until(daemon.drained, "everything is delivered")
                for share in (50, 99):
                    row = f"`POST /track/event` at {RATE_PER_SECOND}/s, delivering meanwhile, p{share}, ms"
                    rows.setdefault(row, []).append(f"{taken[len(taken) * share // 100]:.2f}")
                rows.setdefault("resident memory after that, MB", []).append(f"{daemon.rss_bytes() / 1e6:.1f}")
                wall, cpu = await sandbox_rate(sandbox)
                rows.setdefault("sandbox, requests/s", []).append(f"{wall:.0f}")
                rows.setdefault("sandbox, requests per second of one core", []).append(f"{cpu:.0f}")
    for figure, values in rows.items():
        print(f"| {figure} | {' | '.join(values)} |")


if __name__ == "__main__":
    asyncio.run(main())
