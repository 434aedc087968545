"""The engine where it is refused: by a key or an account (authentication), or for every event (systemic refusal)."""

import pytest

from forwarder.buffer import fates
from forwarder.delivery.engine import Ack, Attempt, Release, Waits
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Retryable
from forwarder.settings import DeliverySettings
from tests.fakes.engine_harness import BLOCKED, FAILED, OLD, PROXY, REFUSED, REJECTED, Driver, why

OUT_OF_REACH = 10**9


def driver(
    *,
    breaker_failures: int = OUT_OF_REACH,
    systemic_rejections: int = OUT_OF_REACH,
    systemic_seconds: float = 60.0,
) -> Driver:
    return Driver(
        DeliverySettings(
            breaker_failures=breaker_failures,
            systemic_rejections=systemic_rejections,
            systemic_seconds=systemic_seconds,
            retry_initial_seconds=1.0,
            probe_initial_seconds=1.0,
        )
    )


def blocked() -> Driver:
    """Return an engine that has begun to hold at once, as its first event was blocked."""
    some = driver()
    some.put("abc")
    some.run(BLOCKED)
    assert some.causes == {"auth"}
    return some


# Authentication


def test_an_event_that_is_blocked_holds_all_and_is_neither_parked_nor_dead_lettered() -> None:
    some = driver()
    some.put("ab", accepted_at=OLD)
    assert some.run(BLOCKED) == Waits("blocked", maybe_delivered=False)
    assert some.lanes.parked_events == 0
    for _ in range(20):
        some.end(some.pass_to_next_probe(), BLOCKED)
    assert some.dead == {}
    assert some.causes == {"auth"}


def test_a_new_key_is_probed_at_once() -> None:
    some = blocked()
    for _ in range(6):
        some.end(some.pass_to_next_probe(), BLOCKED)
    some.now += 0.1
    some.engine.key_changed(some.now)
    assert some.engine.wakes_at() == some.now
    probe = some.start()
    assert probe.is_probe
    some.end(probe, BLOCKED)
    assert some.engine.wakes_at() == some.now + 2.0, "the intervals begin anew"


def test_a_new_key_does_not_shorten_a_retry_after_or_a_hold_that_is_not_of_the_key() -> None:
    some = driver(breaker_failures=1)
    some.put("ab")
    some.run(FAILED)
    some.engine.key_changed(some.now)
    assert some.try_start() is None
    some = blocked()
    attempt = some.pass_to_next_probe()
    some.end(attempt, Retryable("status_429", False, 100.0))
    some.engine.key_changed(some.now)
    assert some.engine.wakes_at() == some.now + 100.0


def test_an_event_blocked_again_although_others_were_delivered_meanwhile_is_at_fault_itself() -> None:
    some = driver()
    some.put("abcd")
    some.run(BLOCKED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    assert some.end(attempt, BLOCKED) == Waits("blocked", maybe_delivered=False)
    assert (some.causes, attempt.lane.state) == (set(), "parked"), "nothing follows from it for the others"
    some.run(DELIVERED)
    some.now += 100.0
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    some.end(attempt, BLOCKED)
    assert some.causes == set(), "from then on"


def test_an_event_at_fault_itself_expires_like_any_that_fails() -> None:
    some = driver()
    some.put("abc", accepted_at=OLD)
    some.run(BLOCKED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    assert why(some.end(attempt, BLOCKED)) == "expired"


def test_what_is_refused_expires_only_where_others_are_delivered() -> None:
    some = driver()
    some.deliver()
    some.put("a", accepted_at=OLD)
    for _ in range(5):
        assert why(some.run(REFUSED)) == "blocked", "all may be refused, as nothing else was tried"
        some.now += 100.0
    some.deliver()
    some.now += 100.0
    assert why(some.run(REFUSED)) == "expired"


def test_refused_events_are_tried_again_as_soon_as_the_hold_ends_and_not_when_their_backoff_does() -> None:
    some = driver(systemic_rejections=3)
    some.deliver()
    some.put("abcd")
    *refused, d = some.start_all()
    for attempt in refused:
        some.end(attempt, REFUSED)
    assert some.causes == {"auth"}
    some.end(d, DELIVERED)
    assert sorted(attempt.taken.event.customer for attempt in some.start_all()) == ["a", "b", "c"]


def test_a_delivery_ends_a_hold_of_refusals_also_after_one_of_the_key() -> None:
    some = driver(systemic_rejections=2)
    some.put("abcde")
    some.run(BLOCKED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    a, b, c, *_ = some.start_all()
    some.end(a, DELIVERED)
    some.end(b, REFUSED)
    some.put("fg")
    f = some.start()
    some.end(f, REFUSED)
    assert some.causes == {"auth"}
    some.end(c, DELIVERED)
    assert some.causes == set()


def test_a_forward_proxy_that_refuses_us_is_never_an_events_fault() -> None:
    some = driver()
    some.deliver()
    some.put("a")
    some.run(REFUSED)
    some.now += 100.0
    for _ in range(5):
        attempt = some.start()
        assert attempt.taken.event.customer == "a"
        assert why(some.end(attempt, PROXY)) == "blocked"
        assert some.causes == {"auth"}
        assert attempt.taken.story.refusals is not None
        assert attempt.taken.story.refusals.number == 1, "it did not see the event"
        some.put("b")
        some.end(some.pass_to_next_probe(), DELIVERED)
        some.now += 100.0
    assert some.dead == {}


def test_a_hold_of_the_forward_proxy_ends_by_a_probe_alone() -> None:
    some = driver()
    some.deliver()
    some.put("abc")
    a, b = some.start(), some.start()
    some.end(a, PROXY)
    some.end(b, DELIVERED)
    assert some.causes == {"auth"}
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()


def test_a_late_refusal_by_the_proxy_with_the_old_key_holds_nothing() -> None:
    some = driver()
    some.put("ab")
    a = some.start()
    some.engine.key_changed(some.now)
    some.end(a, PROXY)
    assert some.causes == set()


def test_events_that_were_refused_as_probes_do_not_hold_all_again_when_they_are_retried() -> None:
    """Retries never count, and the probes were their first attempts."""
    some = driver(systemic_rejections=3)
    some.deliver()
    some.put("abcdefghi")
    for _ in range(3):
        some.run(REFUSED)
    for _ in range(4):
        some.end(some.pass_to_next_probe(), REFUSED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()
    retried = set()
    while attempt := some.try_start():
        if attempt.taken.story.refusals:  # the others stay on the wire
            retried.add(attempt.taken.event.customer)
            some.end(attempt, REFUSED)
    assert len(retried) == 7
    assert some.causes == set()


def test_a_refused_event_that_was_rejected_before_waits_for_its_own_backoff() -> None:
    some = driver()
    some.put("ab")
    some.run(REJECTED)
    some.run(DELIVERED)
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    some.end(attempt, REFUSED)
    some.deliver("c")
    assert some.try_start() is None, "deliveries do not end its wait"


def test_a_hold_of_refusals_does_not_lower_what_slow_start_aims_at_and_one_of_failures_does() -> None:
    def limit_after(outcome: Outcome) -> int:
        some = driver(systemic_rejections=1, breaker_failures=1)
        on_wire = some.saturate(32)
        some.end(on_wire.pop(0), outcome)
        assert len(some.causes) == 1
        for attempt in on_wire:
            some.engine.cancelled(attempt)
        some.end(some.pass_to_next_probe(), DELIVERED)
        return some.limiter._slow_start_until

    assert limit_after(REFUSED) > limit_after(FAILED)


def test_a_delivery_with_the_old_key_does_not_end_a_hold_of_the_new_one() -> None:
    some = driver()
    some.put("abc")
    a = some.start()
    some.engine.key_changed(some.now)
    some.run(REFUSED)
    assert some.causes == {"auth"}
    some.end(a, DELIVERED)
    assert some.causes == {"auth"}


def test_a_new_key_tries_lanes_that_were_probed_with_the_old_one_like_all_others() -> None:
    some = driver()
    some.put("ab")
    some.run(BLOCKED)
    for _ in range(3):
        some.end(some.pass_to_next_probe(), BLOCKED)
    some.engine.key_changed(some.now)
    late = some.start()
    some.engine.key_changed(some.now)
    some.end(late, BLOCKED)
    assert late.lane not in some.lanes._probed, "nothing is known of it with the newest key"


def test_a_suspect_does_not_expire_as_a_probe_or_in_a_hold() -> None:
    some = driver(breaker_failures=1)
    some.deliver()
    some.put("ab", accepted_at=OLD)
    a, b = some.start(), some.start()
    some.end(a, REFUSED)
    some.deliver("c")
    some.end(b, FAILED)
    assert some.causes == {"breaker"}
    some.now += 100.0
    probe = some.start()
    while probe.taken.event.customer != "a":
        some.end(probe, FAILED)
        some.now += 100.0
        probe = some.start()
    assert why(some.end(probe, REFUSED)) == "blocked"


def test_the_dead_letter_of_a_refused_event_has_the_status_and_the_beginning_of_the_answer() -> None:
    some = driver(systemic_seconds=1.0)
    some.deliver()
    some.put("a")
    for _ in range(3):
        some.run(REFUSED)
        some.deliver()
        some.now += 100.0
    decision = some.run(Blocked(451, "refusal", answer=b"not here" * 1000))
    assert isinstance(decision, Ack)
    assert isinstance(decision.fate, fates.DeadLettered)
    assert (decision.fate.reason, decision.fate.status, decision.fate.attempts) == ("rejected", 451, 4)
    assert decision.fate.answer == (b"not here" * 1000)[: fates.MAX_ANSWER_BYTES]


def test_an_event_blocked_for_the_first_time_holds_all_whatever_was_delivered_before() -> None:
    some = driver()
    for number in range(20):
        some.deliver(f"c{number}")
    some.put("ab")
    some.run(BLOCKED)
    assert some.causes == {"auth"}


def is_suspect(attempt: Attempt) -> bool:
    refusals = attempt.taken.story.refusals
    return refusals is not None and refusals.suspect


def test_an_event_blocked_again_without_a_delivery_in_between_holds_all() -> None:
    some = driver()
    some.deliver()
    some.put("a")
    some.run(BLOCKED)
    for _ in range(2):
        probe = some.pass_to_next_probe()
        some.end(probe, BLOCKED)
        assert not is_suspect(probe)
    assert some.causes == {"auth"}


def test_what_was_delivered_under_another_key_says_nothing_of_an_event_that_is_blocked() -> None:
    some = driver()
    some.put("abcd")
    some.run(BLOCKED)
    some.engine.key_changed(some.now)
    probe = some.start()
    while probe.taken.event.customer == "a":
        some.engine.cancelled(probe)
        probe = some.start()
    some.end(probe, DELIVERED)
    attempt = some.start()
    while attempt.taken.event.customer != "a":
        some.end(attempt, DELIVERED)
        attempt = some.start()
    some.end(attempt, BLOCKED)
    assert some.causes == {"auth"}, "it was blocked under the other key before"
    assert not is_suspect(attempt)


def test_answers_to_attempts_begun_under_an_old_key_say_nothing_of_the_new_one() -> None:
    some = driver()
    some.put("abc")
    a, b = some.start(), some.start()
    some.engine.key_changed(some.now)
    some.end(a, BLOCKED)
    assert some.causes == set()
    some.end(b, DELIVERED)
    some.run(DELIVERED)
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    some.end(attempt, BLOCKED)
    assert some.causes == {"auth"}, "for the new key it is the first time"


def test_what_the_old_key_still_delivers_does_not_put_an_event_at_fault_that_the_new_one_blocks() -> None:
    some = driver()
    some.put("abc")
    a = some.start()
    some.engine.key_changed(some.now)
    assert some.run(BLOCKED) == Waits("blocked", maybe_delivered=False)
    some.end(a, DELIVERED)
    for _ in range(4):
        probe = some.pass_to_next_probe()
        some.end(probe, BLOCKED)
        assert not is_suspect(probe)
    assert some.causes == {"auth"}


def test_a_probe_with_the_old_key_does_not_put_off_the_probe_of_the_new_one() -> None:
    some = blocked()
    probe = some.pass_to_next_probe()
    some.engine.key_changed(some.now)
    some.now += 0.5
    assert some.try_start() is None, "one at a time"
    some.end(probe, BLOCKED)
    assert some.start().is_probe


# Systemic refusal


def test_a_rejection_is_final_if_something_was_delivered_lately() -> None:
    some = driver(systemic_seconds=60.0)
    some.deliver()
    some.put("ab")
    a, b = some.start(), some.start()
    some.now += 60.0
    assert why(some.end(a, REJECTED)) == "rejected"
    some.now += 0.1
    assert why(some.end(b, REJECTED)) == "suspect"


def test_a_suspect_stays_at_the_head_of_its_lane_and_is_retried_with_backoff() -> None:
    some = driver()
    some.put("aab")
    assert some.run(REJECTED) == Waits("suspect", maybe_delivered=False)
    assert some.engine.start(some.now, some.wall)  # b, and a waits
    waits = []
    for _ in range(4):
        wakes_at = some.engine.wakes_at()
        assert wakes_at is not None
        waits.append(wakes_at - some.now)
        some.now = wakes_at
        attempt = some.start()
        assert attempt.taken.event.id == 1
        some.end(attempt, REJECTED)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert some.dead == {}


def test_so_many_suspects_in_a_row_start_the_hold() -> None:
    some = driver(systemic_rejections=3)
    some.put("abcd")
    for outcome, causes in [(REJECTED, set()), (REJECTED, set()), (REJECTED, {"systemic"})]:
        some.run(outcome)
        assert some.causes == causes
    assert some.try_start() is None


def test_one_event_rejected_again_and_again_is_one_suspect() -> None:
    some = driver(systemic_rejections=2)
    some.put("a")
    for _ in range(20):
        some.run(REJECTED)
        some.now += 100.0
    assert some.causes == set()
    some.put("b")
    for attempt in some.start_all():
        some.end(attempt, REJECTED)
    assert some.causes == {"systemic"}


def test_a_delivery_begins_the_row_of_suspects_anew() -> None:
    some = driver(systemic_rejections=2, systemic_seconds=1.0)
    some.put("ab")
    some.run(REJECTED)
    some.run(DELIVERED)
    some.put("c")
    some.now += 2.0
    attempts = some.start_all()
    assert len(attempts) == 2
    some.end(attempts[1], REJECTED)
    assert some.causes == set()


def test_the_first_delivery_ends_the_hold_and_the_suspects_are_tried_again_at_once() -> None:
    some = driver(systemic_rejections=3)
    some.put("abcd")
    attempts = some.start_all()
    for attempt in attempts[:3]:
        some.end(attempt, REJECTED)
    assert (some.causes, some.lanes.parked_events) == ({"systemic"}, 3)
    some.end(attempts[3], DELIVERED)
    assert (some.causes, some.lanes.parked_events) == (set(), 0)
    for outcome in (REJECTED, DELIVERED, DELIVERED):
        some.run(outcome)
    assert some.dead == {1: "rejected"}, "the poison among the good ones goes"
    assert some.delivered == [4, 2, 3]


def test_so_many_rejections_in_a_row_are_final_however_lately_something_was_delivered_and_then_all_is_held() -> None:
    """A bad deploy right after a delivery must not bury the backlog."""
    some = driver(systemic_rejections=10)
    some.deliver()
    some.put([f"c{number}" for number in range(50)])
    decisions = [why(some.run(REJECTED)) for _ in range(11)]
    assert decisions == ["rejected"] * 10 + ["suspect"]
    assert some.causes == {"systemic"}
    for _ in range(20):
        some.end(some.pass_to_next_probe(), REJECTED)
    assert len(some.dead) == 10
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()
    assert why(some.run(REJECTED)) == "rejected", "and now one poison event among good ones goes"


def test_an_event_at_fault_under_one_key_is_none_under_the_next() -> None:
    some = driver()
    some.put("abc")
    some.run(BLOCKED)
    some.end(some.pass_to_next_probe(), DELIVERED)
    some.run(BLOCKED)
    assert some.causes == set(), "it is at fault"
    some.engine.key_changed(some.now)
    some.wait(100)
    some.run(BLOCKED)
    assert some.causes == {"auth"}


@pytest.mark.parametrize("outcome", [BLOCKED, FAILED, REJECTED])
def test_what_a_probe_with_the_old_key_comes_to_does_not_put_off_the_new_key(outcome: Outcome) -> None:
    some = driver()
    some.put("ab")
    some.run(BLOCKED)
    probe = some.pass_to_next_probe()
    some.engine.key_changed(some.now)
    some.end(probe, outcome)
    assert some.start().is_probe, "at once"


def test_a_delivery_ends_the_hold_of_suspects_and_no_other() -> None:
    some = driver(systemic_rejections=1)
    some.put("abc")
    a, b, c = some.start(), some.start(), some.start()
    some.end(a, REJECTED)
    some.end(b, BLOCKED)
    some.end(c, DELIVERED)
    assert some.causes == {"auth"}


@pytest.mark.parametrize("outcome", [REJECTED, FAILED])
def test_what_went_back_is_tried_again_as_soon_as_there_is_room_for_it(outcome: Outcome) -> None:
    """And not when its rest is over, which is chosen long."""
    some = Driver(DeliverySettings(max_concurrency=1, systemic_rejections=OUT_OF_REACH, breaker_failures=OUT_OF_REACH))
    some.put([f"c{number}" for number in range(30)])
    went_back = [number for number in range(1, 31) if isinstance(some.run(outcome), Release)]
    assert len(went_back) == 30 - 8, "half of the window is retried"
    some.now += 0.5
    while len(some.delivered) < 30:
        attempt = some.try_start()
        if attempt is None:
            some.now += 0.01
        else:
            some.end(attempt, DELIVERED)
    assert some.now < 1000.0 + 1.0, "none had to wait for the end of its rest"


def test_an_event_that_once_was_a_suspect_and_now_fails_otherwise_waits_for_its_backoff() -> None:
    some = driver()
    some.put("ab")
    some.run(REJECTED)
    some.run(DELIVERED)
    attempt = some.start()
    assert attempt.taken.event.customer == "a"
    some.end(attempt, FAILED)
    for number in range(5):
        some.deliver(f"c{number}")
    assert some.attempts["a"] == 2, "deliveries do not end its wait"


@pytest.mark.parametrize("as_probe", [False, True])
def test_a_suspect_too_old_that_is_rejected_once_more_is_a_dead_letter_even_as_a_probe(*, as_probe: bool) -> None:
    some = driver(systemic_rejections=1 if as_probe else OUT_OF_REACH)
    some.put("a", accepted_at=OLD)
    assert why(some.run(REJECTED)) == "suspect", "the first rejection makes it one"
    some.now += 1.0
    attempt = some.start()
    assert attempt.is_probe == as_probe
    decision = some.end(attempt, REJECTED)
    assert isinstance(decision, Ack)
    assert isinstance(decision.fate, fates.DeadLettered)
    assert (decision.fate.reason, decision.fate.attempts) == ("rejected", 2)


def test_a_suspect_that_is_not_too_old_is_never_a_dead_letter_while_nothing_is_delivered() -> None:
    some = driver(systemic_rejections=2)
    some.put("abc")
    for _ in range(2):
        some.run(REJECTED)
    for _ in range(50):
        some.end(some.pass_to_next_probe(), REJECTED)
    assert some.dead == {}
    some.end(some.pass_to_next_probe(), DELIVERED)
    assert some.causes == set()


def test_a_final_rejection_of_a_probe_lets_its_lane_go_on_and_the_hold_too() -> None:
    some = driver(breaker_failures=1)
    some.deliver()
    some.put("abb")
    some.run(FAILED)
    probe = some.pass_to_next_probe()
    assert why(some.end(probe, REJECTED)) == "rejected"
    assert some.causes == {"breaker"}
    before = some.now
    some.pass_to_next_probe()
    assert some.now == before + 2.0
