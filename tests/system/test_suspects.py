"""Events that something refuses beside others that are delivered: the others hardly notice, and the operator sees which."""

import asyncio
from pathlib import Path

import pytest

from tests.system.processes import Daemon, example_event, running_daemon, until
from tests.system.scripted_far_side import FarSide, running_far_side

CUSTOMERS = 200
PER_SECOND = 25


async def post_steadily(daemon: Daemon, events: int) -> dict[int, float]:
    """Post so many events, one after the other at a steady rate, and return when each was accepted."""
    loop = asyncio.get_running_loop()
    began, accepted = loop.time(), dict[int, float]()
    for number in range(events):
        await asyncio.sleep(began + number / PER_SECOND - loop.time())
        event = example_event(number) | {"customerId": f"c-{number % CUSTOMERS}"}
        async with daemon.http.post(f"{daemon.base}/track/event", json=event) as response:
            assert response.status == 200
        accepted[number] = loop.time()
    return accepted


def share_in_time(far: FarSide, accepted: dict[int, float], *, concerned: set[int]) -> float:
    """Return which part of the events of customers who are not concerned was delivered within a second."""
    others = [number for number in accepted if number % CUSTOMERS not in concerned]
    in_time = [number for number in others if far.stored_at.get(number, float("inf")) - accepted[number] <= 1.0]
    return len(in_time) / len(others)


@pytest.mark.parametrize(
    ("status", "seconds"),
    [(403, 5), pytest.param(403, 25, marks=pytest.mark.soak), pytest.param(451, 25, marks=pytest.mark.soak)],
)
async def test_customers_whose_events_are_not_refused_hardly_notice_those_that_always_are(
    tmp_path: Path, status: int, seconds: int
) -> None:
    async with (
        running_far_side(lambda number, _: status if number % 50 == 0 else 200) as far,
        running_daemon(tmp_path, far.url) as daemon,
    ):
        accepted = await post_steadily(daemon, PER_SECOND * seconds)
        await until(lambda: len(far.stored_at) >= 0.9 * len(accepted), "most are delivered", seconds=10)
        share = share_in_time(far, accepted, concerned={number % CUSTOMERS for number in accepted if number % 50 == 0})
        print(f"{share:.4f} of the others' events were delivered within a second")
        assert share >= 0.99
        current = await daemon.status()
        assert current["holds"] == {}
        assert current["delivery"]["suspects"]["first"]["status"] == status
        assert current["delivery"]["suspects"]["first"]["name"] == "Add To Cart"
        assert (await daemon.metrics())["growlytics_forwarder_delivery_suspects"] >= 1
        assert current["ledger"]["since_start"]["dead_lettered"] == {"rejected": 0, "expired": 0, "ambiguous": 0}


async def test_a_refused_event_becomes_a_dead_letter_where_others_are_delivered_and_one_that_is_not_for_long_does_not(
    tmp_path: Path,
) -> None:
    """Number 0 is refused always, number 1 four times."""

    def script(number: int, times: int) -> int:
        return 403 if number == 0 or (number == 1 and times <= 4) else 200

    fast = {
        "delivery__systemic_seconds": 1,
        "delivery__retry_initial_seconds": 0.05,
        "delivery__retry_max_seconds": 0.2,
        "delivery__probe_initial_seconds": 0.1,
    }
    async with running_far_side(script) as far, running_daemon(tmp_path, far.url, **fast) as daemon:
        posting = asyncio.create_task(post_steadily(daemon, 100), name="posting")
        await until(lambda: refused_for_good(daemon), "it is a dead letter", seconds=20)
        await posting
        await until(daemon.drained, "all else is delivered")
        assert set(far.stored) == set(range(1, 100))
        ledger = await daemon.ledger()
        assert (ledger["dead_lettered"]["rejected"], ledger["unaccounted"]) == (1, 0)
        assert any(line["message"].startswith("an event is refused") for line in daemon.lines)


async def refused_for_good(daemon: Daemon) -> bool:
    return bool((await daemon.ledger())["dead_lettered"]["rejected"])
