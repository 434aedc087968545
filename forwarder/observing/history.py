"""The last five minutes: how many events a second came and went, and how many were buffered. Pure but for the clock.

Invariant: samples are `INTERVAL_SECONDS` apart, so that an index is a time. If totals are given more often, some are
skipped; if they are given less often, all samples that were due since are alike.
"""

from collections import deque
from typing import Final

from forwarder.event import Clock

INTERVAL_SECONDS: Final = 5.0
MAX_SAMPLES: Final = 60

_Totals = tuple[int, int, int]


class History:
    """Give it the totals every few seconds while they change, and before they change again. `clock` is the event loop's."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last_at: float | None = None
        self._due_at = 0.0
        self._last: _Totals = (0, 0, 0)
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
            rates = [max(0.0, (new - old) / seconds) for new, old in zip(totals, self._last, strict=True)]
            due = int((now - self._due_at) / INTERVAL_SECONDS) + 1
            self._samples.extend([(rates[0], rates[1], rates[2], buffered)] * min(due, MAX_SAMPLES))
            self._due_at += due * INTERVAL_SECONDS
        self._last_at, self._last = now, totals

    def has(self, *, accepted: int, delivered: int, refused: int) -> bool:
        """Return whether these totals are in the samples already: as long as they stay, it need not be told."""
        return self._last_at is not None and self._last == (accepted, delivered, refused)

    def described(self) -> dict[str, object]:
        """Return the samples, oldest first, as /v1/status shows them."""
        accepted, delivered, refused, buffered = zip(*self._samples, strict=True) if self._samples else ((),) * 4
        return {
            "interval_seconds": INTERVAL_SECONDS,
            "accepted": [round(rate, 2) for rate in accepted],
            "delivered": [round(rate, 2) for rate in delivered],
            "refused": [round(rate, 2) for rate in refused],
            "buffered": list(buffered),
        }
