"""A short outage in the middle: afterwards everything is delivered soon, and a stop right then loses nothing."""

import json
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.system.processes import Daemon, Sandbox, example_event, running_daemon, running_sandbox, until
from tests.system.scripted_far_side import running_far_side

EVENTS = 3000
OUTAGE_SECONDS = 2


async def post_through_an_outage(daemon: Daemon, sandbox: Sandbox, customers: int) -> None:
    """Fill the window and more with events that fail, each a few times, and then end the outage."""
    events = [example_event(number) | {"customerId": f"c-{number % customers}"} for number in range(EVENTS)]
    await sandbox.faults(down=True)
    began = time.monotonic()
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        assert response.status == 202
    await until(lambda: time.monotonic() > began + OUTAGE_SECONDS, "the outage is over")
    assert (await daemon.ledger())["delivered"] == 0
    await sandbox.faults(down=False)


@pytest.mark.parametrize("customers", [1, 100, EVENTS])
async def test_all_is_delivered_soon_after_a_short_outage(tmp_path: Path, customers: int) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, delivery__retry_max_seconds=4) as daemon,
    ):
        await post_through_an_outage(daemon, sandbox, customers)
        await until(daemon.drained, "all is delivered", seconds=12)
        assert len(set(await sandbox.raw())) == EVENTS


@pytest.mark.parametrize("customers", [1, 100])
async def test_a_stop_right_after_a_short_outage_loses_nothing_of_a_memory_buffer(
    tmp_path: Path, customers: int
) -> None:
    """In the hold that is left of the outage it waits for the next probe, as that is the last chance."""
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, delivery__retry_max_seconds=4, buffer__kind="memory") as daemon,
    ):
        await post_through_an_outage(daemon, sandbox, customers)
        assert await daemon.stop() == 0
        assert len(set(await sandbox.raw())) == EVENTS


async def test_a_stop_in_an_outage_is_quick_where_no_probe_is_due_before_its_deadline_and_all_is_delivered_later(
    tmp_path: Path,
) -> None:
    slow_probes = {"delivery__probe_initial_seconds": 300, "delivery__probe_max_seconds": 300}
    async with running_sandbox() as sandbox:
        async with running_daemon(tmp_path, sandbox.url, shutdown__drain_seconds=100, **slow_probes) as daemon:
            await post_through_an_outage(daemon, sandbox, 100)
            await sandbox.faults(down=True)
            assert await daemon.stop(seconds=50) == 0
            assert daemon.lines[-1]["buffered"] + daemon.lines[-1]["delivered"] == EVENTS
        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url) as daemon:
            await until(daemon.drained, "all is delivered", seconds=12)
        assert len(set(await sandbox.raw())) == EVENTS


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_a_stop_waits_for_the_probes_of_a_short_hold_and_goes_on(tmp_path: Path, kind: str) -> None:
    """One answer in 700 is 429 with Retry-After: 1, as of a far side that limits the rate now and then."""
    answers = 0

    def script(number: int, times: int) -> int:
        nonlocal answers
        answers += 1
        return 429 if answers % 700 == 0 else 200

    async with (
        running_far_side(script, retry_after="1") as far,
        running_daemon(tmp_path, far.url, buffer__kind=kind, shutdown__drain_seconds=60) as daemon,
    ):
        events = [example_event(number) | {"customerId": f"c-{number}"} for number in range(EVENTS)]
        async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
            assert response.status == 202
        assert await daemon.stop(seconds=60) == 0
        assert sorted(far.stored) == list(range(EVENTS))
        assert daemon.lines[-1]["buffered"] == 0


async def test_a_stop_while_the_disk_commits_nothing_is_quick(tmp_path: Path) -> None:
    """What is delivered then would be sent again by the next process."""
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(
            tmp_path, sandbox.url, shutdown__drain_seconds=100, delivery__retry_max_seconds=0.5
        ) as daemon:
            events = [example_event(number) for number in range(50)]
            async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
                assert response.status == 202
            without = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, without[1]))
            await sandbox.faults(down=False)

            async def fails() -> bool:
                return bool((await daemon.metrics())['growlytics_forwarder_buffer_errors_total{operation="commit"}'])

            await until(fails, "it notices")
            assert await daemon.stop(seconds=50) == 0


async def test_what_rests_in_the_buffer_after_failing_counts_as_parked(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path, sandbox.url, shutdown__drain_seconds=0, delivery__breaker_failures=1_000_000
        ) as daemon,
    ):
        await sandbox.faults(down=True)
        events = [example_event(number) | {"customerId": f"c-{number}"} for number in range(EVENTS)]
        async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
            assert response.status == 202

        async def more_than_the_window_is_parked() -> bool:
            return bool((await daemon.status())["buffer"]["events"]["parked"] > 600)

        await until(more_than_the_window_is_parked, "what went back to the buffer is shown as parked")


async def test_an_event_expires_by_its_age_which_goes_on_while_no_process_runs(tmp_path: Path) -> None:
    settings = {
        "delivery__max_age_seconds": 3,
        "delivery__retry_initial_seconds": 0.1,
        "delivery__retry_max_seconds": 0.2,
        "delivery__breaker_failures": 1_000_000,
    }
    expired = 'growlytics_forwarder_events_dead_lettered_total{reason="expired"}'
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(tmp_path, sandbox.url, **settings) as daemon:
            async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
                assert response.status == 200
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 1.5, "it was tried for a while")
            assert (await daemon.metrics())[expired] == 0
            await daemon.stop(signal.SIGKILL)
        await until(lambda: time.monotonic() - began > 3.5, "it is old enough")
        async with running_daemon(tmp_path, sandbox.url, **settings) as daemon:
            await until(daemon.drained, "it is given up")
            assert (await daemon.metrics())[expired] == 1
        assert (await sandbox.counters())["requests"] > 3
