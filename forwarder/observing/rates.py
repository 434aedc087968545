"""How fast events come and leave: a forecast of when the buffer is full or empty, and the last five minutes.

Pure: the caller gives the times, in seconds of any clock that never goes back.
"""

from collections import deque
from dataclasses import dataclass
from math import exp, inf
from typing import Final

from forwarder.event import Clock

SMOOTHING_SECONDS: Final = 30.0
INTERVAL_SECONDS: Final = 5.0
MAX_SAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """How full the buffer is. Totals count since any beginning."""

    at: float
    events: int
    bytes: int
    accepted_events: int
    """In total. How many have left follows from this and `events`."""


class Forecast:
    """When the buffer will be full or empty if events go on to come and leave at the same rates.

    Rates are smoothed exponentially: a burst of seconds does not decide, and minutes ago is forgotten. Give it a sample
    every few seconds while something changes, and one before something changes again.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._last: Sample | None = None
        self._weight = 0.0
        self.in_per_second = 0.0
        """Events accepted."""
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
        self.in_per_second += share * ((sample.accepted_events - last.accepted_events) / seconds - self.in_per_second)
        self._growth_per_second += share * ((sample.events - last.events) / seconds - self._growth_per_second)
        growth_bytes = (sample.bytes - last.bytes) / seconds
        self._growth_bytes_per_second += share * (growth_bytes - self._growth_bytes_per_second)

    @property
    def out_per_second(self) -> float:
        """Events that left the buffer."""
        return max(0.0, self.in_per_second - self._growth_per_second)

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


class History:
    """The last five minutes: how many events a second came and went, and how many were buffered.

    Samples are INTERVAL_SECONDS apart, so an index is a time. Of totals that are given more often, some are skipped; if
    they are given less often, all samples that were due since are alike. So give them every few seconds while they change,
    and before they change again.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last_at: float | None = None
        self._due_at = 0.0
        self._last = (0, 0, 0)
        self._samples: deque[tuple[float, float, float, int]] = deque(maxlen=MAX_SAMPLES)

    def add(self, *, accepted: int, delivered: int, refused: int, buffered: int) -> None:
        """Add how many events there were in total, since any beginning, and how many are buffered now."""
        now, totals = self._clock(), (accepted, delivered, refused)
        if self._last_at is None:
            self._due_at = now + INTERVAL_SECONDS
        elif now < self._due_at:
            return
        else:
            seconds = now - self._last_at
            # A total shrinks when a damaged file was replaced by a new one.
            came, went, refusals = (
                max(0.0, (new - old) / seconds) for new, old in zip(totals, self._last, strict=True)
            )
            due = int((now - self._due_at) / INTERVAL_SECONDS) + 1
            self._samples.extend([(came, went, refusals, buffered)] * min(due, MAX_SAMPLES))
            self._due_at += due * INTERVAL_SECONDS
        self._last_at, self._last = now, totals

    def has(self, *, accepted: int, delivered: int, refused: int) -> bool:
        """Return whether these totals are in the samples already: as long as they stay, it need not be told."""
        return self._last_at is not None and self._last == (accepted, delivered, refused)

    def described(self) -> dict[str, object]:
        """Return the samples, oldest first, as /v1/status shows them."""
        accepted, delivered, refused, buffered = zip(*self._samples, strict=True) if self._samples else ((),) * 4
        rates = {"accepted": accepted, "delivered": delivered, "refused": refused}
        return {
            "interval_seconds": INTERVAL_SECONDS,
            **{name: [round(rate, 2) for rate in each] for name, each in rates.items()},
            "buffered": list(buffered),
        }
