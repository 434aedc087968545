"""The forecasts: when the buffer is full, and when empty."""

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.sampling import SMOOTHING_SECONDS, Forecast, Sample


class Flow:
    """A buffer into which so much flows, and from which so much, while it is looked at once each step."""

    def __init__(self, *, events: float = 0.0, max_events: int = 10_000, max_bytes: int = 10**9) -> None:
        self.forecast = Forecast(max_events=max_events, max_bytes=max_bytes)
        self.now, self.events, self.accepted = 500.0, events, 12_345.0
        self.look()

    def look(self, size_bytes: int = 100) -> None:
        events = round(self.events)
        self.forecast.add(Sample(self.now, events, size_bytes * events, round(self.accepted)))

    def go_on(self, seconds: float, *, come: float, go: float, step: float = 1.0, size_bytes: int = 100) -> Forecast:
        """Let events come and go, so many a second."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.accepted += come * step
            self.events += (come - go) * step
            self.look(size_bytes)
        return self.forecast


def test_without_a_rate_there_is_no_end_in_sight() -> None:
    forecast = Forecast(max_events=10, max_bytes=100)
    assert (forecast.full_seconds, forecast.drain_seconds) == (inf, inf)
    forecast.add(Sample(1.0, 5, 50, 5))
    assert (forecast.full_seconds, forecast.drain_seconds) == (inf, inf)
    assert (forecast.in_per_second, forecast.out_per_second) == (0.0, 0.0)


def test_two_samples_are_enough() -> None:
    forecast = Flow().go_on(1, come=100, go=60)
    assert forecast.in_per_second == pytest.approx(100)
    assert forecast.out_per_second == pytest.approx(60)


def test_a_buffer_that_grows_steadily_is_full_when_what_is_free_is_used_up() -> None:
    forecast = Flow(events=1000).go_on(100, come=50, go=20)
    assert forecast.full_seconds == pytest.approx((10_000 - 1000 - 3000) / 30)
    assert forecast.drain_seconds == inf


def test_a_buffer_that_shrinks_steadily_is_empty_when_all_has_gone() -> None:
    forecast = Flow(events=5000).go_on(100, come=20, go=50)
    assert forecast.drain_seconds == pytest.approx((5000 - 3000) / 30)
    assert forecast.full_seconds == inf


def test_the_bound_that_is_reached_first_counts() -> None:
    forecast = Flow(events=0, max_bytes=100_000).go_on(10, come=50, go=0, size_bytes=100)
    assert forecast.full_seconds == pytest.approx((100_000 - 500 * 100) / 5000)


def test_larger_events_fill_a_buffer_of_which_the_number_of_events_does_not_grow() -> None:
    forecast = Forecast(max_events=100, max_bytes=1000)
    forecast.add(Sample(0.0, 10, 100, 10))
    forecast.add(Sample(1.0, 10, 200, 20))
    assert forecast.full_seconds == pytest.approx(8.0)
    assert forecast.drain_seconds == inf


def test_a_buffer_that_stays_as_it_is_is_neither_full_nor_empty_ever() -> None:
    forecast = Flow(events=500).go_on(100, come=70, go=70)
    assert (forecast.full_seconds, forecast.drain_seconds) == (inf, inf)
    assert forecast.out_per_second == pytest.approx(70)


@pytest.mark.parametrize(("events", "size_bytes"), [(10, 0), (11, 0), (0, 100), (0, 120)])
def test_a_buffer_is_full_now_when_either_bound_is_reached(events: int, size_bytes: int) -> None:
    forecast = Forecast(max_events=10, max_bytes=100)
    forecast.add(Sample(0.0, events, size_bytes, 10))
    assert forecast.full_seconds == 0.0


def test_an_empty_buffer_is_empty_now_even_if_it_has_grown() -> None:
    flow = Flow()
    flow.go_on(10, come=10, go=0)
    flow.events = 0
    assert flow.go_on(1, come=0, go=0).drain_seconds == 0.0


def test_a_burst_of_one_second_moves_the_rate_by_a_thirtieth_only() -> None:
    flow = Flow()
    flow.go_on(600, come=10, go=10)
    burst = flow.go_on(1, come=1010, go=1010)
    assert burst.in_per_second == pytest.approx(10 + 1000 * (1 - exp(-1 / SMOOTHING_SECONDS)))
    assert burst.in_per_second < 45


def test_what_happened_minutes_ago_is_forgotten() -> None:
    flow = Flow()
    flow.go_on(600, come=100, go=100)
    assert flow.go_on(SMOOTHING_SECONDS, come=0, go=0).in_per_second == pytest.approx(100 / exp(1))
    assert flow.go_on(270, come=0, go=0).in_per_second < 0.01


@pytest.mark.parametrize("step", [0.25, 1.0, 5.0, 30.0])
def test_how_often_it_is_looked_at_does_not_matter(step: float) -> None:
    flow = Flow()
    flow.go_on(600, come=40, go=40, step=step)
    assert flow.go_on(30, come=80, go=80, step=step).in_per_second == pytest.approx(80 - 40 / exp(1), rel=1e-3)


def test_the_first_samples_count_alike_and_not_as_if_there_had_been_none_before() -> None:
    flow = Flow()
    flow.go_on(1, come=100, go=0)
    assert flow.go_on(1, come=0, go=0).in_per_second == pytest.approx(50, rel=0.02)


def test_a_clock_that_stands_still_or_goes_back_tells_nothing_of_a_rate() -> None:
    forecast = Forecast(max_events=100, max_bytes=1000)
    for at, events in [(10.0, 0), (11.0, 10), (11.0, 90), (5.0, 20)]:
        forecast.add(Sample(at, events, events, events))
    assert forecast.in_per_second == pytest.approx(10)
    assert forecast.full_seconds == pytest.approx((100 - 20) / 10)


@given(
    st.lists(
        st.tuples(
            st.just(0.0) | st.floats(1e-6, 100), st.integers(0, 10**7), st.integers(0, 10**10), st.integers(0, 10**6)
        ),
        max_size=20,
    )
)
def test_no_rate_and_no_forecast_is_ever_negative(steps: list[tuple[float, int, int, int]]) -> None:
    forecast = Forecast(max_events=10**6, max_bytes=10**9)
    at, accepted = 0.0, 0
    for seconds, events, size_bytes, new in steps:
        at += seconds
        accepted += new
        forecast.add(Sample(at, events, size_bytes, accepted))
        assert forecast.in_per_second >= 0.0
        assert forecast.out_per_second >= 0.0
        assert forecast.full_seconds >= 0.0
        assert forecast.drain_seconds >= 0.0


def test_what_is_delivered_and_what_is_refused_have_rates_of_the_same_kind() -> None:
    forecast = Forecast(max_events=1000, max_bytes=10**6)
    for second in range(200):
        forecast.add(Sample(float(second), 10 * second, 0, 30 * second, 20 * second, 5 * second))
    assert forecast.in_per_second == pytest.approx(30)
    assert forecast.delivered_per_second == pytest.approx(20)
    assert forecast.refused_per_second == pytest.approx(5)


def test_totals_of_a_new_file_in_place_of_a_damaged_one_are_no_negative_rate() -> None:
    forecast = Forecast(max_events=1000, max_bytes=10**6)
    forecast.add(Sample(1.0, 0, 0, 500, 400, 300))
    forecast.add(Sample(2.0, 0, 0, 500, 10, 0))
    assert (forecast.delivered_per_second, forecast.refused_per_second) == (0.0, 0.0)
