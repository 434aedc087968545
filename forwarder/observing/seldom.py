"""Log lines that may repeat: one of a kind is written every few seconds, with how many were left out since.

So an outage, or a client that is wrong a thousand times a second, fills no log. A kind is chosen by the caller from few
values, never from the text of a stranger, or the table of kinds would grow.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from forwarder.event import Clock

INTERVAL_SECONDS: Final = 10.0
NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_NEVER: Final = float("-inf")

log = logging.getLogger("forwarder")


class SeldomLog:
    """Writes to the log of the daemon. `clock` gives seconds since 1970; it may jump."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, object], tuple[float, int]] = {}
        """When the last line of each kind was written, and how many were left out since."""
        self._burst_at = _NEVER
        self._burst_lines = 0
        self._burst_omitted = 0

    def write(
        self,
        message: str,
        *,
        kind: object,
        level: int = logging.WARNING,
        bug: BaseException | None = None,
        more: Mapping[str, object] = NOTHING,
        **fields: object,
    ) -> bool:
        """Write a line unless one of its message and kind was written just before. Return whether it was written.

        A `bug` makes it an error with a traceback. Fields that are None are left out. `more` has the fields that are named
        like these parameters.
        """
        last, omitted = self._kinds.get((message, kind), (_NEVER, 0))
        now = self._clock()
        if not _is_past(last, now):
            self._kinds[message, kind] = (last, omitted + 1)
            return False
        self._kinds[message, kind] = (now, 0)
        shown = {name: value for name, value in {**more, **fields}.items() if value is not None}
        shown |= _repeats(omitted)
        log.log(level if bug is None else logging.ERROR, message, extra={"fields": shown}, exc_info=bug)
        return True

    def would_write(self, message: str, *, kind: object) -> bool:
        """Return whether `write` would write such a line now."""
        return _is_past(self._kinds.get((message, kind), (_NEVER, 0))[0], self._clock())

    def write_of_many(self, message: str, fields: Mapping[str, object], *, most: int) -> None:
        """Write a line of which each differs, unless `most` of them were written just before."""
        now = self._clock()
        if _is_past(self._burst_at, now):
            self._burst_at, self._burst_lines = now, 0
        if self._burst_lines == most:
            self._burst_omitted += 1
            return
        self._burst_lines += 1
        omitted, self._burst_omitted = self._burst_omitted, 0
        log.warning(message, extra={"fields": {**fields, **_repeats(omitted)}})


def _is_past(last: float, now: float) -> bool:
    """Return whether a line may follow one that was written at `last`; also after the clock was set back."""
    return abs(now - last) >= INTERVAL_SECONDS


def _repeats(omitted: int) -> Mapping[str, object]:
    return {"repeats_not_logged": omitted} if omitted else NOTHING
