"""The real daemon on a machine whose clock is set while it runs."""

import sys
from pathlib import Path

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, starting_daemon, until

SITE = """
import os, time
real, file = time.time, os.environ["CLOCK_OFFSET_FILE"]
def shifted():
    with open(file) as offset:
        return real() + float(offset.read() or 0)
time.time = shifted
time.time_ns = lambda: int(shifted() * 1e9)
"""
"""Python runs it before anything else, so that the process sees another clock."""
TO_1970 = -1.7e9


async def post(daemon: Daemon, number: int) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
        assert response.status == 200


async def retried(daemon: Daemon) -> bool:
    return bool((await daemon.status())["delivery"]["attempts"]["retryable"] >= 10)


async def test_events_accepted_in_1970_are_delivered_after_the_clock_was_set_and_failed_attempts_and_a_restart(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    offset = tmp_path / "offset"
    command = ["env", f"PYTHONPATH={tmp_path}", f"CLOCK_OFFSET_FILE={offset}", sys.executable, "-m", "forwarder"]
    settings = {
        "delivery__retry_initial_seconds": 0.01,
        "delivery__retry_max_seconds": 0.05,
        "shutdown__drain_seconds": 0,
    }
    offset.write_text(str(TO_1970))
    async with running_sandbox("--fail-rate", "1", "--fail-status", "503") as sandbox:
        async with starting_daemon(
            tmp_path, sandbox.url, command, **settings, delivery__breaker_failures=100000
        ) as daemon:
            assert await daemon.until_ready()
            for number in range(3):
                await post(daemon, number)
            offset.write_text("0")
            await post(daemon, 3)
            await until(lambda: retried(daemon), "attempts fail after the clock was set")
            assert (await daemon.ledger())["dead_lettered"].get("expired", 0) == 0
            assert (await daemon.metrics())["growlytics_forwarder_buffer_oldest_event_age_seconds"] < 60
            assert await daemon.stop() == 0
        async with running_daemon(tmp_path, sandbox.url, **settings, delivery__breaker_failures=100000) as daemon:
            await until(lambda: retried(daemon), "attempts fail after the restart")
            await sandbox.faults(fail_rate=0.0)
            await until(daemon.drained, "all are delivered")
            ledger = await daemon.ledger()
            assert (ledger["delivered"], ledger["dead_lettered"].get("expired", 0)) == (4, 0)
