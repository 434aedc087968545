"""The last five minutes of rates: evenly spaced, bounded, never negative."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.sampling import INTERVAL_SECONDS, MAX_SAMPLES, History


class Flow:
    """A daemon through which so much flows, told of every few seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.totals = {"accepted": 700, "delivered": 600, "refused": 50}
        self.buffered = 100
        self.history = History(clock=lambda: self.now)
        self.tell()

    def tell(self) -> None:
        self.history.add(**self.totals, buffered=self.buffered)

    def go_on(self, seconds: int, *, step: int = 1, **per_second: int) -> dict[str, Any]:
        for _ in range(seconds // step):
            self.now += step
            for name, number in per_second.items():
                self.totals[name] += number * step
            self.tell()
        return self.history.described()


def test_before_the_first_interval_has_passed_there_is_nothing_to_show() -> None:
    flow = Flow()
    shown = flow.go_on(4, accepted=10)
    assert shown == {"interval_seconds": 5.0, "accepted": [], "delivered": [], "refused": [], "buffered": []}


def test_each_sample_is_the_mean_rate_of_its_interval_and_how_many_are_buffered_at_its_end() -> None:
    flow = Flow()
    flow.go_on(5, accepted=100, delivered=80, refused=3)
    flow.buffered = 250
    shown = flow.go_on(5, accepted=10)
    assert shown["accepted"] == [100, 10]
    assert shown["delivered"] == [80, 0]
    assert shown["refused"] == [3, 0]
    assert shown["buffered"] == [100, 250]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 15])
def test_there_is_one_sample_for_each_interval_however_often_it_is_told(step: int) -> None:
    shown = Flow().go_on(60, step=step, accepted=40)
    assert shown["accepted"] == [40] * 12


def test_the_oldest_samples_go_when_there_are_enough() -> None:
    flow = Flow()
    flow.go_on(60, accepted=7)
    shown = flow.go_on(int(INTERVAL_SECONDS) * MAX_SAMPLES, accepted=9)
    assert shown["accepted"] == [9] * MAX_SAMPLES
    assert len(shown["buffered"]) == MAX_SAMPLES


def test_a_ledger_that_begins_anew_shows_no_negative_rate() -> None:
    flow = Flow()
    flow.totals = {"accepted": 0, "delivered": 0, "refused": 0}
    assert flow.go_on(5)["accepted"] == [0]
    assert flow.go_on(5, accepted=4)["accepted"] == [0, 4]


@given(st.lists(st.tuples(st.floats(0, 10_000), st.integers(0, 10**6)), max_size=30))
def test_samples_are_as_many_as_intervals_have_passed_and_all_lists_are_alike_long(
    steps: list[tuple[float, int]],
) -> None:
    flow = Flow()
    began = flow.now
    for seconds, number in steps:
        flow.now += seconds
        flow.totals["accepted"] += number
        flow.tell()
        shown = flow.history.described()
        passed = int((flow.now - began) / INTERVAL_SECONDS + 1e-9)
        lengths = {len(shown[name]) for name in ("accepted", "delivered", "refused", "buffered")}  # type: ignore[arg-type]
        assert len(lengths) == 1
        assert lengths.pop() in {min(passed, MAX_SAMPLES), min(passed + 1, MAX_SAMPLES)}
        assert all(rate >= 0 for rate in shown["accepted"])  # type: ignore[attr-defined]
