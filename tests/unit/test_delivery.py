"""Delivery, in virtual time, over a buffer in memory and a post that comes to what the test wants.

What the engine decides is tested with the engine; here it is that the workers carry it out, all of them together. Unless a
test says otherwise, events are delivered in any order, so that each is a lane of its own, and the breaker is out of reach.
"""

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest

from forwarder.buffer.base import Stored
from forwarder.buffer.fates import DeadLettered, HandedOver
from forwarder.delivery.engine import WINDOW_EVENTS_PER_PERMIT
from forwarder.delivery.worker import LAST_ACKS_SECONDS, Delivery, Progress
from forwarder.event import Event, by_customer, each_alone
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Rejected, Retryable
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeliverySettings
from forwarder.words import RetryableReason
from tests.fakes.buffers import ObservedBuffer, memory_buffer
from tests.fakes.events import EventMaker, counted, ids
from tests.fakes.posts import Attempt, ScriptedPost, network_error
from tests.fakes.virtual_time import in_virtual_time, now, turns

RETRY_REASONS: tuple[RetryableReason, ...] = (
    "network",
    "timeout",
    "status_408",
    "status_425",
    "status_429",
    "status_5xx",
)
MIB = 1024 * 1024
FAR_SECONDS = 3600.0


@pytest.fixture(autouse=True)
def same_delays_each_time() -> Iterator[None]:
    """The delays of the retries follow from a seed, so that a failing run can be seen again."""
    before = random.getstate()
    random.seed(20261123)
    yield
    random.setstate(before)


@dataclass
class Running:
    """A delivery that is serving, and all that is around it."""

    delivery: Delivery
    buffer: ObservedBuffer
    post: ScriptedPost
    telemetry: Telemetry
    make: EventMaker
    serving: asyncio.Task[None]
    settings: DeliverySettings

    async def put(self, events: Sequence[Event]) -> list[Event]:
        assert await self.buffer.put(events, intake="http") == Stored()
        return list(events)

    async def until(self, condition: Callable[[], object], *, seconds: float = 3600.0) -> None:
        """Let virtual time pass until the condition holds."""
        deadline = now() + seconds
        while not condition():
            assert not self.serving.done(), "serve ended"
            assert now() < deadline, f"waited {seconds} virtual seconds in vain"
            await asyncio.sleep(0.005)

    async def until_empty(self, *, seconds: float = 3600.0) -> None:
        await self.until(lambda: self.buffer.occupancy().events == 0, seconds=seconds)


@asynccontextmanager
async def delivering(
    post: ScriptedPost,
    *,
    max_concurrency: int = 4,
    retry_seconds: tuple[float, float] = (0.5, 60.0),
    commit_seconds: float = 0.0,
    take_seconds: float = 0.0,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve while the block runs; then nothing of it is left, and the ledger balances."""
    telemetry = Telemetry()
    chosen = {"order": "none", "breaker_failures": 10**9, "max_age_seconds": 1e12, **settings}
    inner = memory_buffer(telemetry, now, lane_of=each_alone if chosen["order"] == "none" else by_customer)
    buffer = ObservedBuffer(inner, commit_seconds=commit_seconds, take_seconds=take_seconds)
    initial, maximum = retry_seconds
    delivery_settings = DeliverySettings(
        max_concurrency=max_concurrency, retry_initial_seconds=initial, retry_max_seconds=maximum, **chosen
    )
    delivery = Delivery(delivery_settings, buffer=buffer, post=post, telemetry=telemetry)
    others = asyncio.all_tasks()
    serving = asyncio.create_task(delivery.serve())
    try:
        yield Running(delivery, buffer, post, telemetry, EventMaker(), serving, delivery_settings)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        attempts, parked = len(post.attempts), delivery.progress().parked
        await asyncio.sleep(10 * FAR_SECONDS)
        assert len(post.attempts) == attempts, "an attempt was made after the end of serve"
        assert delivery.progress().parked == parked, "a timer went off after the end of serve"
        assert asyncio.all_tasks() == others
        assert inner.ledger().unaccounted == 0


def failing(*events: int, with_: Outcome | None = None) -> Callable[[Attempt], Outcome]:
    """A script by which these events always fail, and the others succeed."""
    return lambda attempt: (with_ or network_error()) if attempt.event in events else DELIVERED


def first_attempts_fail(number: int, with_: Outcome, then: Outcome = DELIVERED) -> Callable[[Attempt], Outcome]:
    return lambda attempt: with_ if attempt.number <= number else then


def ordered(attempts: Iterable[Attempt]) -> list[int]:
    return [attempt.event for attempt in attempts]


# From outcome to fate


@in_virtual_time
async def test_a_delivered_event_is_acked_as_delivered_after_one_attempt() -> None:
    async with delivering(ScriptedPost()) as running:
        events = await running.put(running.make.of("abc"))
        await running.until_empty()
        assert sorted(running.buffer.acked) == [(event.id, HandedOver()) for event in events]
        assert len(running.post.attempts) == 3
        assert counted(running.telemetry, "events_delivered_total") == 3
        assert counted(running.telemetry, "delivery_attempts_total", outcome="delivered") == 3
        assert counted(running.telemetry, "delivery_attempt_duration_seconds_count") == 3


@pytest.mark.parametrize("status", [400, 413, 422])
@in_virtual_time
async def test_a_rejected_event_becomes_a_dead_letter_with_its_story_and_is_never_tried_again(status: int) -> None:
    answer = b"because " * 1000
    bad = first_attempts_fail(2, network_error(), Rejected(status, answer))
    async with delivering(ScriptedPost(lambda attempt: bad(attempt) if attempt.event == 2 else DELIVERED)) as running:
        _, event = await running.put(running.make.of("ba"))
        await running.until_empty()
        (_, (event_id, fate)) = running.buffer.acked
        assert event_id == event.id
        assert isinstance(fate, DeadLettered)
        assert (fate.reason, fate.status, fate.answer, fate.attempts) == ("rejected", status, answer[:2048], 3)
        assert time.time() - 60 < fate.first_attempt_at <= fate.last_attempt_at <= time.time()
        assert len(running.post.of(event.id)) == 3
        assert counted(running.telemetry, "events_dead_lettered_total", reason="rejected") == 1
        assert counted(running.telemetry, "events_delivered_total") == 1
        assert counted(running.telemetry, "delivery_attempts_total", outcome="rejected") == 1


@pytest.mark.parametrize("reason", RETRY_REASONS)
@in_virtual_time
async def test_a_retryable_event_is_tried_until_it_is_delivered(reason: RetryableReason) -> None:
    post = ScriptedPost(first_attempts_fail(3, Retryable(reason, maybe_delivered=False)))
    async with delivering(post) as running:
        (event,) = await running.put(running.make.of("a"))
        await running.until_empty()
        assert running.buffer.acked == [(event.id, HandedOver())]
        assert len(post.attempts) == 4
        assert counted(running.telemetry, "delivery_retries_total", reason=reason) == 3
        assert counted(running.telemetry, "delivery_attempts_total", outcome="retryable") == 3
        assert counted(running.telemetry, "delivery_attempts_total", outcome="delivered") == 1


@pytest.mark.parametrize("status", [301, 401, 403, 404, 499])
@in_virtual_time
async def test_a_blocked_event_is_kept_and_tried_again(status: int) -> None:
    async with delivering(ScriptedPost(first_attempts_fail(2, Blocked(status, "key")))) as running:
        (event,) = await running.put(running.make.of("a"))
        await running.until_empty()
        assert running.buffer.acked == [(event.id, HandedOver())]
        assert counted(running.telemetry, "delivery_attempts_total", outcome="blocked") == 2
        assert counted(running.telemetry, "possible_duplicates_total") == 0


@pytest.mark.parametrize(("maybe_delivered", "duplicates"), [(True, 2), (False, 0)])
@in_virtual_time
async def test_a_possible_duplicate_is_counted_only_if_the_event_may_have_arrived(
    maybe_delivered: bool, duplicates: int
) -> None:
    script = first_attempts_fail(2, network_error(maybe_delivered=maybe_delivered))
    async with delivering(ScriptedPost(script)) as running:
        await running.put(running.make.of("a"))
        await running.until_empty()
        assert counted(running.telemetry, "possible_duplicates_total") == duplicates


@in_virtual_time
async def test_every_attempt_of_a_mixed_crowd_is_counted_once_by_what_it_came_to() -> None:
    outcomes: list[Outcome] = [DELIVERED, Rejected(400), network_error(), Blocked(401, "key")]
    came_to: Counter[type[Outcome]] = Counter()

    def script(attempt: Attempt) -> Outcome:
        bad = attempt.event % 4 == 1 or attempt.number == 1
        outcome = outcomes[attempt.event % 4] if bad else DELIVERED
        came_to[type(outcome)] += 1
        return outcome

    async with delivering(ScriptedPost(script)) as running:
        await running.put(running.make.of("a" * 400))
        await running.until_empty()
        ledger = running.buffer.ledger()
        assert (ledger.delivered, sum(ledger.dropped.values())) == (300, 0)
        assert ledger.dead_lettered == {"rejected": 100, "expired": 0, "ambiguous": 0}
        totals = {
            outcome: counted(running.telemetry, "delivery_attempts_total", outcome=outcome)
            for outcome in ("delivered", "rejected", "retryable", "blocked")
        }
        assert totals == {
            "delivered": 300,
            "rejected": came_to[Rejected],
            "retryable": 100,
            "blocked": 100,
        }
        assert sum(came_to.values()) == len(running.post.attempts) >= 600


@in_virtual_time
async def test_events_that_succeed_at_once_never_meet_the_retry_schedule() -> None:
    """Seen by the interpreter's profiling hook: not one call into tenacity or into the schedule."""
    met: list[str] = []

    def watch(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and ("tenacity" in name or frame.f_code.co_qualname.startswith("RetrySchedule.")):
            met.append(f"{name}:{frame.f_code.co_name}")

    script = failing(1001)
    async with delivering(ScriptedPost(script)) as running:
        sys.setprofile(watch)
        try:
            await running.put(running.make.of("a" * 1000))
            await running.until_empty()
            assert met == []
            await running.put(running.make.of("a"))
            await running.until(lambda: len(running.post.of(1001)) == 2)
        finally:
            sys.setprofile(None)
        assert any("tenacity" in name for name in met), "the hook does not see what it should"


# Order, and how many at a time


@in_virtual_time
async def test_one_at_a_time_means_in_the_order_of_acceptance() -> None:
    async with delivering(ScriptedPost(), max_concurrency=1) as running:
        events = await running.put(running.make.of("abc" * 50))
        await running.until_empty()
        assert ordered(running.post.attempts) == ids(events)


@pytest.mark.parametrize("max_concurrency", [1, 2, 7, 64])
@in_virtual_time
async def test_there_are_never_more_attempts_at_a_time_than_allowed_and_as_many_if_there_is_work(
    max_concurrency: int,
) -> None:
    post = ScriptedPost(lambda attempt: network_error() if (attempt.event + attempt.number) % 20 == 0 else DELIVERED)
    async with delivering(post, max_concurrency=max_concurrency) as running:
        post.watch = lambda: attempting.append(running.delivery.progress().attempting)
        attempting: list[int] = []
        await running.put(running.make.of("a" * 100 * max_concurrency))
        await running.until_empty()
        assert post.most_on_wire == max_concurrency
        assert max(attempting) == max_concurrency


@in_virtual_time
async def test_many_parked_events_that_are_due_together_do_not_exceed_the_permits() -> None:
    back = now() + 100.0
    post = ScriptedPost(lambda _: DELIVERED if now() > back else network_error(), seconds=5.0)
    async with delivering(post, max_concurrency=8, retry_seconds=(0.001, 0.001)) as running:
        await running.put(running.make.of("a" * 300))
        await running.until(lambda: now() > back)
        assert 1 < post.most_on_wire <= 8


@in_virtual_time
async def test_attempts_go_on_while_acks_are_committed_and_at_most_twice_the_permits_are_in_flight() -> None:
    post = ScriptedPost(seconds=0.01)
    async with delivering(post, max_concurrency=5, commit_seconds=0.01) as running:
        seen: list[Progress] = []
        post.watch = lambda: seen.append(running.delivery.progress())
        began = now()
        await running.put(running.make.of("a" * 500))
        await running.until_empty()
        assert max(progress.in_flight for progress in seen) <= 10
        assert max(progress.attempting for progress in seen) == 5
        assert now() - began < 500 / 5 * 0.01 * 1.3, "attempts waited for commits, which would make it twice as long"


@in_virtual_time
async def test_slow_commits_hold_at_most_twice_the_permits_in_flight_and_stop_nothing_for_good() -> None:
    def script(attempt: Attempt) -> Outcome:
        return network_error() if attempt.event % 5 == 0 and attempt.number < 3 else DELIVERED

    post = ScriptedPost(script, seconds=0.001)
    async with delivering(post, max_concurrency=5, commit_seconds=1.0) as running:
        in_flight: list[int] = []
        post.watch = lambda: in_flight.append(running.delivery.progress().in_flight)
        await running.put(running.make.of("a" * 200))
        await running.until_empty()
        assert max(in_flight) <= 10


@in_virtual_time
async def test_events_that_come_after_a_lull_are_delivered_at_once() -> None:
    async with delivering(ScriptedPost()) as running:
        for _ in range(3):
            await running.put(running.make.of("ab"))
            await running.until_empty(seconds=0.1)
            await asyncio.sleep(FAR_SECONDS)


@in_virtual_time
async def test_the_buffer_is_asked_once_for_all_that_is_put_in_one_turn_and_once_for_an_event_alone() -> None:
    async with delivering(ScriptedPost(), max_concurrency=8) as running:
        await asyncio.sleep(1.0)
        assert running.buffer.takes == 1
        for number, times in enumerate((1, 1, 10), start=2):
            for _ in range(times):
                running.buffer.begin_put(running.make(), intake="http")
            await running.until_empty()
            await asyncio.sleep(1.0)
            assert running.buffer.takes == number
        assert len(running.post.attempts) == 12


@in_virtual_time
async def test_while_no_ack_is_committed_delivery_pauses_with_twice_the_permits_in_flight() -> None:
    async with delivering(ScriptedPost(), max_concurrency=5, commit_seconds=100.0) as running:
        began = now()
        await running.put(running.make.of("a" * 30))
        await asyncio.sleep(50.0)
        assert len(running.post.attempts) == 10
        assert running.delivery.progress() == Progress(parked=0, in_flight=10, attempting=0)
        before = turns()
        await asyncio.sleep(25.0)
        assert turns() - before <= 2, "it waits for nothing but the commit"
        await running.until_empty(seconds=500.0)
        assert now() - began == pytest.approx(300.0, rel=0.01)


@in_virtual_time
async def test_delivery_that_has_nothing_to_do_takes_no_turn_of_the_loop() -> None:
    async with delivering(ScriptedPost(), max_concurrency=8) as running:
        for events in ("", "a", "b" * 100):
            await running.put(running.make.of(events))
            await running.until_empty()
            await asyncio.sleep(1.0)
            before = turns()
            await asyncio.sleep(10 * FAR_SECONDS)
            assert turns() - before <= 2, "but for those of this test"


@in_virtual_time
async def test_while_one_attempt_is_under_way_or_waits_for_its_retry_delivery_takes_no_turn_of_the_loop() -> None:
    post = ScriptedPost(first_attempts_fail(1, network_error()), seconds=100.0)
    async with delivering(post, max_concurrency=8, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put(running.make.of("a"))
        for _ in ("on the wire", "parked"):
            await asyncio.sleep(25.0)
            before = turns()
            await asyncio.sleep(50.0)
            assert turns() - before <= 2, "but for those of this test"
            await asyncio.sleep(50.0)
        assert running.delivery.progress().parked


@in_virtual_time
async def test_there_are_no_more_workers_than_are_of_use_and_they_live_on() -> None:
    def workers() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("delivery worker")}

    async with delivering(ScriptedPost(), max_concurrency=64) as running:
        assert workers() == set()
        for _ in range(10):
            await running.put(running.make.of("a"))
            await running.until_empty()
        assert workers() == {"delivery worker 0"}
        await running.put(running.make.of("a" * 1000))
        await running.until_empty()
        many = workers()
        assert running.post.most_on_wire <= len(many) <= 64
        await asyncio.sleep(FAR_SECONDS)
        assert workers() == many


# Waiting for a retry


@in_virtual_time
async def test_an_event_that_waits_for_its_retry_holds_neither_permit_nor_worker() -> None:
    """With one permit and two workers, seven parked events leave the way free for all others."""
    post = ScriptedPost(failing(*range(1, 8)))
    async with delivering(post, max_concurrency=1, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        bad = await running.put(running.make.of("a" * 7))
        good = await running.put(running.make.of("b" * 100))
        await running.until(lambda: len(running.buffer.acked) == 100, seconds=5.0)
        assert ids(bad) == ordered(post.attempts[:7])
        assert [event for event, _ in running.buffer.acked] == ids(good)
        await running.until(lambda: running.delivery.progress() == Progress(parked=7, in_flight=0, attempting=0))


@in_virtual_time
async def test_large_events_that_wait_for_a_retry_do_not_keep_small_ones_from_being_delivered() -> None:
    """Eight of a mebibyte fill the bytes of the window though they are far from half of its events."""
    post = ScriptedPost(failing(*range(1, 9)))
    async with delivering(post, max_concurrency=64, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put([running.make(size_bytes=MIB) for _ in range(8)])
        await running.put(running.make.of("b" * 100))
        await running.until(lambda: len(running.buffer.acked) == 100, seconds=5.0)


@in_virtual_time
async def test_one_huge_event_that_waits_for_a_retry_does_not_keep_small_ones_from_being_delivered() -> None:
    """One alone that is larger than the window's bytes, as intake.max_body_bytes allows."""
    async with delivering(ScriptedPost(failing(1)), retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put([running.make(size_bytes=9 * MIB)])
        await running.put(running.make.of("b" * 100))
        await running.until(lambda: len(running.buffer.acked) == 100, seconds=5.0)


@in_virtual_time
async def test_a_huge_event_behind_a_small_one_is_delivered_as_soon_as_that() -> None:
    async with delivering(ScriptedPost()) as running:
        await running.put([running.make(), running.make(size_bytes=9 * MIB), running.make()])
        await running.until_empty(seconds=0.1)


@in_virtual_time
async def test_each_retry_begins_within_its_own_backoff_whatever_the_others_wait_for() -> None:
    """Events join over a minute, so that first retries and tenth ones wait side by side."""
    post = ScriptedPost(lambda attempt: DELIVERED if attempt.number == 10 else network_error(), seconds=0.0)
    async with delivering(post, max_concurrency=64, retry_seconds=(0.5, 60.0)) as running:
        for _ in range(60):
            await running.put(running.make.of("abcde"))
            await asyncio.sleep(1.0)
        await running.until_empty()
        shares: dict[int, list[float]] = {}
        for event in range(1, 301):
            for failed, retry in pairwise(running.post.of(event)):
                assert failed.ended is not None
                bound = min(60.0, 0.5 * 2 ** (failed.number - 1))
                waited = retry.began - failed.ended
                assert 0.0 <= waited <= bound + 1e-6
                shares.setdefault(failed.number, []).append(waited / bound)
        assert running.buffer.released == [], "so many as half of the window were parked: the test proves less"
        for of_one_number in shares.values():
            assert 0.4 < sum(of_one_number) / len(of_one_number) < 0.6


@in_virtual_time
async def test_a_retry_that_is_due_takes_its_turn_in_a_flood_of_new_events() -> None:
    post = ScriptedPost(lambda attempt: network_error() if attempt.event == 1 and attempt.number < 4 else DELIVERED)
    async with delivering(post, max_concurrency=1, retry_seconds=(1.0, 1.0)) as running:
        await running.put(running.make.of("a" * 5000))
        await running.until_empty()
        attempts = post.of(1)
        assert len(attempts) == 4
        assert attempts[-1].began - attempts[0].began < 3 * (1.0 + 3 * post.seconds)
        assert attempts[-1].began < post.attempts[-1].began - 10.0, "the flood was over before: the test proves nothing"


@in_virtual_time
async def test_a_flood_of_retries_leaves_new_events_their_turn() -> None:
    post = ScriptedPost(failing(*range(1, 8)), seconds=1.0)
    async with delivering(post, max_concurrency=1, retry_seconds=(0.001, 0.001)) as running:
        await running.put(running.make.of("a" * 7))
        await asyncio.sleep(50.0)
        await running.put(running.make.of("b" * 20))
        await running.until(lambda: len(running.buffer.acked) == 20, seconds=60.0)


# Lanes


def in_order_of_acceptance(running: Running, customers: dict[int, str]) -> bool:
    """Whether first attempts, by customer, rise, and each begins after the one before it has ended for good."""
    done: dict[str, int] = {}
    for attempt in running.post.attempts:
        customer = customers[attempt.event]
        if attempt.event < done.get(customer, 0):
            return False
        done[customer] = attempt.event
    return True


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.02, 0.0), (0.02, 0.03)])
@in_virtual_time
async def test_each_customers_events_are_delivered_in_order_although_attempts_fail_and_lanes_go_back(
    delays: tuple[float, float],
) -> None:
    """The window has room for half of the lanes, so that others go back to the buffer, which takes its time."""
    customers = [f"c{n % 40}" for n in range(800)]
    post = ScriptedPost(lambda a: network_error() if a.number <= a.event % 3 else DELIVERED)
    async with delivering(
        post,
        max_concurrency=2,
        retry_seconds=(1.0, 1.0),
        commit_seconds=delays[0],
        take_seconds=delays[1],
        order="customer",
    ) as running:
        events = await running.put(running.make.of(customers))
        await running.until_empty()
        by_event = {event.id: event.customer for event in events}
        assert in_order_of_acceptance(running, by_event)
        assert running.buffer.released, "none went back: the test proves less"
        on_wire: dict[str, float] = {}
        for attempt in post.attempts:
            customer = by_event[attempt.event]
            assert attempt.ended is not None
            assert attempt.began >= on_wire.get(customer, 0.0), "two of one customer at a time"
            on_wire[customer] = attempt.ended
        assert len(post.attempts) == sum(1 + event.id % 3 for event in events)


@in_virtual_time
async def test_without_an_order_no_event_waits_for_another_of_its_customer() -> None:
    """More of them fail than may be retried, so that some rest in the buffer; the others do not rest with them."""
    post = ScriptedPost(lambda attempt: network_error() if attempt.event % 2 else DELIVERED)
    async with delivering(post, max_concurrency=2, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put(running.make.of(["a"] * 400))
        await running.until(lambda: len(running.buffer.acked) == 200, seconds=10.0)
        assert running.buffer.released


@in_virtual_time
async def test_a_customer_with_very_many_events_that_fail_does_not_hold_back_the_others() -> None:
    post = ScriptedPost(lambda attempt: network_error() if attempt.event <= 20_000 else DELIVERED)
    async with delivering(post, max_concurrency=16, order="customer") as running:
        await running.put(running.make.of(["bad"] * 20_000))
        await running.put(running.make.of([f"c{n}" for n in range(1000)]))
        began = now()
        await running.until(lambda: len(running.buffer.acked) == 1000, seconds=60.0)
        assert now() - began < 2 * 1000 / 16 * post.seconds
        assert {attempt.event for attempt in post.attempts if attempt.event <= 20_000} == {1}


@in_virtual_time
async def test_a_customer_whose_events_were_left_out_comes_back_as_soon_as_its_lane_has_room() -> None:
    async with delivering(ScriptedPost(), max_concurrency=4, order="customer") as running:
        events = await running.put(running.make.of(["busy"] * 300))
        await running.until_empty(seconds=300 * 0.01 * 1.5)
        assert ordered(running.post.attempts) == ids(events)


@pytest.mark.timeout(300)  # it computes for a quarter of a minute, of which other work on the machine makes more
@pytest.mark.parametrize(
    ("failing_per_second", "failing"),
    [
        (100, 2_000),
        pytest.param(100, 10_000, marks=pytest.mark.soak),
        pytest.param(500, 10_000, marks=pytest.mark.soak),
    ],
)
@in_virtual_time
async def test_others_wait_hardly_longer_while_many_customers_fail(failing_per_second: int, failing: int) -> None:
    """Head of line: 100 customers a second are fine; first one fails, then so many others do, for a while."""
    bad: set[int] = set()
    began = now()
    over = began + 40.0 + failing / failing_per_second

    async def post_good(running: Running, *, seconds: float) -> dict[int, float]:
        put_at: dict[int, float] = {}
        until = now() + seconds
        while now() < until:
            (event,) = await running.put(running.make.of([f"good{len(put_at)}"]))
            put_at[event.id] = now()
            await asyncio.sleep(0.01)
        return put_at

    async def post_bad(running: Running) -> None:
        while len(bad) < failing:
            for _ in range(failing_per_second // 100):
                event = running.make(customer=f"bad{len(bad)}")
                bad.add(event.id)
                await running.put([event])
            await asyncio.sleep(0.01)

    def mean_latency(put_at: dict[int, float]) -> float:
        ended = {attempt.event: attempt.ended for attempt in post.attempts}
        return sum((ended[event] or 0.0) - at for event, at in put_at.items()) / len(put_at)

    post = ScriptedPost(lambda a: network_error() if a.event in bad and now() < over else DELIVERED, seconds=0.005)
    async with delivering(post, max_concurrency=64, order="customer") as running:
        alone = await post_good(running, seconds=10.0)
        bad.add((await running.put(running.make.of(["bad"])))[0].id)
        beside_one = await post_good(running, seconds=10.0)
        pouring = asyncio.create_task(post_bad(running))
        beside_many = await post_good(running, seconds=over - now())
        await pouring
        count = len(alone) + len(beside_one) + len(beside_many) + len(bad)
        await running.until(lambda: len(running.buffer.acked) == count)
        means = [mean_latency(put_at) for put_at in (alone, beside_one, beside_many)]
        print(
            "mean latency of the others, ms: {:.2f} alone, {:.2f} beside one, {:.2f} beside {:,}".format(
                *(1e3 * mean for mean in means), failing
            )
        )
        assert means[1] <= 1.2 * means[0]
        assert means[2] <= 1.2 * means[0]
        assert len([a for a in post.attempts if a.event in bad]) > 1.2 * failing, "they were hardly tried again"


# Ambiguity


@in_virtual_time
async def test_an_event_that_is_never_repeated_is_marked_before_each_attempt_and_dead_if_it_may_have_arrived() -> None:
    answers: dict[int, Outcome] = {
        1: DELIVERED,
        2: network_error(maybe_delivered=True),
        3: network_error(),
        4: Rejected(400),
    }
    post = ScriptedPost(lambda a: answers[a.event] if a.number == 1 else DELIVERED)
    async with delivering(post, on_ambiguous="dead_letter") as running:
        post.watch = lambda: marked.append(post.attempts[-1].event in running.buffer.marked)
        marked: list[bool] = []
        await running.put(running.make.of("abc"))
        await running.until_empty()
        await running.put(running.make.of("d"))
        await running.until_empty()
        fates_of = dict(running.buffer.acked)
        assert all(marked)
        assert fates_of[1] == fates_of[3] == HandedOver()
        assert isinstance(fates_of[2], DeadLettered)
        assert (fates_of[2].reason, fates_of[2].attempts) == ("ambiguous", 1)
        assert running.buffer.unmarked == [3], "its attempt ended in a way that says that it is not there"
        assert counted(running.telemetry, "possible_duplicates_total") == 0


@in_virtual_time
async def test_the_policy_of_an_events_name_wins_and_others_are_not_marked() -> None:
    post = ScriptedPost(lambda a: network_error(maybe_delivered=True) if a.number == 1 else DELIVERED)
    async with delivering(post, on_ambiguous_events={"Purchase": "dead_letter"}) as running:
        await running.put([running.make(name="Purchase"), running.make(name="Page View")])
        await running.until_empty()
        fates_of = dict(running.buffer.acked)
        assert isinstance(fates_of[1], DeadLettered)
        assert fates_of[2] == HandedOver()
        assert running.buffer.ever_marked == {1}
        assert counted(running.telemetry, "possible_duplicates_total") == 1


@pytest.mark.parametrize("unsent", [False, True])
@in_virtual_time
async def test_an_attempt_that_is_cancelled_leaves_its_event_pending_unless_it_is_never_repeated(unsent: bool) -> None:
    post = ScriptedPost(seconds=10.0)
    post.unsent = unsent
    async with delivering(post, on_ambiguous_events={"Purchase": "dead_letter"}) as running:
        await running.put([running.make(name="Purchase"), running.make(name="Page View")])
        await asyncio.sleep(1.0)
        running.serving.cancel()
        await asyncio.gather(running.serving, return_exceptions=True)
        assert [event for event, _ in running.buffer.acked] == ([] if unsent else [1])
        assert running.buffer.unmarked == ([1] if unsent else []), "what was never sent is not ambiguous"
        assert running.buffer.ledger().dead_lettered["ambiguous"] == (0 if unsent else 1)
        assert counted(running.telemetry, "possible_duplicates_total") == (0 if unsent else 1)


# Holds


@in_virtual_time
async def test_a_refused_key_holds_everything_and_a_new_one_is_tried_at_once() -> None:
    good = False
    post = ScriptedPost(lambda _: DELIVERED if good else Blocked(401, "key"))
    async with delivering(post, max_concurrency=8, probe_initial_seconds=1.0, probe_max_seconds=60.0) as running:
        await running.put(running.make.of("a" * 100))
        await asyncio.sleep(600.0)
        assert running.delivery.holds().keys() == {"auth"}
        assert running.delivery.limit == 1
        await running.until(lambda: (running.delivery.probe_seconds() or 0.0) >= 44.0, seconds=62.0)
        await asyncio.sleep(40.0)
        assert 3.9 <= (running.delivery.probe_seconds() or 0.0) <= 20.0, "it comes nearer"
        probes = len(post.attempts)
        assert probes <= 8 + 20
        good = True
        running.delivery.use_new_key()
        await running.until_empty(seconds=2.0)
        assert running.delivery.holds() == {}
        assert running.delivery.probe_seconds() is None
        assert running.buffer.ledger().dead_lettered == {"rejected": 0, "expired": 0, "ambiguous": 0}


@in_virtual_time
async def test_a_refusal_of_everything_makes_no_dead_letters_and_what_went_back_is_tried_when_it_ends() -> None:
    end = now() + 300.0
    post = ScriptedPost(lambda a: DELIVERED if (a.ended or 0.0) >= end else Rejected(400))
    async with delivering(post, max_concurrency=1, systemic_rejections=100, probe_max_seconds=5.0) as running:
        await running.put(running.make.of([f"c{n}" for n in range(200)]))
        await asyncio.sleep(290.0)
        assert running.buffer.released, "no suspect went back: the test proves less"
        assert running.delivery.holds().keys() == {"systemic"}
        await running.until_empty(seconds=100.0)
        assert running.buffer.ledger().delivered == 200


@in_virtual_time
async def test_the_rate_limit_is_kept_from_the_start_and_includes_retries() -> None:
    post = ScriptedPost(lambda a: network_error() if a.number == 1 else DELIVERED)
    async with delivering(post, max_concurrency=16, rate_limit_per_second=20.0) as running:
        began = now()
        await running.put(running.make.of("a" * 100))
        await running.until_empty()
        assert len(post.attempts) == 200
        for count, attempt in enumerate(post.attempts):
            assert count <= 20.0 * (attempt.began - began + 0.05) + 1
        assert now() - began == pytest.approx(10.0, rel=0.1)


@in_virtual_time
async def test_ending_the_waits_tries_what_is_parked_and_what_rests_at_once() -> None:
    bad = True
    post = ScriptedPost(lambda _: network_error() if bad else DELIVERED)
    async with delivering(post, max_concurrency=1, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put(running.make.of([f"c{n}" for n in range(50)]))
        await asyncio.sleep(30.0)
        assert running.delivery.progress().parked
        assert running.buffer.released
        bad = False
        await running.delivery.end_waits()
        await running.until_empty(seconds=5.0)


# When everything fails


@in_virtual_time
async def test_at_most_half_of_the_window_is_parked_and_the_others_are_tried_all_the_same() -> None:
    window = WINDOW_EVENTS_PER_PERMIT * 2
    post = ScriptedPost(lambda _: network_error())
    async with delivering(post, max_concurrency=2, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        parked: list[int] = []
        post.watch = lambda: parked.append(running.delivery.progress().parked)
        await running.put(running.make.of([f"c{n}" for n in range(500)]))
        await asyncio.sleep(30.0)
        assert running.delivery.progress().parked == window // 2
        assert max(parked) <= window // 2
        assert {attempt.event for attempt in post.attempts} == set(range(1, 501))
        assert len(post.attempts) <= 2 * 500


@in_virtual_time
async def test_more_events_that_always_fail_than_may_be_retried_do_not_stop_the_others() -> None:
    bad = range(1, 2 * WINDOW_EVENTS_PER_PERMIT)
    async with delivering(ScriptedPost(failing(*bad)), max_concurrency=1) as running:
        await running.put(running.make.of([f"c{n}" for n in range(len(bad) + 100)]))
        await running.until(lambda: len(running.buffer.acked) == 100, seconds=600.0)


@in_virtual_time
async def test_delivery_is_at_full_speed_again_as_soon_as_the_first_retries_succeed() -> None:
    """The pause of a window that is crowded with retries ends with the outage, not with the last retry."""
    end = now() + 60.0
    post = ScriptedPost(lambda attempt: DELIVERED if (attempt.ended or 0.0) >= end else network_error())
    async with delivering(post, max_concurrency=8) as running:
        await running.put(running.make.of([f"c{n}" for n in range(5000)]))
        await asyncio.sleep(60.0)
        tried = {attempt.event for attempt in post.attempts}
        untried = 5000 - len(tried)
        await running.until(lambda: len({event for event, _ in running.buffer.acked} - tried) == untried, seconds=30.0)


@in_virtual_time
async def test_an_event_that_goes_back_to_the_buffer_rests_there_for_its_backoff() -> None:
    post = ScriptedPost(lambda _: network_error())
    async with delivering(post, max_concurrency=1, retry_seconds=(100.0, 100.0)) as running:
        await running.put(running.make.of([f"c{n}" for n in range(100)]))
        await asyncio.sleep(300.0)
        assert len(running.buffer.released) > 5, "too few went back: the test proves nothing"
        for release in running.buffer.released:
            assert release.at <= release.not_before <= release.at + 100.0
            assert not [a for a in post.of(release.event) if release.at <= a.began < release.not_before]
        assert max(release.not_before - release.at for release in running.buffer.released) > 20.0


@in_virtual_time
async def test_an_outage_of_a_minute_costs_some_probes_and_is_followed_by_no_burst_and_loses_nothing() -> None:
    """10,000 events of 100 customers, 64 permits; every attempt is refused after 10 ms, then all is well again.

    Attempts: those on the wire when the breaker opens, and a probe after 1, 2, 4 ... seconds, each up to a quarter later.
    """
    end = now() + 60.0
    post = ScriptedPost(lambda attempt: DELIVERED if (attempt.ended or 0.0) >= end else network_error())
    async with delivering(post, max_concurrency=64, order="customer", breaker_failures=10) as running:
        events = await running.put(running.make.of([f"c{n % 100}" for n in range(10_000)]))
        await asyncio.sleep(60.0)
        during = len(post.attempts)
        assert running.delivery.holds().keys() == {"breaker"}
        await running.until_empty(seconds=300.0)
        seconds = Counter(int((attempt.began - end) * 10) for attempt in post.attempts if attempt.began >= end)
        tenths = [seconds[tenth] for tenth in sorted(seconds) if seconds[tenth] > 1]
        steady = statistics.median(tenths)
        print(
            f"outage of 60 s, 10,000 events, 64 permits: {during} attempts in it; then in tenths of a second {tenths}; "
            f"all delivered {now() - end:.0f} s after it"
        )
        assert sorted(event for event, _ in running.buffer.acked) == ids(events)
        assert all(fate == HandedOver() for _, fate in running.buffer.acked)
        assert post.most_on_wire <= 64
        assert during <= 64 + 10
        assert max(tenths) <= 2 * steady, "a burst"
        assert tenths[0] <= steady, "it starts slowly"
        assert now() - end <= 75.0 + 10_000 / 64 * 0.01 * 3


# The end


@in_virtual_time
async def test_cancelling_serve_leaves_every_event_without_an_answer_in_the_buffer() -> None:
    post = ScriptedPost(lambda attempt: network_error() if attempt.event <= 3 else DELIVERED, seconds=1.0)
    async with delivering(post, max_concurrency=4, retry_seconds=(FAR_SECONDS, FAR_SECONDS)) as running:
        await running.put(running.make.of("a" * 50))
        await asyncio.sleep(2.5)
        acked = len(running.buffer.acked)
        assert (acked, running.delivery.progress().parked, post.on_wire) == (5, 3, 4)
        running.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running.serving
        assert post.on_wire == 0
        ledger = running.buffer.ledger()
        assert (ledger.delivered, ledger.buffered, ledger.unaccounted) == (5, 45, 0)
        assert running.buffer.occupancy().events == 45
        await running.buffer.close()
        assert running.buffer.ledger().dropped["shutdown"] == 45


@pytest.mark.parametrize("turns", range(12))
@in_virtual_time
async def test_cancelling_at_any_moment_loses_and_doubles_nothing(turns: int) -> None:
    async with delivering(ScriptedPost(seconds=0.0), max_concurrency=2) as running:
        await running.put(running.make.of("abc"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.serving.cancel()
        await asyncio.gather(running.serving, return_exceptions=True)
        ledger = running.buffer.ledger()
        assert ledger.delivered + ledger.buffered == 3
        assert ledger.delivered == len(running.buffer.acked)
        assert ledger.unaccounted == 0


@pytest.mark.parametrize(("commit_seconds", "waits"), [(1.0, 1.0), (FAR_SECONDS, LAST_ACKS_SECONDS)])
@in_virtual_time
async def test_the_last_acks_are_committed_before_serve_ends_if_that_takes_no_longer_than_allowed(
    commit_seconds: float, waits: float
) -> None:
    async with delivering(ScriptedPost(), commit_seconds=commit_seconds) as running:
        await running.put(running.make.of("aa"))
        await running.until(lambda: running.delivery.progress().in_flight == 2, seconds=1.0)
        await running.until(lambda: running.delivery.progress().attempting == 0, seconds=1.0)
        ended = now()
        running.serving.cancel()
        await asyncio.gather(running.serving, return_exceptions=True)
        assert now() - ended == pytest.approx(waits, abs=0.1)
        assert running.buffer.ledger().delivered == (2 if commit_seconds == waits else 0)


@in_virtual_time
async def test_a_bug_in_post_ends_serve_with_it_and_leaves_the_events_in_the_buffer() -> None:
    bug = RuntimeError("a bug")
    async with delivering(ScriptedPost(lambda a: bug if a.event == 5 else DELIVERED), max_concurrency=2) as running:
        await running.put(running.make.of("a" * 20))
        with pytest.raises(ExceptionGroup) as caught:
            await running.serving
        assert caught.value.exceptions == (bug,)
        ledger = running.buffer.ledger()
        assert ledger.delivered + ledger.buffered == 20
        assert ledger.buffered >= 1
        assert 5 not in [event for event, _ in running.buffer.acked]
        assert ledger.unaccounted == 0
        assert running.post.on_wire == 0


@in_virtual_time
async def test_a_bug_in_the_buffer_ends_serve_with_it() -> None:
    async with delivering(ScriptedPost()) as running:
        bug = RuntimeError("a bug")
        running.buffer.bug = bug
        await running.put(running.make.of("a"))
        with pytest.raises(ExceptionGroup) as caught:
            await running.serving
        assert caught.value.exceptions == (bug,)


# Whether anything can move


def can_move_before(running: Running, deadline: float) -> bool:
    return running.delivery.can_move_before(deadline)


def earliest_move(running: Running) -> float:
    """Return the earliest deadline before which something can move, by asking again and again."""
    low, high = now(), now() + 100 * FAR_SECONDS
    assert can_move_before(running, high)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if can_move_before(running, middle) else (middle, high)
    return high


@in_virtual_time
async def test_nothing_can_move_where_nothing_is() -> None:
    async with delivering(ScriptedPost()) as running:
        assert not can_move_before(running, now() + FAR_SECONDS)
        await running.put(running.make.of("a"))
        await running.until_empty()
        await asyncio.sleep(1.0)
        assert not can_move_before(running, now() + FAR_SECONDS)


@in_virtual_time
async def test_an_event_that_was_only_put_can_move() -> None:
    async with delivering(ScriptedPost()) as running:
        await running.put(running.make.of("a"))
        assert can_move_before(running, now())


@in_virtual_time
async def test_an_attempt_on_the_wire_and_an_ack_that_is_committed_can_move() -> None:
    async with delivering(ScriptedPost(seconds=10.0), commit_seconds=10.0) as running:
        await running.put(running.make.of("a"))
        await asyncio.sleep(5.0)
        assert running.delivery.progress() == Progress(parked=0, in_flight=1, attempting=1)
        assert can_move_before(running, now())
        await asyncio.sleep(10.0)
        assert running.delivery.progress() == Progress(parked=0, in_flight=1, attempting=0)
        assert can_move_before(running, now())
        await asyncio.sleep(10.0)
        assert running.delivery.progress() == Progress(parked=0, in_flight=0, attempting=0)
        assert not can_move_before(running, now() + FAR_SECONDS)


@in_virtual_time
async def test_parked_events_can_move_exactly_from_the_moment_the_first_is_due() -> None:
    async with delivering(ScriptedPost(failing(1, 2, 3)), retry_seconds=(100.0, 100.0)) as running:
        await running.put(running.make.of("aaa"))
        await running.until(lambda: running.delivery.progress().parked == 3, seconds=1.0)
        assert not can_move_before(running, now())
        due = earliest_move(running)
        await running.until(lambda: len(running.post.attempts) == 4)
        assert running.post.attempts[3].began == pytest.approx(due, abs=1e-5)


@in_virtual_time
async def test_events_of_a_lane_that_has_its_share_of_the_window_cannot_move_before_its_first_one() -> None:
    async with delivering(ScriptedPost(failing(1)), retry_seconds=(1000.0, 1000.0), order="customer") as running:
        await running.put(running.make.of(["busy"] * 100))
        await running.until(lambda: running.delivery.progress().parked, seconds=1.0)
        await asyncio.sleep(1.0)
        assert not can_move_before(running, now() + 0.1)
        assert can_move_before(running, now() + 1000.0)


@in_virtual_time
async def test_events_that_rest_in_the_buffer_until_after_the_deadline_cannot_move_before_it() -> None:
    async with delivering(ScriptedPost(seconds=0.0)) as running:
        await running.put(running.make.of("aa"))
        running.serving.cancel()  # so that the test takes the events, and nobody else
        await asyncio.sleep(0.5)
        events = await running.buffer.take(max_events=2, max_bytes=1000)
        await running.buffer.release(events, not_before=now() + FAR_SECONDS)
        assert can_move_before(running, now() + 2 * FAR_SECONDS)
        assert not can_move_before(running, now() + FAR_SECONDS / 2)
