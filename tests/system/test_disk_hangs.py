"""A disk that hangs stops neither the probes and metrics nor the timers, and nothing that was accepted is lost by it."""

import asyncio
import signal
import time
from pathlib import Path

import aiohttp

from tests.system.hanging_disks import hanging_disk
from tests.system.processes import COMMAND, Daemon, example_event, running_sandbox, starting_daemon, until

HANGS_SECONDS = 30.0
RETRYABLE = 'growlytics_forwarder_delivery_attempts_total{outcome="retryable"}'
RETRIES_ONLY = {
    "delivery__retry_initial_seconds": 0.1,
    "delivery__retry_max_seconds": 0.5,
    "delivery__breaker_failures": 1_000_000,  # so that attempts go on, as they would not in a hold
}
ANSWER_SECONDS = 15
"""A post is refused after 5; the machine may be busy."""


STOP_SECONDS = 40
"""The drain takes 1 and the rest at most 15, as systemd is told; the machine may be busy, and the disk hangs for longer."""


async def post(daemon: Daemon, number: int) -> int:
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    url = f"{daemon.base}/track/event"
    async with daemon.http.post(url, json=example_event(number), timeout=timeout) as response:
        await response.read()
        return response.status


async def answers(daemon: Daemon) -> bool:
    async with daemon.http.get(
        f"{daemon.admin}/livez", timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    ) as response:
        return response.status == 200


async def answer_to_half_a_head(daemon: Daemon) -> str:
    host, _, port = daemon.ready["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /track/event HTTP/1.1\r\nHost: localhost\r\n")
    async with asyncio.timeout(ANSWER_SECONDS):
        line = await reader.readline()
    writer.close()
    return line.decode()


async def test_a_disk_that_hangs_for_half_a_minute_stops_only_what_must_be_written(tmp_path: Path) -> None:
    disk = hanging_disk(tmp_path)
    async with (
        running_sandbox() as sandbox,
        starting_daemon(
            tmp_path, sandbox.url, [*disk.command, *COMMAND], intake__header_timeout_seconds=1, **RETRIES_ONLY
        ) as daemon,
    ):
        assert await daemon.until_ready(), daemon.lines
        await sandbox.faults(fail_rate=1)
        accepted = list(range(10))
        assert [await post(daemon, number) for number in accepted] == [200] * len(accepted)
        with disk.hanging():
            began = time.monotonic()
            assert set(await asyncio.gather(*(post(daemon, number) for number in range(10, 15)))) == {503}
            attempts = (await daemon.metrics())[RETRYABLE]
            assert await post(daemon, 15) == 503

            async def tries_again() -> bool:
                return (await daemon.metrics())[RETRYABLE] > attempts

            await until(tries_again, "an event is tried again")
            assert "408" in await answer_to_half_a_head(daemon)
            await sandbox.faults(fail_rate=0)
            while time.monotonic() - began < HANGS_SECONDS:
                assert await answers(daemon)
                await asyncio.sleep(0.5)
            assert await daemon.metrics()

        async def accepts() -> bool:
            return await post(daemon, 16) == 200

        await until(accepts, "the buffer accepts events again")
        await until(daemon.drained, "all is delivered")
        ledger = await daemon.ledger()
        arrived = await sandbox.raw()
        assert ledger["accepted"] == ledger["delivered"] == len(arrived) == len(set(arrived))
        assert ledger["unaccounted"] == 0
        assert all(any(f'"number-{number}"' in body for body in arrived) for number in [*accepted, 16])


async def test_a_daemon_whose_disk_hangs_can_be_stopped(tmp_path: Path) -> None:
    """And what it had accepted is delivered by the next one."""
    disk = hanging_disk(tmp_path)
    async with running_sandbox() as sandbox:
        await sandbox.faults(fail_rate=1)
        async with starting_daemon(
            tmp_path, sandbox.url, [*disk.command, *COMMAND], shutdown__drain_seconds=1, **RETRIES_ONLY
        ) as daemon:
            assert await daemon.until_ready(), daemon.lines
            assert [await post(daemon, number) for number in range(3)] == [200] * 3
            with disk.hanging():
                assert await post(daemon, 3) == 503
                assert await daemon.stop(signal.SIGTERM, seconds=STOP_SECONDS) == 0
        await sandbox.faults(fail_rate=0)
        async with starting_daemon(tmp_path, sandbox.url) as daemon:
            assert await daemon.until_ready(), daemon.lines
            await until(daemon.drained, "all is delivered")
        arrived = await sandbox.raw()
        assert len(arrived) == len(set(arrived)) >= 3
