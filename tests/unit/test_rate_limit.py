"""The rate limit: even distances, no burst."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.delivery.pacing import RateLimit

NOW = 1000.0
CATCH_UP_SECONDS = 0.05


def starts(limit: RateLimit, *, now: float, seconds: float, step: float = 0.001) -> list[float]:
    """Start attempts as soon as they may, looked at once each step; return when they started."""
    times = []
    for number in range(round(seconds / step)):
        at = now + number * step
        while limit.next_at <= at:
            limit.started(at)
            times.append(at)
    return times


def test_without_a_rate_all_may_start_at_once() -> None:
    limit = RateLimit(0)
    for _ in range(1000):
        assert limit.next_at <= NOW
        limit.started(NOW)
    assert limit.next_at <= NOW


def test_the_first_attempt_may_start_at_once() -> None:
    assert RateLimit(0.001).next_at <= NOW


@pytest.mark.parametrize("per_second", [0.1, 2.0, 100.0, 1000.0])
def test_there_is_no_burst_at_the_start(per_second: float) -> None:
    limit = RateLimit(per_second)
    limit.started(NOW)
    assert limit.next_at == NOW + 1 / per_second


@pytest.mark.parametrize("per_second", [2.0, 100.0, 1000.0])
def test_there_is_no_burst_after_a_pause(per_second: float) -> None:
    limit = RateLimit(per_second)
    limit.started(NOW)
    limit.started(NOW + 60.0)
    assert limit.next_at == NOW + 60.0 + 1 / per_second


@pytest.mark.parametrize("per_second", [2.0, 10.0, 100.0])
def test_attempts_go_at_even_distances(per_second: float) -> None:
    times = starts(RateLimit(per_second), now=NOW, seconds=2.0)
    assert len(times) == pytest.approx(2 * per_second, abs=1)
    distances = [later - earlier for earlier, later in pairwise(times)]
    assert all(distance == pytest.approx(1 / per_second, abs=0.0011) for distance in distances)


def test_timers_that_are_late_do_not_lower_the_rate() -> None:
    times = starts(RateLimit(300.0), now=NOW, seconds=10.0, step=0.016)
    assert len(times) == pytest.approx(3000, abs=6)


def test_what_is_later_than_a_timer_ever_is_is_not_made_up() -> None:
    limit = RateLimit(100.0)
    limit.started(NOW)
    limit.started(NOW + 0.01 + 0.9 * CATCH_UP_SECONDS)
    assert limit.next_at == pytest.approx(NOW + 0.02), "made up"
    limit.started(NOW + 0.02 + 1.1 * CATCH_UP_SECONDS)
    assert limit.next_at == pytest.approx(NOW + 0.02 + 1.1 * CATCH_UP_SECONDS + 0.01)


@given(per_second=st.floats(0.5, 2000), pauses=st.lists(st.floats(0, 0.3), min_size=1, max_size=30))
def test_over_no_span_are_there_more_than_the_rate_allows_and_what_is_made_up(
    per_second: float, pauses: list[float]
) -> None:
    limit, now, times = RateLimit(per_second), NOW, list[float]()
    for pause in pauses:
        now += pause
        while limit.next_at <= now:
            limit.started(now)
            times.append(now)
    for first, since in enumerate(times):
        most = 1 + per_second * (times[-1] - since + CATCH_UP_SECONDS)
        assert len(times) - first <= most + 1e-6


@pytest.mark.parametrize(("before", "after"), [(0.001, 10.0), (10.0, 0.001), (10.0, 0.0), (0.001, 0.0)])
def test_another_limit_holds_from_the_last_attempt_on(before: float, after: float) -> None:
    limit = RateLimit(before)
    limit.started(NOW)
    limit.change(after)
    assert limit.next_at == pytest.approx(NOW + (1 / after if after else 0.0))
    limit.started(NOW + 5000.0)
    assert limit.next_at == pytest.approx(NOW + 5000.0 + (1 / after) if after else NOW)


def test_a_limit_where_there_was_none_makes_no_burst() -> None:
    limit = RateLimit(0)
    for _ in range(100):
        limit.started(NOW)
    limit.change(2.0)
    assert len(starts(limit, now=NOW, seconds=2.0)) == 4
