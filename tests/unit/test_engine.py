"""The engine without holds: order, permits, giving up, ambiguity, the rate limit. Those are in `test_engine_holds`."""

from collections import Counter
from itertools import pairwise

import pytest

from forwarder.buffer import fates
from forwarder.delivery.engine import Ack, Engine, Release, Waits, ambiguous
from forwarder.delivery.holds import Holds
from forwarder.delivery.limiter import Limiter
from forwarder.growlytics.outcome import DELIVERED, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from tests.fakes.engine_harness import FAILED, LOST, OLD, REJECTED, Delays, Driver, why
from tests.fakes.events import EventMaker

OUT_OF_REACH = 10**9


def driver(
    max_concurrency: int = 64,
    *,
    breaker_failures: int = OUT_OF_REACH,
    retry_initial_seconds: float = 1.0,
    rate_limit_per_second: float = 0.0,
    max_age_seconds: float = 3600.0,
) -> Driver:
    return Driver(
        DeliverySettings(
            max_concurrency=max_concurrency,
            breaker_failures=breaker_failures,
            systemic_rejections=OUT_OF_REACH,
            retry_initial_seconds=retry_initial_seconds,
            rate_limit_per_second=rate_limit_per_second,
            max_age_seconds=max_age_seconds,
        )
    )


def answer(some: Driver, *, seconds: float) -> None:
    """Start what may start, and end it later: customers called "bad …" fail, and the others' events are delivered."""
    attempts = some.start_all()
    some.now += seconds
    for attempt in attempts:
        some.end(attempt, FAILED if attempt.taken.event.customer.startswith("bad") else DELIVERED)


# Lanes


def test_customers_go_in_parallel_and_each_ones_events_one_after_the_other() -> None:
    some = driver()
    some.put("aabbc")
    attempts = some.start_all()
    assert [attempt.taken.event.id for attempt in attempts] == [1, 3, 5]
    some.end(attempts[1], DELIVERED)
    assert some.start().taken.event.id == 4


def test_the_next_event_of_a_customer_starts_only_when_the_one_before_has_left() -> None:
    some = driver()
    some.put("aa")
    attempt = some.start()
    decision = some.engine.ended(attempt, DELIVERED, some.now)
    assert decision == Ack(fates.HandedOver())
    assert some.try_start() is None
    some.lanes.end(attempt.lane)
    assert some.start().taken.event.id == 2


def test_without_an_order_the_events_of_a_customer_go_at_once() -> None:
    some = Driver(DeliverySettings(order="none"))
    some.put("aaa")
    assert len(some.start_all()) == 3


def test_an_event_that_waits_for_its_retry_holds_up_its_own_customer_only() -> None:
    some = driver()
    some.put("aabb")
    assert some.run(FAILED) == Waits("status_5xx", maybe_delivered=False)
    assert [some.run(DELIVERED), some.run(DELIVERED), some.try_start()] == [Ack(fates.HandedOver())] * 2 + [None]
    assert some.engine.wakes_at() == some.now + 1.0
    some.wait(1.0)
    assert [some.start().taken.event.id, some.try_start()] == [1, None]


def test_each_failure_makes_an_event_wait_longer_and_the_next_event_begins_anew() -> None:
    some = driver()
    some.put("aa")
    waits = []
    each: list[list[Outcome]] = [[FAILED], [FAILED], [FAILED], [DELIVERED, FAILED]]
    for outcomes in each:
        for outcome in outcomes:
            some.run(outcome)
        wakes_at = some.engine.wakes_at()
        assert wakes_at is not None
        waits.append(wakes_at - some.now)
        some.wait(waits[-1])
    assert waits == [1.0, 2.0, 4.0, 1.0]


def test_a_lane_whose_event_becomes_a_dead_letter_goes_on_with_the_next() -> None:
    some = driver()
    some.deliver()
    some.put("aa")
    assert why(some.run(REJECTED)) == "rejected"
    some.run(DELIVERED)
    assert (some.dead, some.delivered) == ({2: "rejected"}, [1, 3])


def test_a_customer_with_very_many_failing_events_does_not_keep_the_others_behind_it_back() -> None:
    some = driver(8)
    some.put(["bad"] * 5000 + [f"good {number}" for number in range(100)])
    while len(some.delivered) < 100:
        answer(some, seconds=0.01)
        assert some.attempts.total() < 200, some.delivered
    assert some.attempts["bad"] < 10


@pytest.mark.parametrize("events_each", [1, 3, 8])
def test_very_many_customers_with_failing_events_do_not_keep_the_others_behind_them_back(events_each: int) -> None:
    some = driver(8)
    some.put([f"bad {number}" for number in range(300)] * events_each + [f"good {number}" for number in range(100)])
    for _ in range(2000):
        if len(some.delivered) == 100:
            break
        answer(some, seconds=0.05)
        some.feed()
    assert len(some.delivered) == 100
    assert some.attempts.total() <= 2 * (300 + 100), "a retry takes at most every second permit"


def test_customers_that_wait_for_retries_do_not_fill_the_window_with_what_they_send_meanwhile() -> None:
    some = driver(8, retry_initial_seconds=60.0)
    bad = [f"bad {number}" for number in range(64)]
    some.put(bad)
    while attempt := some.try_start():
        some.end(attempt, FAILED)
    for _ in range(5):
        some.put(bad)
    some.put(["good"])
    assert some.start().taken.event.customer == "good"


def test_what_goes_back_to_the_buffer_rests_for_its_backoff_and_its_attempts_go_on_counting() -> None:
    some = driver(1, retry_initial_seconds=2.0)
    some.put([f"bad {number}" for number in range(9)])
    decisions = [some.run(FAILED) for _ in range(9)]
    assert [type(decision) for decision in decisions] == [Waits] * 8 + [Release]
    last = decisions[-1]
    assert isinstance(last, Release)
    assert (last.not_before, last.why) == (some.now + 2.0, Waits("status_5xx", maybe_delivered=False))
    for _ in range(8):
        some.now += 2.0
        some.run(DELIVERED)
    some.feed()
    attempt = some.start()
    assert (attempt.taken.event.customer, attempt.taken.story.attempts) == ("bad 8", 2)


@pytest.mark.parametrize("held", [False, True])
def test_at_most_half_of_the_buffer_is_in_the_window_so_that_the_other_half_can_be_dropped(*, held: bool) -> None:
    settings = DeliverySettings()
    engine = Engine(
        settings, limiter=Limiter(64), schedule=Delays(settings), holds=Holds(settings),
        age_seconds=lambda _: 0.0, buffer_events=100, buffer_bytes=4000,
    )  # fmt: skip
    make = EventMaker()
    if held:
        engine.lanes.hold_begins()
    assert engine.lanes.room() == (50, 2000)
    engine.lanes.add([make(f"c{number}", size_bytes=10) for number in range(50)])
    assert engine.lanes.room() == (0, 0)
    engine.use(DeliverySettings(max_concurrency=2), schedule=Delays(settings))
    assert engine.lanes.room() == (0, 0)


# Permits


def test_a_permit_is_held_only_while_a_request_is_on_the_wire() -> None:
    some = driver(1)
    some.put("abc")
    a = some.start()
    assert some.limiter.in_flight == 1
    assert some.try_start() is None
    some.engine.ended(a, DELIVERED, some.now)  # and its ack is not committed
    b = some.start()
    some.end(b, FAILED)  # and it is parked
    assert some.limiter.in_flight == 0
    assert some.start().taken.event.customer == "c"


@pytest.mark.parametrize("limit", [4, 16, 64])
def test_no_more_are_on_the_wire_than_the_limiter_says(limit: int) -> None:
    some = driver()
    on_wire = some.saturate(limit)
    some.put("abc")
    on_wire += some.start_all()
    assert some.lanes.ready
    assert len(on_wire) == some.limiter.limit == some.limiter.in_flight == limit
    assert some.engine.wakes_at() is None, "only the end of one makes room"
    some.end(on_wire[0], DELIVERED)
    assert len(some.start_all()) == 1


def test_where_both_wait_a_retry_takes_at_most_every_second_permit() -> None:
    some = driver()
    some.put("abcd")
    for _ in range(4):
        some.run(FAILED)
    some.put("efgh")
    some.now += 1.0
    attempts = []
    for _ in range(8):
        attempts.append(some.start())
        some.end(attempts[-1], DELIVERED)
    assert [attempt.taken.story.attempts for attempt in attempts] == [2, 1, 2, 1, 2, 1, 2, 1]


def test_a_cancelled_attempt_leaves_its_event_pending_and_gives_its_permit_back() -> None:
    some = driver(1)
    some.put("ab")
    some.engine.cancelled(some.start())
    assert some.limiter.in_flight == 0
    assert [some.run(DELIVERED), some.run(DELIVERED)] == [Ack(fates.HandedOver())] * 2
    assert some.delivered == [2, 1]


@pytest.mark.parametrize(
    ("outcome", "falls"),
    [
        (FAILED, True),
        (LOST, True),
        (Retryable("status_429", maybe_delivered=False), True),
        (Retryable("network", maybe_delivered=False), True),
        (Retryable("status_425", maybe_delivered=False), False),
        (REJECTED, False),
    ],
)
def test_only_what_comes_of_load_lowers_the_limit(outcome: Outcome, *, falls: bool) -> None:
    some = driver()
    for number in range(20):
        some.deliver(f"first {number}")
    limit = some.limiter.limit
    for number in range(100):
        some.put([f"then {number}"])
        some.run(outcome)
    assert (some.limiter.limit < limit) == falls


# Giving up


@pytest.mark.parametrize("outcome", [FAILED, LOST])
def test_an_old_event_that_fails_again_expires_and_one_that_is_delivered_does_not(outcome: Retryable) -> None:
    some = driver()
    some.put("ab", accepted_at=OLD)
    assert why(some.run(outcome)) == "expired"
    assert why(some.run(DELIVERED)) == "delivered"


def test_age_counts_from_when_an_event_was_accepted() -> None:
    some = driver(max_age_seconds=100.0)
    some.put("a", accepted_at=some.wall - 99.0)
    some.put("b", accepted_at=some.wall - 98.9)
    assert [why(some.run(FAILED)), why(some.run(FAILED))] == ["status_5xx"] * 2
    some.wait(1.0)
    assert [why(some.run(FAILED)), why(some.run(FAILED))] == ["expired", "status_5xx"]


def test_the_dead_letter_tells_of_all_attempts() -> None:
    some = driver(max_age_seconds=3.5)
    some.put("a", accepted_at=some.wall)
    first = some.wall
    for seconds in (1.0, 2.0, 4.0):
        some.run(FAILED)
        some.wait(seconds)
    decision = some.run(FAILED)
    assert decision == Ack(
        fates.DeadLettered(
            "expired", status=None, answer=b"", attempts=4, first_attempt_at=first, last_attempt_at=first + 7.0
        )
    )


def test_the_dead_letter_of_a_rejected_event_has_the_status_and_the_beginning_of_the_answer() -> None:
    some = driver()
    some.deliver()
    some.put("a")
    decision = some.run(Rejected(422, b"x" * 5000))
    assert isinstance(decision, Ack)
    assert isinstance(decision.fate, fates.DeadLettered)
    assert (decision.fate.status, decision.fate.answer) == (422, b"x" * fates.MAX_ANSWER_BYTES)


# Ambiguity


def ambiguous_driver(on_ambiguous: str, **of_names: str) -> Driver:
    names = {name.replace("_", " "): policy for name, policy in of_names.items()}
    settings = DeliverySettings(on_ambiguous=on_ambiguous, on_ambiguous_events=names)  # type: ignore[arg-type] # checked
    return Driver(settings)


@pytest.mark.parametrize(
    ("on_ambiguous", "of_first", "first", "second"),
    [
        ("retry", None, "timeout", "timeout"),
        ("dead_letter", None, "ambiguous", "ambiguous"),
        ("retry", "dead_letter", "ambiguous", "timeout"),
        ("dead_letter", "retry", "timeout", "ambiguous"),
    ],
)
def test_what_may_have_arrived_is_sent_again_or_given_up_as_the_settings_say_for_its_name(
    on_ambiguous: str, of_first: str | None, first: str, second: str
) -> None:
    some = ambiguous_driver(on_ambiguous, **({"event_1": of_first} if of_first else {}))
    some.put("ab")
    a, b = some.start_all()
    never_repeated = [attempt.never_repeated for attempt in (a, b)]
    assert never_repeated == [first == "ambiguous", second == "ambiguous"]
    assert [why(some.end(a, LOST)), why(some.end(b, LOST))] == [first, second]


def test_what_cannot_have_arrived_is_sent_again_whatever_the_policy() -> None:
    some = ambiguous_driver("dead_letter")
    some.put("a")
    assert some.run(FAILED) == Waits("status_5xx", maybe_delivered=False)


def test_what_may_have_arrived_is_told_apart_from_what_cannot_have() -> None:
    some = driver()
    some.put("a")
    assert some.run(LOST) == Waits("timeout", maybe_delivered=True)


def test_an_old_event_that_may_have_arrived_and_is_never_repeated_is_ambiguous_and_not_expired() -> None:
    some = ambiguous_driver("dead_letter")
    some.put("a", accepted_at=OLD)
    assert why(some.run(LOST)) == "ambiguous"


def test_an_attempt_cut_short_that_may_have_arrived_has_its_dead_letter_as_well() -> None:
    some = driver()
    some.put("a")
    decision = ambiguous(some.start())
    assert isinstance(decision.fate, fates.DeadLettered)
    assert (decision.fate.reason, decision.fate.status, decision.fate.attempts) == ("ambiguous", None, 1)


# The rate limit


def test_the_rate_limit_spreads_first_attempts_retries_and_probes_alike() -> None:
    some = driver(rate_limit_per_second=2.0, breaker_failures=3)
    some.put("abcdefgh")
    times, kinds, began = list[float](), Counter[str](), some.now
    while len(times) < 20:
        attempt = some.try_start()
        if attempt is None:
            wakes_at = some.engine.wakes_at()
            assert wakes_at is not None
            assert wakes_at > some.now
            some.now = wakes_at
            continue
        times.append(some.now - began)
        kinds["probe" if attempt.is_probe else "first" if attempt.taken.story.attempts == 1 else "retry"] += 1
        some.end(attempt, DELIVERED if len(times) in (9, 10, 11) else FAILED)
        some.put("i" * (len(times) == 12))
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(times))
    assert times[:3] == [0.0, 0.5, 1.0], "smooth, no burst at start"
    assert min(kinds["probe"], kinds["first"], kinds["retry"]) > 0, kinds


def test_what_waits_for_the_rate_limit_holds_no_permit_and_the_engine_wakes_in_time() -> None:
    some = driver(rate_limit_per_second=0.1)
    some.put("ab")
    some.run(DELIVERED)
    assert some.try_start() is None
    assert some.limiter.in_flight == 0
    assert some.engine.wakes_at() == some.now + 10.0


def test_a_retry_that_is_due_before_the_rate_allows_it_wakes_the_engine_only_then() -> None:
    some = driver(rate_limit_per_second=0.1)
    some.put("a")
    some.run(FAILED)
    assert some.engine.wakes_at() == some.now + 10.0


def test_an_engine_with_nothing_to_do_does_not_wake() -> None:
    some = driver()
    assert (some.try_start(), some.engine.wakes_at()) == (None, None)
    some.put("a")
    some.start()
    assert some.engine.wakes_at() is None


def test_it_tells_what_keeps_events_from_being_tried() -> None:
    some = driver()
    assert some.engine.delay() is None
    some.put("aabb")
    attempts = some.start_all()
    assert some.engine.delay() == "order"
    for attempt in attempts:
        some.end(attempt, FAILED)
    assert some.engine.delay() == "retry"
    some.put("c")
    assert some.engine.delay() is None, "the next pump starts it"


def test_it_tells_that_the_limit_of_attempts_or_the_rate_limit_keeps_them() -> None:
    full = driver(max_concurrency=1)
    full.put("ab")
    full.start_all()
    assert full.engine.delay() == "concurrency"
    slow = driver(rate_limit_per_second=1.0)
    slow.put("ab")
    slow.start_all()
    assert slow.engine.delay() == "rate_limit"


def test_in_a_hold_the_hold_is_what_keeps_them() -> None:
    some = driver(breaker_failures=1)
    some.put("aab")
    some.end(some.start(), FAILED)
    assert some.causes == {"breaker"}
    assert some.engine.delay() is None


def test_other_settings_are_gone_by_from_now_on_and_what_began_before_ends_as_it_began() -> None:
    some = driver()
    some.put("ab")
    first = some.start()
    settings = DeliverySettings(
        max_concurrency=1, on_ambiguous="dead_letter", max_age_seconds=1e-6, retry_initial_seconds=7.0
    )
    some.engine.use(settings, schedule=Delays(settings))
    assert some.try_start() is None, "one is on the wire"
    assert why(some.end(first, LOST)) == "expired", (
        "it is too old by the new settings, and was to be repeated by the old"
    )
    assert why(some.run(LOST)) == "ambiguous"


@pytest.mark.parametrize(("connecting_seconds", "grows"), [(0.02, True), (0.0, False)])
def test_how_long_new_connections_take_is_no_line_at_the_far_side(connecting_seconds: float, grows: bool) -> None:
    some = driver()
    on_wire = some.saturate(16)
    limit = some.limiter.limit
    for number in range(4 * limit):
        some.put([f"{number} more", f"{number} more again"])
        on_wire += some.start_all()
        some.now = max(some.now, on_wire[0].started_at + 0.07)
        some.end(on_wire.pop(0), Delivered(connecting_seconds))
    assert (some.limiter.limit > limit) == grows
