"""The engine and the four causes of holds: breaker, Retry-After, authentication, systemic refusal."""

import pytest

from forwarder.delivery.engine import Waits
from forwarder.delivery.holds import HoldEnded, HoldStarted
from forwarder.growlytics.outcome import DELIVERED, Outcome, Retryable
from forwarder.settings import DeliverySettings
from forwarder.words import HOLD_CAUSES, HoldCause
from tests.fakes.engine_harness import BLOCKED, FAILED, LOST, OLD, PAGE, REJECTED, Driver, why

OUT_OF_REACH = 10**9


def driver(
    *,
    breaker_failures: int = OUT_OF_REACH,
    systemic_rejections: int = OUT_OF_REACH,
    systemic_seconds: float = 60.0,
    probe_max_seconds: float = 60.0,
    on_ambiguous_events: dict[str, str] | None = None,
    random_share: float = 0.0,
) -> Driver:
    settings = DeliverySettings(
        breaker_failures=breaker_failures,
        systemic_rejections=systemic_rejections,
        systemic_seconds=systemic_seconds,
        retry_initial_seconds=1.0,
        probe_initial_seconds=1.0,
        probe_max_seconds=probe_max_seconds,
        on_ambiguous_events=on_ambiguous_events or {},  # type: ignore[arg-type] # checked where settings are read
    )
    return Driver(settings, random_share=lambda: random_share)


def asks_to_wait(seconds: float) -> Retryable:
    return Retryable("status_429", maybe_delivered=False, retry_after_seconds=seconds)


def in_hold(cause: HoldCause, customers: str = "abc", *, accepted_at: float | None = None) -> Driver:
    """Return an engine that has begun to hold at once, because of its first event; the others are ready."""
    some = driver(breaker_failures=1 if cause == "breaker" else OUT_OF_REACH, systemic_rejections=1)
    some.put(customers, accepted_at=accepted_at)
    outcomes: dict[HoldCause, Outcome] = {
        "breaker": FAILED,
        "retry_after": asks_to_wait(1.0),
        "auth": BLOCKED,
        "systemic": REJECTED,
        "not_growlytics": PAGE,
    }
    some.run(outcomes[cause])
    assert some.causes == {cause}
    return some


# Any hold


@pytest.mark.parametrize("cause", HOLD_CAUSES)
def test_in_a_hold_one_probe_goes_at_a_time_and_not_before_its_time(cause: HoldCause) -> None:
    some = in_hold(cause)
    began = some.now
    some.now += 0.999
    assert some.try_start() is None
    probe = some.pass_to_next_probe()
    assert some.now == began + 1.0
    some.now += 100.0
    assert some.try_start() is None
    assert some.engine.wakes_at() is None, "only the end of the probe lets anything go on"
    some.end(probe, FAILED)
    assert some.try_start() is None


@pytest.mark.parametrize("cause", HOLD_CAUSES)
@pytest.mark.parametrize("outcome", [FAILED, LOST, BLOCKED, REJECTED])
def test_a_probe_that_fails_neither_parks_its_event_nor_counts_and_the_next_takes_another_lane(
    cause: HoldCause, outcome: Outcome
) -> None:
    some = in_hold(cause, "abc")
    attempts = {"a": 1, "b": 0, "c": 0}
    probe = some.pass_to_next_probe()
    assert isinstance(some.end(probe, outcome), Waits)
    assert (probe.lane.state, probe.taken.story.attempts) == ("ready", attempts[probe.taken.event.customer])
    assert some.pass_to_next_probe().lane is not probe.lane


@pytest.mark.parametrize("cause", HOLD_CAUSES)
def test_a_delivered_probe_clears_every_cause_and_all_goes_on(cause: HoldCause) -> None:
    some = in_hold(cause, "abcdefgh")
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()
    assert len(some.start_all()) > 1


def test_a_delivered_probe_clears_causes_that_came_while_it_was_under_way() -> None:
    some = driver(breaker_failures=3)
    some.put("abcd")
    a, b, c = some.start(), some.start(), some.start()
    some.end(a, BLOCKED)
    some.now += 1.0
    probe = some.start()
    some.end(b, FAILED)
    some.end(c, asks_to_wait(300.0))
    assert some.causes == {"auth", "retry_after"}
    some.end(probe, DELIVERED)
    assert some.causes == set()
    assert some.try_start() is not None


@pytest.mark.parametrize("cause", [cause for cause in HOLD_CAUSES if cause not in ("systemic", "not_growlytics")])
def test_an_event_delivered_by_an_attempt_from_before_the_hold_does_not_end_it(cause: HoldCause) -> None:
    some = driver(breaker_failures=1)
    some.put("abc")
    a, b = some.start(), some.start()
    outcomes: dict[HoldCause, Outcome] = {"breaker": FAILED, "retry_after": asks_to_wait(1.0), "auth": BLOCKED}
    some.end(a, outcomes[cause])
    some.end(b, DELIVERED)
    assert cause in some.causes
    assert some.try_start() is None


@pytest.mark.parametrize("cause", HOLD_CAUSES)
def test_in_a_hold_the_only_event_is_probed_though_it_is_parked(cause: HoldCause) -> None:
    some = in_hold(cause, "a")
    for _ in range(3):
        some.end(some.pass_to_next_probe(), FAILED)
    assert some.lanes.events == 1


def test_the_probe_after_the_one_of_a_parked_event_takes_another_that_is_parked() -> None:
    some = driver(breaker_failures=2)
    some.put("ab")
    for _ in range(2):
        some.run(FAILED)
    seen = []
    for _ in range(2):
        probe = some.pass_to_next_probe()
        seen.append(probe.taken.event.customer)
        some.end(probe, FAILED)
    assert sorted(seen) == ["a", "b"]


@pytest.mark.parametrize("cause", HOLD_CAUSES)
def test_nothing_expires_in_a_hold_or_as_a_probe(cause: HoldCause) -> None:
    some = in_hold(cause)
    for _ in range(5):
        some.now += 10_000_000.0
        some.end(some.start(), FAILED)
    assert some.dead == {}


def test_an_attempt_from_before_a_hold_that_fails_in_it_does_not_expire() -> None:
    some = driver()
    some.put("ab", accepted_at=OLD)
    a, b = some.start(), some.start()
    some.end(a, BLOCKED)
    assert why(some.end(b, FAILED)) == "status_5xx"
    some.end(some.pass_to_next_probe(), DELIVERED)
    some.now += 1.0
    assert why(some.run(FAILED)) == "expired", "a regular attempt after it may well be the last"


def test_a_probe_does_not_expire_even_if_its_hold_ended_while_it_was_under_way() -> None:
    some = driver(systemic_rejections=1)
    some.put("abc", accepted_at=OLD)
    a, b = some.start(), some.start()
    some.end(a, REJECTED)
    probe = some.pass_to_next_probe()
    some.end(b, DELIVERED)
    assert some.causes == set()
    assert why(some.end(probe, FAILED)) == "status_5xx"


@pytest.mark.parametrize("as_probe", [True, False])
def test_what_may_have_arrived_and_is_never_repeated_is_a_dead_letter_even_in_a_hold(*, as_probe: bool) -> None:
    some = driver(on_ambiguous_events={f"event {number}": "dead_letter" for number in (1, 2, 3)})
    some.put("abc")
    a = some.start()
    if as_probe:
        some.end(a, asks_to_wait(1.0))
        b = some.pass_to_next_probe()
    else:
        b = some.start()
        some.end(a, asks_to_wait(1.0))
    assert why(some.end(b, LOST)) == "ambiguous"
    assert some.causes == {"retry_after"}
    some.end(some.pass_to_next_probe(), DELIVERED)


def test_a_probe_that_is_cancelled_says_nothing_and_another_may_go_at_once() -> None:
    some = in_hold("auth")
    probe = some.pass_to_next_probe()
    some.engine.cancelled(probe)
    assert some.limiter.in_flight == 0
    assert some.start().is_probe


def is_frozen(some: Driver) -> bool:
    return some.limiter._frozen


def test_in_a_hold_the_limiter_learns_nothing_and_after_it_the_limit_starts_slowly() -> None:
    some = driver(breaker_failures=3)
    first, second, third, *others = some.saturate(32)
    assert len(others) == 29
    for attempt in (first, second, third):
        some.end(attempt, FAILED)
    assert some.causes == {"breaker"}
    for attempt in others:
        some.end(attempt, DELIVERED)
    assert is_frozen(some)
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert not is_frozen(some)
    assert len(some.start_all()) == some.limiter.limit == 4


def test_each_start_and_end_of_a_cause_is_told_once() -> None:
    some = driver(breaker_failures=2)
    some.put("abcd")
    a, b, c = some.start(), some.start(), some.start()
    some.end(a, asks_to_wait(10.0))
    some.end(b, FAILED)
    some.end(c, FAILED)
    assert some.holds.news() == [HoldStarted("retry_after", 10.0), HoldStarted("breaker", 1.0)]
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.holds.news() == [HoldEnded("retry_after", 10.0), HoldEnded("breaker", 10.0)]


# Breaker


def test_the_breaker_opens_after_so_many_failures_in_a_row_of_whichever_events() -> None:
    some = driver(breaker_failures=3)
    some.put("abcd")
    for outcome, causes in [(FAILED, set()), (LOST, set()), (FAILED, {"breaker"})]:
        some.run(outcome)
        assert some.causes == causes


@pytest.mark.parametrize("between", [DELIVERED, REJECTED])
def test_an_answer_that_is_about_the_event_begins_the_row_of_failures_anew(between: Outcome) -> None:
    some = driver(breaker_failures=3)
    some.put("abcde")
    for outcome in [FAILED, FAILED, between, FAILED, FAILED]:
        some.run(outcome)
    assert some.causes == set()


def test_probes_go_after_intervals_that_grow_to_the_maximum_with_jitter() -> None:
    some = driver(breaker_failures=1, probe_max_seconds=4.0, random_share=1.0)
    some.put("abc")
    some.run(FAILED)
    waits = []
    for _ in range(5):
        before = some.now
        probe = some.pass_to_next_probe()
        waits.append(some.now - before)
        some.now += 0.5
        some.end(probe, FAILED)
    assert waits == [0.75, 1.5, 3.0, 3.0, 3.0]


def test_failures_of_attempts_from_before_the_hold_do_not_put_its_probe_off() -> None:
    some = driver(breaker_failures=1)
    some.put("abcd")
    attempts = some.start_all()
    began = some.now
    for attempt in attempts:
        some.end(attempt, FAILED)
        some.now += 0.2
    some.pass_to_next_probe()
    assert some.now == began + 1.0


def test_the_failures_of_an_outage_do_not_open_the_breaker_again_once_a_probe_was_delivered() -> None:
    some = driver(breaker_failures=3)
    some.put("abcdef")
    for _ in range(3):
        some.run(FAILED)
    some.end(some.pass_to_next_probe(), FAILED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    some.run(FAILED)
    some.run(FAILED)
    assert some.causes == set()
    some.run(FAILED)
    assert some.causes == {"breaker"}


# Retry-After


@pytest.mark.parametrize(("asked", "share", "waits"), [(20.0, 0.0, 20.0), (86_400.0, 0.0, 300.0), (20.0, 1.0, 25.0)])
def test_a_retry_after_stops_everyone_for_as_long_as_it_says(asked: float, share: float, waits: float) -> None:
    some = driver(random_share=share)
    some.put("abc")
    some.run(asks_to_wait(asked))
    began = some.now
    some.pass_to_next_probe()
    assert some.now == began + waits


def test_of_several_retry_afters_the_latest_time_counts() -> None:
    some = driver()
    some.put("abcd")
    a, b, c = some.start(), some.start(), some.start()
    began = some.now
    some.end(a, asks_to_wait(10.0))
    some.end(b, asks_to_wait(30.0))
    some.now += 1.0
    some.end(c, asks_to_wait(5.0))
    probe = some.pass_to_next_probe()
    assert some.now == began + 30.0
    some.end(probe, asks_to_wait(50.0))
    some.pass_to_next_probe()
    assert some.now == began + 80.0


def test_failures_of_attempts_that_began_before_the_last_hold_ended_do_not_open_the_breaker_again() -> None:
    """Requests that started together also time out together, some of them late."""
    some = driver(breaker_failures=3)
    some.put([f"c{number}" for number in range(20)])
    on_wire = some.start_all()
    late = on_wire[-1]
    for attempt in on_wire[:-1]:
        some.end(attempt, FAILED)
    assert some.causes == {"breaker"}
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()
    some.now += 0.1
    for attempt in some.start_all()[:2]:
        some.end(attempt, FAILED)
    some.end(late, FAILED)
    assert some.causes == set(), "the third is old"
