"""The apps' own keys of events: whether an event repeats one that was accepted not long ago.

A key is claimed while its event is being put, so that a repetition waits to see what becomes of the first; it is remembered
when that is stored, and forgotten when it is not. Bounded in time and in number, the oldest first. About 250 bytes each.
Used by the acceptance of events alone, on the event loop.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from forwarder.database.duplicate_keys import DuplicateKey
from forwarder.event import Clock
from forwarder.settings import IntakeSettings


def digest_of(key: str) -> bytes:
    """Return what is remembered of a key."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class DuplicateKeys:
    """`clock` gives seconds since 1970."""

    def __init__(self, settings: IntakeSettings, *, clock: Clock) -> None:
        self._window_seconds = settings.duplicate_window_seconds
        self._max_keys = settings.duplicate_max_keys
        self._clock = clock
        self._ids: OrderedDict[bytes, int] = OrderedDict()
        # Of which times how many keys are, in the order of _ids: a time for each would cost more than the key.
        self._spans: deque[_Span] = deque()
        self._span_seconds = min(1.0, self._window_seconds / 100)
        self._claimed: dict[bytes, asyncio.Future[None]] = {}
        self.are_kept = self._window_seconds > 0
        """Whether keys count at all."""
        self.forgotten_to = 0
        """Keys of events up to this id are forgotten."""

    def find(self, digest: bytes) -> int | asyncio.Future[None] | None:
        """Return the id of the event with this key; a future that is done when that is known; or None if there is none."""
        return self._claimed.get(digest) or self._ids.get(digest)

    def claim(self, digests: Iterable[bytes]) -> None:
        """Note that events with these keys, which none has, are being put; `settle` or `abandon` them."""
        loop = asyncio.get_running_loop()
        self._claimed.update((digest, loop.create_future()) for digest in digests)

    def settle(self, ids: Mapping[bytes, int]) -> None:
        """Remember claimed keys, whose events have these rising ids; those that wait go on."""
        self._add(ids, self._clock())
        self.abandon(ids)

    def abandon(self, digests: Iterable[bytes]) -> None:
        """Let those go on that wait for claimed keys."""
        for digest in digests:
            self._claimed.pop(digest).set_result(None)

    def forget_old(self) -> None:
        """Forget what is too old, or too many."""
        oldest = self._clock() - self._window_seconds
        while self._spans:
            span = self._spans[0]
            number = span.keys if span.last <= oldest else min(span.keys, len(self._ids) - self._max_keys)
            if number <= 0:
                return
            for _ in range(number):
                self.forgotten_to = max(self.forgotten_to, self._ids.popitem(last=False)[1])
            span.keys -= number
            if not span.keys:
                self._spans.popleft()

    def load(self, keys: Sequence[DuplicateKey]) -> None:
        """Remember what was remembered before this process, in the order of the ids."""
        for key in keys:
            self._add({key.digest: key.event_id}, key.accepted_at)
            if not self.are_kept:
                self.forgotten_to = key.event_id

    def remembered(self) -> list[DuplicateKey]:
        """Return all that `load` needs."""
        ids = iter(self._ids.items())
        return [
            DuplicateKey(event_id, digest, span.last)
            for span in self._spans
            for digest, event_id in islice(ids, span.keys)
        ]

    def _add(self, ids: Mapping[bytes, int], at: float) -> None:
        new = {digest: event_id for digest, event_id in ids.items() if digest not in self._ids}
        if not self.are_kept or not new:
            return
        self._ids.update(new)
        span = self._spans[-1] if self._spans else None
        if span is not None and 0 <= at - span.first < self._span_seconds:
            span.last = max(span.last, at)
            span.keys += len(new)
        else:
            self._spans.append(_Span(at, at, len(new)))
        self.forget_old()


@dataclass(slots=True)
class _Span:
    """A short time in which keys were remembered."""

    first: float
    last: float
    keys: int
