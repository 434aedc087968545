"""A key that is refused, and a refusal of everything: nothing is lost, nothing becomes a dead letter, nothing storms."""

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.system.processes import KEY, Daemon, Sandbox, example_event, running_daemon, running_sandbox, until
from tests.system.scripted_far_side import running_far_side

EVENTS = 10_000
HOLD = 'growlytics_forwarder_delivery_hold{cause="%s"}'
PROBES = {"delivery__probe_initial_seconds": 0.2, "delivery__probe_max_seconds": 0.8}


async def post(daemon: Daemon, events: list[dict[str, object]]) -> None:
    for first in range(0, len(events), 1000):
        body = json.dumps(events[first : first + 1000]).encode()
        async with daemon.http.post(f"{daemon.base}/v1/events", data=body) as response:
            assert response.status == 202, await response.text()


def dead_letters(metrics: dict[str, float]) -> float:
    return sum(value for series, value in metrics.items() if "events_dead_lettered_total{" in series)


async def read_anew(daemon: Daemon, times: int) -> bool:
    reloads = (await daemon.metrics())['growlytics_forwarder_config_reloads_total{result="changed"}']
    return bool(reloads == times)


async def test_a_key_that_is_revoked_in_the_middle_costs_some_probes_and_no_event(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    concurrency = 16
    async with (
        running_sandbox("--latency-ms", "5") as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            growlytics__api_key_file=key_file,
            delivery__max_concurrency=concurrency,
            **PROBES,
        ) as daemon,
    ):
        await post(daemon, [example_event(number) for number in range(EVENTS)])
        await until(lambda: delivered(daemon, EVENTS // 5), "part of it is delivered")
        before = await refused(sandbox)
        began = time.monotonic()
        await sandbox.use_key("the-new-key")
        await until(lambda: holds(daemon, "auth"), "the hold shows")
        await until(lambda: time.monotonic() > began + 4, "a while has passed")
        attempts = await refused(sandbox) - before
        seconds = time.monotonic() - began
        early = 10  # lanes that were not yet tried are probed soon, so many of them
        assert attempts <= concurrency + early + seconds / PROBES["delivery__probe_max_seconds"] + 3
        assert attempts >= 4, "it is probed"
        key_file.write_text("another-wrong-key")
        await until(lambda: read_anew(daemon, 1), "it is read")
        new = tmp_path / "new"
        new.write_text("the-new-key\n")
        new.replace(key_file)
        daemon.process.send_signal(signal.SIGHUP)
        await until(daemon.drained, "all is delivered", seconds=60)
        metrics = await daemon.metrics()
        print(f"{attempts} attempts in {seconds:.1f} s with a key that is refused")
        assert dead_letters(metrics) == 0
        assert metrics[HOLD % "auth"] == 0
        assert len(set(await sandbox.raw())) == EVENTS
        starts = [line for line in daemon.lines if line["message"].startswith("delivery paused")]
        ends = [line for line in daemon.lines if line["message"].startswith("delivery resumed")]
        assert [line["cause"] for line in starts] == [line["cause"] for line in ends] == ["auth"]
        assert await daemon.stop() == 0


async def delivered(daemon: Daemon, events: int) -> bool:
    return bool((await daemon.ledger())["delivered"] >= events)


async def refused(sandbox: Sandbox) -> int:
    return int((await sandbox.counters())["unauthorized"])


async def holds(daemon: Daemon, cause: str) -> bool:
    return bool((await daemon.metrics())[HOLD % cause]) and cause in (await daemon.status())["holds"]


@pytest.mark.parametrize("seconds_since_a_delivery", [0.0, 0.6])
async def test_a_refusal_of_everything_makes_hardly_any_dead_letters_and_all_else_is_delivered_after_it(
    tmp_path: Path, seconds_since_a_delivery: float
) -> None:
    """None where nothing was delivered lately, and else no more than tell a refusal of everything from some poison."""
    rejections = 10
    async with (
        running_sandbox("--latency-ms", "2") as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            delivery__systemic_seconds=0.5 if seconds_since_a_delivery else 60,
            delivery__systemic_rejections=rejections,
            **PROBES,
        ) as daemon,
    ):
        await post(daemon, [example_event(number) for number in range(500)])
        await until(daemon.drained, "all is delivered")
        await asyncio.sleep(seconds_since_a_delivery)
        await sandbox.faults(fail_rate=1, fail_status=400)
        await post(daemon, [example_event(number) for number in range(500, 5000)])
        await until(lambda: holds(daemon, "systemic"), "the hold shows")
        requests = (await sandbox.counters())["requests"]
        await asyncio.sleep(2)
        assert (await sandbox.counters())["requests"] - requests <= 2 / 0.2 + 2
        dead = 0 if seconds_since_a_delivery else rejections
        assert dead_letters(await daemon.metrics()) == dead
        await sandbox.faults(fail_rate=0)
        await until(daemon.drained, "all is delivered", seconds=60)
        assert dead_letters(await daemon.metrics()) == dead
        assert len(set(await sandbox.raw())) == 5000 - dead


async def test_poison_among_good_events_goes_and_nothing_else(tmp_path: Path) -> None:
    async with (
        running_far_side(lambda number, _: 400 if number % 100 == 0 else 200) as far,
        running_daemon(tmp_path, far.url, delivery__retry_initial_seconds=0.05) as daemon,
    ):
        await post(daemon, [example_event(number) for number in range(3000)])
        await until(daemon.drained, "all is decided", seconds=60)
        metrics = await daemon.metrics()
        assert metrics['growlytics_forwarder_events_dead_lettered_total{reason="rejected"}'] == 30
        assert Counter(far.stored) == Counter(number for number in range(3000) if number % 100)
