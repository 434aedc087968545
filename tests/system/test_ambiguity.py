"""What may have arrived: sent again, or where a duplicate is worse than a loss, never again; also over a kill or a stop."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.system.processes import Daemon, Sandbox, example_event, running_daemon, running_sandbox, until
from tests.system.scripted_far_side import running_far_side

AMBIGUOUS = 'growlytics_forwarder_events_dead_lettered_total{reason="ambiguous"}'
CONFIG = """
[delivery.on_ambiguous_events]
"Purchase, paid" = "dead_letter"
"""


def event(number: int, name: str) -> dict[str, object]:
    return example_event(number) | {"name": name, "customerId": f"customer-{number}"}


async def post(daemon: Daemon, *events: dict[str, object]) -> None:
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        assert response.status == 202, await response.text()


@asynccontextmanager
async def daemon_with_policy(tmp_path: Path, url: str, **settings: object) -> AsyncIterator[Daemon]:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    async with running_daemon(tmp_path, url, config=config, **settings) as daemon:
        yield daemon


async def until_both_hang(sandbox: Sandbox) -> None:
    async def both() -> bool:
        return bool((await sandbox.counters())["in_flight"] == 2)

    await until(both, "both attempts are on the wire")


async def test_an_answer_that_is_lost_is_a_dead_letter_by_policy_and_else_a_possible_duplicate(tmp_path: Path) -> None:
    async with (
        running_far_side(lambda _, time: None if time == 1 else 200) as far,
        daemon_with_policy(tmp_path, far.url, delivery__retry_initial_seconds=0.05) as daemon,
    ):
        await post(daemon, event(1, "Purchase, paid"), event(2, "Page View"))
        await until(daemon.drained, "both are decided")
        metrics = await daemon.metrics()
        assert metrics[AMBIGUOUS] == 1
        assert metrics["growlytics_forwarder_possible_duplicates_total"] == 1
        assert far.times == {1: 1, 2: 2}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_an_attempt_that_the_end_of_the_process_cuts_off_is_repeated_unless_the_policy_forbids(
    tmp_path: Path, how: signal.Signals
) -> None:
    async with running_sandbox() as sandbox:
        await sandbox.faults(hang_rate=1)
        async with daemon_with_policy(tmp_path, sandbox.url, shutdown__drain_seconds=0) as daemon:
            await post(daemon, event(1, "Purchase, paid"), event(2, "Page View"))
            await until_both_hang(sandbox)
            code = await daemon.stop(how)
            if how == signal.SIGTERM:
                assert code == 0, "with the disk buffer nothing is lost"
                assert (daemon.lines[-1]["dead_lettered"]["ambiguous"], daemon.lines[-1]["buffered"]) == (1, 1)
        await sandbox.faults(hang_rate=0)
        async with daemon_with_policy(tmp_path, sandbox.url) as daemon:
            await until(daemon.drained, "the other one is delivered")
            ledger = (await daemon.status())["ledger"]["for_ever"]
            assert (ledger["delivered"], ledger["dead_lettered"]["ambiguous"]) == (1, 1)
            assert (await daemon.metrics())["growlytics_forwarder_events_unaccounted"] == 0
        assert [json.loads(body)["name"] for body in await sandbox.raw()] == ["Page View"]


async def test_an_event_that_failed_and_waits_is_no_longer_ambiguous_when_the_process_is_killed(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with daemon_with_policy(
            tmp_path, sandbox.url, delivery__retry_initial_seconds=60, delivery__breaker_failures=1000
        ) as daemon:
            await post(daemon, event(1, "Purchase, paid"))

            async def parked() -> bool:
                return bool((await daemon.status())["buffer"]["events"]["parked"])

            await until(parked, "it waits for its retry")
            await post(daemon, event(2, "Page View"))  # whose commit comes after the one that unmarks
            await daemon.stop(signal.SIGKILL)
        await sandbox.faults(down=False)
        async with daemon_with_policy(tmp_path, sandbox.url) as daemon:
            await until(daemon.drained, "both are delivered")
            assert (await daemon.metrics())[AMBIGUOUS] == 0
        assert len(await sandbox.raw()) == 2
