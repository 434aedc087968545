"""Each customer's events are delivered in the order of their acceptance, and no customer can hold back the others."""

import json
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.system.processes import Daemon, example_event, running_daemon, until
from tests.system.scripted_far_side import FarSide, running_far_side

CUSTOMERS = 50
EACH = 40
EVENTS = CUSTOMERS * EACH
FAST = {
    "delivery__breaker_failures": 1_000_000,
    "delivery__retry_initial_seconds": 0.02,
    "delivery__retry_max_seconds": 0.1,
}


def event(number: int) -> dict[str, object]:
    return example_event(number) | {"customerId": f"customer-{number % CUSTOMERS}"}


async def cpu_seconds(daemon: Daemon) -> float:
    return (await daemon.metrics())["process_cpu_seconds_total"]


async def post(daemon: Daemon, events: list[dict[str, object]]) -> None:
    async with daemon.http.post(f"{daemon.base}/v1/events", data=json.dumps(events).encode()) as response:
        assert response.status == 202, await response.text()


def have_come(far: FarSide, attempts: int) -> bool:
    return len(far.came) >= attempts


def first_arrivals_are_in_order(far: FarSide) -> bool:
    """Whether what came for the first time is, for each customer, in the order of acceptance."""
    first = list(dict.fromkeys(far.came))
    return all(
        numbers == sorted(numbers)
        for customer in range(CUSTOMERS)
        if (numbers := [number for number in first if number % CUSTOMERS == customer])
    )


@pytest.mark.parametrize("kills", [0, 8])
async def test_events_that_fail_twice_each_arrive_in_the_order_of_their_customers(tmp_path: Path, kills: int) -> None:
    moments = random.Random(kills)
    async with running_far_side(lambda _, time: (500, 500, 200)[min(time, 3) - 1]) as far:
        for number in range(kills):
            async with running_daemon(tmp_path, far.url, **FAST) as daemon:
                if number == 0:
                    await post(daemon, [event(number) for number in range(EVENTS)])
                goal = len(far.came) + moments.randrange(100, 500)
                await until(partial(have_come, far, goal), "some more attempts were made")
                await daemon.stop(signal.SIGKILL)
        async with running_daemon(tmp_path, far.url, **FAST) as daemon:
            if not kills:
                await post(daemon, [event(number) for number in range(EVENTS)])
            await until(daemon.drained, "all is delivered", seconds=60)
            assert (await daemon.metrics())["growlytics_forwarder_events_unaccounted"] == 0
    assert set(far.stored) == set(range(EVENTS))
    assert first_arrivals_are_in_order(far)
    again = len(far.stored) - EVENTS
    print(f"{kills} kills: {len(far.came)} attempts, {again} events stored twice")
    if kills:
        assert again <= kills * 128, "at most what was in flight"
    else:
        assert again == 0
        assert len(far.came) == 3 * EVENTS


@pytest.mark.parametrize("failing", [60_000, pytest.param(500_000, marks=pytest.mark.soak)])
async def test_a_customer_with_very_many_events_that_fail_holds_back_nobody(tmp_path: Path, failing: int) -> None:
    """Of very many events only the first is tried; 1,000 of others cost the daemon no more behind them than alone.

    So they do after a start, when all those events must be passed over in the file.
    """
    others = 1000
    settings = {"buffer__max_events": 1_000_000, "buffer__max_bytes": 1 << 30, "shutdown__drain_seconds": 0, **FAST}

    def event_of(number: int) -> dict[str, object]:
        return example_event(number) | {"customerId": "bad" if number < failing else f"good-{number}"}

    async def post_others(daemon: Daemon, first: int) -> float:
        """Return how many seconds the processor worked on them."""
        began = await cpu_seconds(daemon)
        await post(daemon, [event_of(number) for number in range(first, first + others)])
        await until(lambda: len(far.stored) >= first - failing + others, "the others are delivered", seconds=60)
        return await cpu_seconds(daemon) - began

    async with running_far_side(lambda number, _: 500 if number < failing else 200) as far:
        async with running_daemon(tmp_path, far.url, **settings) as daemon:
            alone = await post_others(daemon, failing)
            for first in range(0, failing, 2000):
                await post(daemon, [event_of(number) for number in range(first, first + 2000)])
            beside = await post_others(daemon, failing + others)

            async def only_those_are_left() -> bool:
                return bool((await daemon.ledger())["buffered"] == failing)

            await until(only_those_are_left, "what was delivered is acked")
            await daemon.stop(signal.SIGKILL)
        async with running_daemon(tmp_path, far.url, **settings) as daemon:
            first_after_start = await post_others(daemon, failing + 2 * others)
            after_start = await post_others(daemon, failing + 3 * others)
    print(
        f"1,000 events of 1,000 customers, CPU: {alone:.2f} s alone, {beside:.2f} s behind {failing:,} that fail; "
        f"after a start {first_after_start:.2f} s, and then {after_start:.2f} s"
    )
    assert beside < 4 * alone + 0.5
    assert after_start < 4 * alone + 0.5
    assert {number for number in far.came if number < failing} == {0}, "one at a time, and in order"
