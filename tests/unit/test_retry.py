"""The retry schedule: exponential backoff with full jitter."""

import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.delivery.pacing import RetrySchedule
from forwarder.settings import DeliverySettings

DRAWS = 20_000


@pytest.fixture(autouse=True)
def same_draws_each_time() -> Iterator[None]:
    """What is random follows from a seed, so that a figure is either always in its bounds or never."""
    before = random.getstate()
    random.seed(20261123)
    yield
    random.setstate(before)


def schedule(initial: float = 0.5, maximum: float = 60.0) -> RetrySchedule:
    return RetrySchedule(DeliverySettings(retry_initial_seconds=initial, retry_max_seconds=maximum))


def draws(attempts: int, *, of: RetrySchedule | None = None, number: int = DRAWS) -> list[float]:
    some = of or schedule()
    return [some.delay_seconds(attempts) for _ in range(number)]


def bound(attempts: int, initial: float = 0.5, maximum: float = 60.0) -> float:
    """Write the rule down naively: initial, doubled with each attempt after the first, but no more than max."""
    most = initial
    for _ in range(min(attempts - 1, 2000)):
        most = min(maximum, most * 2)
    return min(maximum, most)


@pytest.mark.parametrize(
    ("attempts", "most"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (7, 32.0), (8, 60.0), (9, 60.0), (100, 60.0)]
)
def test_delays_fill_the_whole_range_from_zero_to_a_bound_that_doubles(attempts: int, most: float) -> None:
    delays = draws(attempts)
    assert all(0.0 <= delay <= most for delay in delays)
    assert min(delays) < 0.001 * most
    assert max(delays) > 0.999 * most


@pytest.mark.parametrize("attempts", [1, 4, 8, 1000])
def test_delays_are_spread_evenly_over_their_range(attempts: int) -> None:
    delays = draws(attempts)
    most, tenths = bound(attempts), [0] * 10
    for delay in delays:
        tenths[min(9, int(10 * delay / most))] += 1
    expected, five_sigma = DRAWS / 10, 5 * (DRAWS * 0.1 * 0.9) ** 0.5
    assert all(abs(tenth - expected) < five_sigma for tenth in tenths), tenths


def test_the_mean_delay_doubles_with_each_attempt_until_the_maximum() -> None:
    means = [statistics.fmean(draws(attempts)) for attempts in range(1, 11)]
    for attempts, mean in enumerate(means, 1):
        assert mean == pytest.approx(bound(attempts) / 2, rel=0.03)


def test_one_delay_says_nothing_of_the_next() -> None:
    delays = draws(4)
    assert abs(statistics.correlation(delays[:-1], delays[1:])) < 0.03
    assert len(set(delays)) > 0.99 * DRAWS


@pytest.mark.parametrize("attempts", [1024, 1075, 10_000, 10**6, 2**31, 10**12])
@pytest.mark.parametrize(("initial", "maximum"), [(0.5, 60.0), (1e-3, 86_400.0), (60.0, 60.0), (0.3, 0.7)])
def test_huge_numbers_of_attempts_neither_overflow_nor_take_long(attempts: int, initial: float, maximum: float) -> None:
    delays = draws(attempts, of=schedule(initial, maximum), number=50)
    assert all(0.0 <= delay <= maximum for delay in delays)
    assert max(delays) > 0.8 * maximum


@given(attempts=st.integers(1, 200), initial=st.floats(0.001, 3600), factor=st.floats(1, 1e6))
def test_no_delay_is_ever_outside_its_bounds(attempts: int, initial: float, factor: float) -> None:
    maximum = min(initial * factor, 86_400.0)
    delays = draws(attempts, of=schedule(initial, maximum), number=20)
    assert all(0.0 <= delay <= bound(attempts, initial, maximum) * (1 + 1e-9) for delay in delays)


def test_a_schedule_has_no_memory_of_the_events_before() -> None:
    some = schedule()
    draws(50, of=some, number=100)
    assert all(delay <= 0.5 for delay in draws(1, of=some, number=1000))
