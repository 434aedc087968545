"""The holds: when a probe may go, and what starts and ends."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.delivery.holds import HoldEnded, Holds, HoldStarted
from forwarder.settings import DeliverySettings
from forwarder.words import HOLD_CAUSES, HoldCause

NOW = 1000.0
NO_JITTER, MOST_JITTER = 0.0, 1.0


def holds(
    *, initial: float = 1.0, maximum: float = 60.0, random_share: float | Callable[[], float] = NO_JITTER
) -> Holds:
    settings = DeliverySettings(probe_initial_seconds=initial, probe_max_seconds=maximum)
    return Holds(settings, random_share=random_share if callable(random_share) else lambda: random_share)


def fail_probe(some: Holds, *, seconds: float = 0.0) -> float:
    """Start a probe as soon as one may go, let it fail, and return how long the next one must wait then."""
    at = some.probe_at
    assert at is not None
    some.probe_started()
    some.probe_failed(at + seconds)
    next_at = some.probe_at
    assert next_at is not None
    return next_at - (at + seconds)


def test_at_first_nothing_holds() -> None:
    some = holds()
    assert (dict(some.causes), some.probe_at, some.news()) == ({}, None, [])


@pytest.mark.parametrize("cause", [cause for cause in HOLD_CAUSES if cause != "retry_after"])
def test_the_first_probe_goes_after_the_initial_interval(cause: HoldCause) -> None:
    some = holds(initial=3.0)
    some.hold(cause, NOW)
    assert some.probe_at == NOW + 3.0
    assert some.causes == {cause: NOW}


def test_each_probe_that_fails_doubles_the_interval_from_its_end_up_to_the_maximum() -> None:
    some = holds(maximum=10.0)
    some.hold("breaker", NOW)
    assert [fail_probe(some, seconds=5.0) for _ in range(6)] == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_jitter_makes_intervals_up_to_a_quarter_shorter_and_never_longer_than_the_limit() -> None:
    some = holds(maximum=4.0, random_share=MOST_JITTER)
    some.hold("breaker", NOW)
    assert some.probe_at == NOW + 0.75
    assert [fail_probe(some) for _ in range(3)] == [1.5, 3.0, 3.0]


def test_a_lane_not_yet_tried_is_probed_after_the_initial_interval_however_long_the_interval_is() -> None:
    some = holds(maximum=60.0)
    some.hold("auth", NOW)
    assert (some.early_probe_at, some.probe_at) == (NOW + 1.0, NOW + 1.0)
    times: list[float | None] = []
    for number in range(1, 6):
        some.probe_started()
        times.append(some.early_probe_at)
        some.probe_failed(NOW + number)
        times.append(some.early_probe_at)
    assert times == [None, NOW + 2, None, NOW + 3, None, NOW + 4, None, NOW + 5, None, NOW + 6]
    assert some.probe_at == NOW + 5 + 32


def test_an_early_probe_waits_for_a_retry_after_too() -> None:
    some = holds()
    some.hold("auth", NOW)
    some.hold("retry_after", NOW, seconds=30.0)
    assert some.early_probe_at == NOW + 30.0


def test_each_wait_is_drawn_anew() -> None:
    shares = iter([0.0, 1.0, 0.5])
    some = holds(maximum=1.0, random_share=lambda: next(shares))
    some.hold("breaker", NOW)
    assert some.probe_at == NOW + 1.0
    assert [fail_probe(some), fail_probe(some)] == [0.75, 0.875]


def test_while_a_probe_is_under_way_no_other_may_go() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.probe_started()
    assert some.probe_at is None
    some.hold("auth", NOW)
    assert some.probe_at is None


def test_a_probe_that_came_to_nothing_known_may_be_made_again_at_once() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.probe_started()
    some.probe_cancelled()
    assert some.probe_at == NOW + 1.0


def test_a_cause_that_shows_again_puts_the_probe_off_no_further() -> None:
    some = holds()
    some.hold("breaker", NOW)
    for seconds in range(1, 10):
        some.hold("breaker", NOW + 0.1 * seconds)
    assert some.probe_at == NOW + 1.0
    assert some.causes == {"breaker": NOW}


def test_a_probe_waits_for_the_latest_of_the_times_of_all_causes() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.hold("retry_after", NOW, seconds=10.0)
    assert some.probe_at == NOW + 10.0
    some.hold("auth", NOW + 9.5)
    assert some.probe_at == NOW + 10.5
    some.hold("systemic", NOW + 9.6)
    assert some.probe_at == NOW + 10.6


def test_a_cause_that_is_added_never_brings_the_probe_forward() -> None:
    shares = iter([0.0, 1.0])
    some = holds(random_share=lambda: next(shares))
    some.hold("breaker", NOW)
    some.hold("auth", NOW + 0.1)
    assert some.probe_at == NOW + 1.0


@pytest.mark.parametrize(("first", "second", "until"), [(10.0, 3.0, 10.0), (3.0, 10.0, 15.0), (10.0, 5.0, 10.0)])
def test_of_several_retry_afters_the_latest_time_counts(first: float, second: float, until: float) -> None:
    some = holds()
    some.hold("retry_after", NOW, seconds=first)
    some.hold("retry_after", NOW + 5.0, seconds=second)
    assert some.probe_at == NOW + until


@pytest.mark.parametrize(
    ("asked", "share", "waits"),
    [
        (300.0, 0.0, 300.0),
        (301.0, 0.0, 300.0),
        (86_400.0, 0.0, 300.0),
        (86_400.0, 1.0, 300.0),
        (290.0, 1.0, 300.0),
        (8.0, 0.5, 9.0),
    ],
)
def test_a_retry_after_counts_up_to_300_seconds_and_jitter_makes_it_longer_only_up_to_that(
    asked: float, share: float, waits: float
) -> None:
    some = holds(random_share=share)
    some.hold("retry_after", NOW, seconds=asked)
    assert some.probe_at == NOW + waits


def test_a_retry_after_of_nothing_holds_until_a_probe_that_may_go_at_once() -> None:
    some = holds()
    some.hold("retry_after", NOW, seconds=0.0)
    assert some.probe_at == NOW
    assert some.causes == {"retry_after": NOW}


def test_a_probe_that_fails_before_its_retry_after_is_over_does_not_shorten_that() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.probe_started()
    some.hold("retry_after", NOW + 1.0, seconds=100.0)
    some.probe_failed(NOW + 1.0)
    assert some.probe_at == NOW + 101.0


def test_a_delivered_probe_clears_every_cause() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.hold("retry_after", NOW + 1.0, seconds=5.0)
    some.hold("auth", NOW + 2.0)
    some.hold("systemic", NOW + 3.0)
    some.probe_started()
    some.news()
    some.probe_delivered(NOW + 10.0)
    assert (dict(some.causes), some.probe_at) == ({}, None)
    assert some.news() == [
        HoldEnded("breaker", 10.0),
        HoldEnded("retry_after", 9.0),
        HoldEnded("auth", 8.0),
        HoldEnded("systemic", 7.0),
    ]


def test_one_cause_that_is_cleared_leaves_the_others_and_their_interval() -> None:
    some = holds()
    some.hold("systemic", NOW)
    some.hold("auth", NOW)
    assert fail_probe(some) == 2.0
    some.clear("systemic", NOW + 2.0)
    assert dict(some.causes) == {"auth": NOW}
    assert fail_probe(some) == 4.0


def test_to_clear_what_does_not_hold_is_no_news() -> None:
    some = holds()
    some.hold("auth", NOW)
    some.news()
    some.clear("systemic", NOW)
    assert some.news() == []
    assert some.probe_at == NOW + 1.0


def test_the_first_hold_after_the_settings_changed_begins_with_the_new_initial_interval() -> None:
    some = holds(initial=1.0, maximum=60.0)
    some.use(DeliverySettings(probe_initial_seconds=30.0, probe_max_seconds=60.0))
    some.hold("breaker", 0.0)
    assert some.probe_at == 30.0


def test_a_hold_goes_on_with_its_interval_when_the_settings_change() -> None:
    some = holds(initial=8.0, maximum=60.0)
    some.hold("breaker", 0.0)
    some.use(DeliverySettings(probe_initial_seconds=1.0, probe_max_seconds=10.0))
    assert some.probe_at == 8.0
    some.probe_started()
    some.probe_failed(8.0)
    assert some.probe_at == 18.0, "twice as long, and at most the new maximum"


@pytest.mark.parametrize("cleared_by", ["probe", "cause"])
def test_a_hold_after_the_last_one_begins_with_the_initial_interval(cleared_by: str) -> None:
    some = holds()
    some.hold("systemic", NOW)
    for _ in range(4):
        fail_probe(some)
    now = NOW + 20.0
    if cleared_by == "probe":
        some.probe_started()
        some.probe_delivered(now)
    else:
        some.clear("systemic", now)
    some.hold("breaker", now)
    assert some.probe_at == now + 1.0, "the times of causes that are gone do not count"
    assert fail_probe(some) == 2.0


def test_a_retry_after_that_was_cleared_counts_no_more() -> None:
    some = holds()
    some.hold("breaker", NOW)
    some.probe_started()
    some.hold("retry_after", NOW + 1.0, seconds=300.0)
    some.probe_delivered(NOW + 1.5)
    some.hold("auth", NOW + 2.0)
    assert some.probe_at == NOW + 3.0


def test_a_probe_that_fails_after_its_hold_ended_changes_nothing() -> None:
    some = holds()
    some.hold("systemic", NOW)
    some.probe_started()
    some.clear("systemic", NOW + 2.0)
    some.probe_failed(NOW + 3.0)
    assert some.probe_at is None
    some.hold("breaker", NOW + 3.0)
    assert some.probe_at == NOW + 4.0


def test_what_may_have_been_mended_is_probed_at_once_and_then_at_the_initial_intervals() -> None:
    some = holds()
    some.hold("auth", NOW)
    for _ in range(5):
        fail_probe(some)
    some.probe_soon(NOW + 40.0)
    assert some.probe_at == NOW + 40.0
    assert fail_probe(some) == 2.0


def test_a_retry_after_is_waited_for_even_if_something_was_mended() -> None:
    some = holds()
    some.hold("auth", NOW)
    some.hold("retry_after", NOW, seconds=30.0)
    some.probe_soon(NOW + 5.0)
    assert some.probe_at == NOW + 30.0


def test_each_start_is_told_once_with_how_long_it_holds_at_least() -> None:
    some = holds()
    some.hold("retry_after", NOW, seconds=30.0)
    some.hold("breaker", NOW + 10.0)
    some.hold("breaker", NOW + 11.0)
    some.hold("retry_after", NOW + 12.0, seconds=300.0)
    assert some.news() == [HoldStarted("retry_after", 30.0), HoldStarted("breaker", 1.0)]
    assert some.news() == []


@given(
    fails=st.lists(st.floats(0, 100), max_size=12),
    initial=st.floats(0.1, 10),
    factor=st.floats(1, 100),
    share=st.floats(0, 1),
)
def test_no_interval_is_much_shorter_than_the_initial_or_longer_than_the_maximum(
    fails: list[float], initial: float, factor: float, share: float
) -> None:
    some = holds(initial=initial, maximum=initial * factor, random_share=share)
    some.hold("breaker", NOW)
    waits = [fail_probe(some, seconds=seconds) for seconds in fails]
    assert all(initial * 0.7499 <= wait <= initial * factor * 1.0001 for wait in waits)
    assert waits == pytest.approx(sorted(waits)), "they only grow"
