"""Forecasts: when the buffer will be full, and when empty, if events go on to come and leave at the same rates.

Pure: the caller gives the times, in seconds of any clock. Rates are smoothed exponentially, so a burst of seconds does not
decide, and what happened minutes ago is forgotten.
"""

from dataclasses import dataclass
from math import exp, inf
from typing import Final

SMOOTHING_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How full the buffer is. Totals count since any beginning."""

    at: float
    events: int
    bytes: int
    accepted_events: int
    """In total. How many have left follows from this and `events`."""


class Forecast:
    """Give it a sample every few seconds while something changes, and one before something changes again."""

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._last: Sample | None = None
        self._weight = 0.0
        self._in_per_second = 0.0
        self._growth_per_second = 0.0  # of the events, and of their bytes
        self._growth_bytes_per_second = 0.0

    def add(self, sample: Sample) -> None:
        """Take the rates since the last sample into account."""
        last, self._last = self._last, sample
        if last is None or sample.at <= last.at:
            return
        seconds = sample.at - last.at
        share = 1 - exp(-seconds / SMOOTHING_SECONDS)
        # While there are few samples, use their mean rather than one that begins at 0.
        self._weight += (1 - self._weight) * share
        share /= self._weight
        self._in_per_second += share * ((sample.accepted_events - last.accepted_events) / seconds - self._in_per_second)
        self._growth_per_second += share * ((sample.events - last.events) / seconds - self._growth_per_second)
        growth_bytes = (sample.bytes - last.bytes) / seconds
        self._growth_bytes_per_second += share * (growth_bytes - self._growth_bytes_per_second)

    @property
    def in_per_second(self) -> float:
        """Events accepted."""
        return self._in_per_second

    @property
    def out_per_second(self) -> float:
        """Events that left the buffer."""
        return max(0.0, self._in_per_second - self._growth_per_second)

    @property
    def full_seconds(self) -> float:
        """Return how long until either bound is reached: 0 when one is, infinite if the buffer does not grow."""
        if self._last is None:
            return inf
        return min(
            _until(self._max_events - self._last.events, self._growth_per_second),
            _until(self._max_bytes - self._last.bytes, self._growth_bytes_per_second),
        )

    @property
    def drain_seconds(self) -> float:
        """Return how long until nothing is buffered: 0 when nothing is, infinite if the buffer does not shrink."""
        return inf if self._last is None else _until(self._last.events, -self._growth_per_second)


def _until(distance: float, per_second: float) -> float:
    if distance <= 0:
        return 0.0
    return distance / per_second if per_second > 1e-9 else inf
