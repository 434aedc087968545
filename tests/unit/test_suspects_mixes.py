"""The rule of delivery/suspects.py in mixes of refusals, simulated with the whole engine in virtual time.

Pass marks: the dead letters are exactly the events that are always refused, and none where attempts are refused at random;
120 s after a fault the backlog is empty; a refusal of everything costs few attempts.
"""

import random
from collections.abc import Callable

import pytest

from forwarder.event import Event
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome
from forwarder.settings import DeliverySettings
from tests.fakes.engine_harness import BLOCKED, LOST, PAGE, REFUSED
from tests.fakes.far_side_mixes import Mix

ORDERS = ["customer", "none"]


def settings(order: str, **changed: object) -> DeliverySettings:
    return DeliverySettings(order=order, **changed)  # type: ignore[arg-type] # values of those settings


class Always:
    """A share of the events is always refused."""

    def __init__(self, share: float, *, what: Outcome = REFUSED) -> None:
        self._numbers = random.Random(f"always {share}")
        self._share, self._what = share, what
        self._is_bad: dict[int, bool] = {}

    def __call__(self, event: Event, _seconds: float) -> Outcome:
        if event.id not in self._is_bad:
            self._is_bad[event.id] = self._numbers.random() < self._share
        return self._what if self._is_bad[event.id] else DELIVERED

    @property
    def bad(self) -> set[int]:
        return {event_id for event_id, is_bad in self._is_bad.items() if is_bad}


def at_random(share: float) -> Callable[[Event, float], Outcome]:
    numbers = random.Random(f"at random {share}")
    return lambda _event, _seconds: REFUSED if numbers.random() < share else DELIVERED


def assert_recovered(mix: Mix) -> None:
    """Check that but for what came in just now all has left, and none as a dead letter."""
    assert mix.backlog <= 2
    assert mix.driver.dead == {}
    assert mix.driver.causes == set()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("what", [REFUSED, PAGE], ids=["403", "page"])
def test_the_dead_letters_are_exactly_the_events_that_are_always_refused(
    order: str, share: float, what: Blocked
) -> None:
    far_side = Always(share, what=what)
    mix = Mix(far_side, per_second=5, settings=settings(order)).run(300)
    refused = {event_id for event_id in far_side.bad if mix.accepted_at[event_id] < mix.driver.now - 120}
    dead = mix.driver.dead
    assert refused <= set(dead) <= far_side.bad
    assert set(dead.values()) <= {"ambiguous" if what == PAGE else "rejected"}
    assert len(refused) > 0


def test_an_event_that_is_always_answered_401_is_at_fault_itself_where_others_are_delivered() -> None:
    far_side = Always(0.02, what=BLOCKED)
    mix = Mix(far_side, per_second=5, settings=settings("customer")).run(300)
    refused = {event_id for event_id in far_side.bad if mix.accepted_at[event_id] < mix.driver.now - 150}
    assert refused <= set(mix.driver.dead) <= far_side.bad
    assert len(refused) > 5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_event_is_a_dead_letter_where_attempts_are_refused_at_random(order: str, share: float) -> None:
    mix = Mix(at_random(share), per_second=5, settings=settings(order)).run(300)
    assert mix.driver.dead == {}
    mix.answer = lambda _event, _seconds: DELIVERED
    assert_recovered(mix.run(120))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("customers", [2, 9, 200])
@pytest.mark.parametrize("seconds", [90, 600])
@pytest.mark.parametrize("begins", [0, 30])
@pytest.mark.parametrize("what", [REFUSED, PAGE], ids=["403", "page"])
def test_a_refusal_of_everything_makes_no_dead_letter_and_all_is_delivered_within_two_minutes_after_it(
    order: str, customers: int, seconds: int, begins: int, what: Blocked
) -> None:
    mix = Mix(
        lambda _event, now: what if begins <= now < begins + seconds else DELIVERED,
        per_second=1,
        customers=customers,
        settings=settings(order),
    )
    assert_recovered(mix.run(begins + seconds + 120))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("customers", [10, 15, 200])
@pytest.mark.parametrize("what", [REFUSED, PAGE, BLOCKED], ids=["403", "page", "401"])
def test_a_refusal_of_everything_costs_few_attempts(order: str, customers: int, what: Blocked) -> None:
    from_the_start = Mix(lambda _event, _now: what, customers=customers, settings=settings(order))
    from_the_start.post(150)
    from_the_start.run(7, posting=False)
    assert from_the_start.attempts.total() <= 40
    later = Mix(
        lambda _event, now: what if now >= 30 else DELIVERED,
        per_second=20,
        customers=customers,
        settings=settings(order),
    ).run(30)
    before, on_wire = later.attempts.total(), later.driver.limiter.in_flight
    later.post(150)
    later.run(7, posting=False)
    assert later.attempts.total() - before <= 40 + on_wire


@pytest.mark.parametrize("order", ORDERS)
def test_bursts_of_events_that_are_always_refused_hold_the_others_up_only_for_a_while(order: str) -> None:
    bad: set[int] = set()
    mix = Mix(lambda event, _now: REFUSED if event.id in bad else DELIVERED, customers=500, settings=settings(order))
    mix.run(20)
    for burst in (5, 15, 40, 150):
        first = len(mix.accepted_at) + 1
        bad |= set(range(first, first + burst))
        mix.post(burst)
        mix.run(80)
    mix.run(60)
    assert set(mix.driver.dead) == bad
    assert mix.backlog <= 2


@pytest.mark.parametrize("order", ORDERS)
def test_a_customer_whose_events_are_all_refused_is_no_others_concern(order: str) -> None:
    mix = Mix(
        lambda event, _now: REFUSED if event.customer == "c7" else DELIVERED, customers=50, settings=settings(order)
    ).run(300)
    of_c7 = {event_id for event_id, customer in mix.customer_by_id.items() if customer == "c7"}
    assert {event_id for event_id in of_c7 if mix.accepted_at[event_id] < mix.driver.now - 120} <= set(mix.driver.dead)
    assert set(mix.driver.dead) <= of_c7
    assert not set(mix.late(beyond_seconds=1.0)) - of_c7
    assert mix.held_seconds == 0.0


def test_where_only_one_customer_has_events_nothing_is_held_or_given_up_and_it_is_tried_every_minute() -> None:
    mix = Mix(lambda event, _now: REFUSED if event.id == 50 else DELIVERED, per_second=2, customers=1).run(600)
    assert (mix.driver.dead, mix.driver.causes) == ({}, set())
    assert mix.attempts[50] >= 12
    assert mix.left_at.keys() == set(range(1, 50))
    (suspect,) = [taken for taken in mix.driver.lanes.firsts() if taken.story.refusals]
    assert suspect.event.id == 50


@pytest.mark.parametrize("order", ORDERS)
def test_an_event_refused_beside_its_own_customers_others_is_at_fault_where_order_is_not_wanted(order: str) -> None:
    mix = Mix(
        lambda event, _now: REFUSED if event.id == 50 else DELIVERED,
        per_second=2,
        customers=1,
        settings=settings(order),
    ).run(200)
    assert mix.driver.dead == ({50: "rejected"} if order == "none" else {})


@pytest.mark.parametrize("latency_seconds", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("refused", [set(range(1, 626, 50)), {3, 77, 210, 300, 301, 455, 599}], ids=["50th", "any"])
def test_customers_without_refused_events_hardly_notice(latency_seconds: float, refused: set[int]) -> None:
    """25 events a second of 200 customers for 25 s, 1 in 50 refused."""
    mix = Mix(
        lambda event, _now: REFUSED if event.id in refused else DELIVERED,
        per_second=25,
        latency_seconds=latency_seconds,
    ).run(25)
    mix.run(5, posting=False)
    concerned = {mix.customer_by_id[event_id] for event_id in refused}
    others = {event_id for event_id, customer in mix.customer_by_id.items() if customer not in concerned}
    assert len(others & set(mix.late(beyond_seconds=1.0))) <= 0.01 * len(others)


@pytest.mark.parametrize("order", ORDERS)
def test_a_new_key_while_held_is_probed_at_once_and_what_the_old_one_was_refused_counts_no_more(order: str) -> None:
    good_from = 200.0
    mix = Mix(
        lambda event, now: DELIVERED if now >= good_from else BLOCKED if event.id % 2 else REFUSED,
        per_second=2,
        settings=settings(order),
    ).run(200)
    assert mix.driver.causes == {"auth"}
    mix.driver.engine.key_changed(mix.driver.now)
    mix.run(1)
    assert mix.driver.causes == set()
    assert_recovered(mix.run(60))


@pytest.mark.parametrize("begins", [0, 30])
def test_a_page_for_everything_costs_few_events_that_are_never_repeated(begins: int) -> None:
    """Such an event goes at once; so at the first while the key has delivered nothing, else after ten, only probes go."""
    mix = Mix(
        lambda _event, now: PAGE if now >= begins else DELIVERED,
        customers=1 if begins else 200,
        settings=settings("customer", on_ambiguous="dead_letter"),
    ).run(begins)
    mix.post(150)
    mix.run(10, posting=False)
    assert mix.driver.causes == {"not_growlytics"}
    assert set(mix.driver.dead.values()) == {"ambiguous"}
    probes = 4
    assert (10 if begins else 1) <= len(mix.driver.dead) <= (10 if begins else 1) + 4 + probes


def test_in_an_outage_events_that_are_never_repeated_are_no_probes_while_there_are_others() -> None:
    changed = {"on_ambiguous_events": {f"event {number}": "dead_letter" for number in range(1, 100_000, 2)}}
    mix = Mix(
        lambda _event, now: LOST if now >= 10 else DELIVERED, per_second=0.5, settings=settings("customer", **changed)
    ).run(12)
    before = len(mix.driver.dead)
    mix.run(4 * 3600)
    assert mix.driver.causes == {"breaker"}
    assert len(mix.driver.dead) - before <= 10, "only those of attempts before delivery was held"
    mix.answer = lambda _event, _now: DELIVERED
    mix.run(120)
    assert mix.driver.causes == set()


def test_an_event_that_always_fails_is_not_the_only_probe_for_ever() -> None:
    """The only one that may be repeated always times out; the others, which are never repeated, would be delivered."""
    changed = {
        "on_ambiguous": "dead_letter",
        "on_ambiguous_events": {"event 1": "retry"},
        "breaker_failures": 1,
        "max_age_seconds": 600.0,
    }
    mix = Mix(
        lambda event, _now: LOST if event.id == 1 else DELIVERED, per_second=0.1, settings=settings("none", **changed)
    )
    mix.run(1200)
    assert len(mix.driver.delivered) > 50
