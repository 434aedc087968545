"""Delivery over a store that two forwarders share and that moves lanes between them, in virtual time."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.buffer.base import Stored
from forwarder.delivery.worker import Delivery, Post, Progress
from forwarder.event import Event
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Rejected, Retryable
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, DeliverySettings, ReceiptsSettings
from tests.fakes.events import EventMaker, counted, ids
from tests.fakes.far_store import FarBuffer, FarStore
from tests.fakes.virtual_time import in_virtual_time, now

CUSTOMERS = ("a", "b", "c", "d")
LOST = Retryable("timeout", maybe_delivered=True)
FAILED = Retryable("status_5xx", maybe_delivered=False)
OUTCOMES: tuple[Outcome, ...] = (
    *(8 * (DELIVERED,)),
    FAILED,
    LOST,
    Rejected(400),
    Blocked(401, "key"),
    Blocked(403, "refusal"),
    Retryable("status_429", maybe_delivered=False, retry_after_seconds=0.5),
)


@dataclass
class Fleet:
    """Two forwarders in front of one store, and one far side."""

    store: FarStore
    ordered: bool
    buffers: list[FarBuffer] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    telemetries: list[Telemetry] = field(default_factory=list)
    servings: list[asyncio.Task[None]] = field(default_factory=list)
    outcome: Callable[[], Outcome] = lambda: DELIVERED
    seconds: Callable[[], float] = lambda: 0.01
    connecting_seconds: Callable[[], float] = lambda: 0.0
    make: EventMaker = field(default_factory=EventMaker)
    customers: dict[int, str] = field(default_factory=dict)
    on_wire: Counter[str] = field(default_factory=Counter)
    begun: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)

    async def put(self, customers: Sequence[str], *, by: int = 0) -> list[Event]:
        events = self.make.of(customers)
        self.customers |= {event.id: event.customer for event in events}
        assert await self.buffers[by].put(events, intake="http") == Stored()
        return events

    async def post(self, by: int, body: bytes, may_leave: Callable[[], bool]) -> Outcome | None:
        event = int(body)
        if seconds := self.connecting_seconds():
            await asyncio.sleep(seconds)
        if not may_leave():
            return None
        customer = self.customers[event]
        assert self.store.owner(customer) is self.buffers[by], "an attempt began after its lane was revoked"
        assert not self.ordered or not self.on_wire[f"{by} {customer}"], (
            "two events of a lane are on the wire of one forwarder"
        )
        self.begun.append(event)
        self.on_wire[f"{by} {customer}"] += 1
        try:
            await asyncio.sleep(self.seconds())
        finally:
            self.on_wire[f"{by} {customer}"] -= 1
        outcome = self.outcome()
        if outcome == DELIVERED:
            self.arrived.append(event)
        return outcome

    async def until_empty(self) -> None:
        async with asyncio.timeout(100_000):
            while self.store.rows:
                await asyncio.sleep(0.1)
        await asyncio.sleep(100.0)


def poster(all_of_it: Fleet, number: int) -> Post:
    """Return how a forwarder posts."""

    async def post(body: bytes, may_leave: Callable[[], bool] | None = None, /) -> Outcome | None:
        assert may_leave is not None
        return await all_of_it.post(number, body, may_leave)

    return post


@asynccontextmanager
async def fleet(**settings: Any) -> AsyncIterator[Fleet]:
    """Serve with two forwarders while the block runs; then every count of theirs is 0, and the ledger balances."""
    all_of_it = Fleet(FarStore(), ordered=settings.get("order") != "none")
    serving = all_of_it.servings
    chosen = {
        "max_concurrency": 3,
        "max_age_seconds": 1e12,
        "retry_initial_seconds": 0.05,
        "retry_max_seconds": 1.0,
        **settings,
    }
    delivery_settings = DeliverySettings(probe_initial_seconds=0.05, probe_max_seconds=1.0, **chosen)
    for number in range(2):
        telemetry = Telemetry()
        buffer = FarBuffer(
            all_of_it.store,
            BufferSettings(),
            dead_letters=DeadLettersSettings(),
            telemetry=telemetry,
            receipts=Receipts(ReceiptsSettings(), clock=time.time),
            clock=now,
        )
        await buffer.open()

        delivery = Delivery(delivery_settings, buffer=buffer, post=poster(all_of_it, number), telemetry=telemetry)
        all_of_it.buffers.append(buffer)
        all_of_it.deliveries.append(delivery)
        all_of_it.telemetries.append(telemetry)
        serving.append(asyncio.create_task(delivery.serve()))
    try:
        yield all_of_it
        assert not any(task.done() for task in serving)
        for delivery in all_of_it.deliveries:
            assert delivery.progress() == Progress(parked=0, in_flight=0, attempting=0)
            lanes = delivery._lanes
            assert (lanes.events, lanes.bytes, lanes.ready, lanes._retried_events, lanes._retried_bytes) == (0,) * 5
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for buffer in all_of_it.buffers:
            await buffer.close()
    ledger = all_of_it.buffers[0].ledger()
    assert (ledger.unaccounted, ledger.buffered) == (0, len(all_of_it.store.rows))


def firsts(events: Sequence[int]) -> list[int]:
    """Return each event once, in the order in which it came first."""
    return list(dict.fromkeys(events))


@in_virtual_time
async def test_what_has_not_started_of_a_revoked_lane_leaves_and_the_other_forwarder_goes_on_with_it() -> None:
    async with fleet() as both:
        both.seconds = lambda: 10.0
        events = await both.put("aaab")
        await asyncio.sleep(1.0)
        assert both.begun == [1, 4]
        await both.store.move({"a"}, both.buffers[1])
        await asyncio.sleep(1.0)
        assert both.deliveries[0].progress() == Progress(parked=0, in_flight=1, attempting=2), "a's is not ours"
        await both.until_empty()
        assert firsts(both.arrived) == [1, 4, 2, 3]
        assert both.buffers[0].ledger().delivered == len(events)


@in_virtual_time
async def test_a_lane_that_comes_back_waits_for_the_attempt_from_before() -> None:
    async with fleet() as both:
        both.seconds = lambda: 10.0
        await both.put("aa")
        await asyncio.sleep(1.0)
        await both.store.move({"a"}, both.buffers[1])
        await both.store.move({"a"}, both.buffers[0])
        both.seconds = lambda: 1.0
        await asyncio.sleep(5.0)
        assert both.begun[:1] == [1]
        assert both.on_wire["0 a"] == 1, "the attempt from before, and no other"
        await both.until_empty()
        assert firsts(both.arrived) == [1, 2]


@in_virtual_time
async def test_an_event_whose_lane_is_revoked_while_its_attempt_connects_is_not_sent() -> None:
    async with fleet() as both:
        both.connecting_seconds = lambda: 5.0
        await both.put("ab")
        await asyncio.sleep(1.0)
        assert both.deliveries[0].progress().attempting == 2
        await both.store.move({"a"}, both.buffers[1])
        both.connecting_seconds = lambda: 0.0
        await asyncio.sleep(3.0)
        assert both.begun == [1], "by the other forwarder"
        await both.until_empty()
        assert both.begun == [1, 2]
        assert counted(both.telemetries[0], "delivery_attempts_total", outcome="delivered") == 1
        assert counted(both.telemetries[1], "delivery_attempts_total", outcome="delivered") == 1


@in_virtual_time
async def test_an_event_whose_lane_is_revoked_before_its_bytes_leave_is_no_attempt() -> None:
    async with fleet(on_ambiguous="dead_letter") as both:  # so it is marked first, which takes a moment
        both.store._delay = lambda: 1.0
        putting = asyncio.create_task(both.put("ab"))
        await asyncio.sleep(1.5)
        moving = asyncio.create_task(both.store.move({"a"}, None))
        await asyncio.sleep(10.0)
        assert both.begun == [2]
        assert counted(both.telemetries[0], "delivery_attempts_total", outcome="delivered") == 1
        assert both.deliveries[0].progress() == Progress(parked=0, in_flight=0, attempting=0)
        assert [row.mark for row in both.store.rows] == [None]
        await both.store.move({"a"}, both.buffers[0])
        await both.until_empty()
        assert both.arrived == [2, 1]
        assert ids(await putting) == [1, 2]
        await moving


@in_virtual_time
async def test_others_do_not_wait_until_an_event_that_was_not_started_is_unmarked() -> None:
    async with fleet(on_ambiguous="dead_letter", breaker_failures=1) as both:
        both.outcome = lambda: FAILED
        await both.put("bc")
        await asyncio.sleep(0.02)
        assert both.deliveries[0].holds()
        both.outcome = lambda: DELIVERED
        marked: list[tuple[float, str]] = []
        mark = both.buffers[0].mark

        async def slow_mark(events: Sequence[tuple[Event, int]]) -> None:
            marked.extend((now(), event.customer) for event, _ in events)
            await mark(events)
            await asyncio.sleep(20.0 if len(marked) == 1 else 0.0)  # so the lane is revoked before

        both.buffers[0].mark = slow_mark  # type: ignore[method-assign]  # this one is slow
        await both.put("a")
        both.store._delay = lambda: 5.0
        began = now()
        await asyncio.sleep(1.0)
        assert [customer for _, customer in marked] == ["a"], "the probe"
        await both.store.move({"a"}, both.buffers[1])
        await both.until_empty()
        assert marked[1][0] - began == pytest.approx(25.0, abs=0.1), "when the probe had not started; 30 when unmarked"


@in_virtual_time
async def test_a_bug_while_a_lane_is_revoked_ends_serve_with_it() -> None:
    bug = RuntimeError("a bug")

    def broken(customers: object) -> list[Event]:
        raise bug

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the fleet ends in it
        async with fleet() as both:
            both.deliveries[0]._lanes.revoke = broken  # type: ignore[method-assign]  # a bug
            await both.store.move({"a"}, both.buffers[1])
            await both.servings[0]
    assert caught.value.exceptions == (bug,)


@pytest.mark.parametrize("outcome", [DELIVERED, FAILED, LOST, Rejected(400), Blocked(401, "key")])
@in_virtual_time
async def test_whatever_an_attempt_of_a_revoked_lane_comes_to_only_the_next_owner_decides_of_the_event(
    outcome: Outcome,
) -> None:
    async with fleet() as both:
        both.seconds = lambda: 10.0
        both.outcome = lambda: outcome
        await both.put("a")
        await asyncio.sleep(1.0)
        await both.store.move({"a"}, both.buffers[1])
        await asyncio.sleep(10.0)  # the attempt has ended, and its ack was refused
        assert both.store.rows
        assert both.deliveries[0].progress() == Progress(parked=0, in_flight=0, attempting=0)
        both.outcome = lambda: DELIVERED
        await both.until_empty()
        assert both.buffers[0].ledger().delivered == 1


@in_virtual_time
async def test_an_ack_that_comes_before_anybody_else_has_the_lane_is_accepted() -> None:
    async with fleet() as both:
        both.seconds = lambda: 10.0
        await both.put("aa")
        await asyncio.sleep(1.0)
        await both.store.move({"a"}, None)
        await asyncio.sleep(20.0)
        assert both.arrived == [1]
        assert [row.event.id for row in both.store.rows] == [2]
        await both.store.move({"a"}, both.buffers[1])
        await both.until_empty()
        assert both.arrived == [1, 2]


instances = st.integers(0, 1)
some_customers = st.sets(st.sampled_from(CUSTOMERS), min_size=1, max_size=3)
courses = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.sampled_from(CUSTOMERS), min_size=1, max_size=8), instances),
        st.tuples(st.just("move"), some_customers, st.one_of(instances, st.none())),
        st.tuples(st.just("erase"), st.sampled_from(CUSTOMERS), instances),
        st.tuples(st.just("bury"), st.integers(0, 40), instances),
        st.tuples(st.just("wait"), st.floats(0.0, 0.3)),
        st.tuples(st.just("wait"), st.floats(0.0, 5.0)),
    ),
    min_size=5,
    max_size=30,
)


@given(
    course=courses,
    seed=st.integers(0, 2**32),
    order=st.sampled_from(["customer", "customer", "none"]),
    on_ambiguous=st.sampled_from(["retry", "dead_letter"]),
    breaker_failures=st.sampled_from([2, 10]),
)
def test_no_event_is_lost_and_order_is_kept_whatever_is_revoked_and_when(
    course: list[Any], seed: int, order: str, on_ambiguous: str, breaker_failures: int
) -> None:
    before = random.getstate()
    random.seed(seed)
    try:
        run_course(course, order=order, on_ambiguous=on_ambiguous, breaker_failures=breaker_failures)
    finally:
        random.setstate(before)


@in_virtual_time
async def run_course(  # noqa: C901 - a branch for each thing that may happen
    course: list[Any], *, order: str, on_ambiguous: str, breaker_failures: int
) -> None:
    async with fleet(order=order, on_ambiguous=on_ambiguous, breaker_failures=breaker_failures) as both:
        both.outcome = lambda: random.choice(OUTCOMES)
        both.seconds = lambda: random.choice([0.0, 0.001, 0.01, 0.3, 2.0])
        both.connecting_seconds = lambda: random.choice([0.0, 0.0, 0.0, 0.005, 0.5])
        moves: list[asyncio.Task[None]] = []
        moving: set[str] = set()

        async def move(customers: set[str], to: int | None) -> None:
            await both.store.move(customers, None if to is None else both.buffers[to])
            moving.difference_update(customers)

        async def act(what: str, how: list[Any]) -> None:
            if what == "put":
                await both.put(how[0], by=how[1])
            elif what == "erase":
                owner = both.store.owner(how[0])
                if owner is not None and how[0] not in moving:
                    await owner.erase(how[0])
            elif what == "bury":
                await both.deliveries[how[1]].bury(1 + how[0] % max(1, len(both.customers)))
            elif what == "move":
                customers = how[0] - moving
                moving.update(customers)
                moves.append(asyncio.create_task(move(customers, how[1])))
            else:
                await asyncio.sleep(how[0])

        for what, *how in course:
            await act(what, how)
        await asyncio.gather(*moves)
        both.outcome = lambda: DELIVERED
        for customer in CUSTOMERS:
            if both.store.owner(customer) is None:
                await both.store.move({customer}, both.buffers[1])
        await both.until_empty()
        if order == "customer":
            dead = {letter.event.id for _, letter in both.store.letters}  # though an attempt from before may yet arrive
            for customer in CUSTOMERS:
                own = [
                    event for event in firsts(both.arrived) if both.customers[event] == customer and event not in dead
                ]
                assert own == sorted(own)
        ledger = both.buffers[0].ledger()
        assert ledger.accepted == len(both.customers)
        assert ledger.delivered <= len(firsts(both.arrived))
        assert ledger.delivered + sum(ledger.dead_lettered.values()) + ledger.dropped["erased"] == ledger.accepted
