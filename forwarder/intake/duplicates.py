"""The apps' own keys: whether an event repeats one that was accepted before, or uses the key of another event.

A key is claimed while its event is being put, so that a repetition waits for the first. It is remembered if the event is
stored, together with a digest of the event as the app posted it. Keys are bounded in time and number; the oldest are
forgotten first. A key takes about 260 bytes. Used by intake alone, on the event loop.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final, Literal, NamedTuple

import orjson

from forwarder.event import Clock, DuplicateKey
from forwarder.settings import IntakeSettings

_EVENT_BITS: Final = 64
_EXACT: Final = 1 << 53
"""Up to here every whole number has a double of its own."""
_EVENT_MASK: Final = (1 << _EVENT_BITS) - 1


class Key(NamedTuple):
    """The digests of an app's own key and of the event that came with it."""

    digest: bytes
    """16 bytes, made of the key."""
    event: int
    """64 bits, made of the event; never 0."""


def key_of(text: str, raw: bytes, event: object) -> Key:
    """Return the digests of a key and its event, which came as the bytes `raw`.

    Events that mean the same have the same digest, whatever their white space and the order of their members, because some
    libraries write these anew for each try. 1 and 1.0 are the same number up to 2**53; beyond, doubles are too coarse.
    """
    try:
        said = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
        if b".0" in said:
            said = orjson.dumps(_with_whole_numbers(event), option=orjson.OPT_SORT_KEYS)
    except TypeError:  # it contains what only bytes can show, such as lone surrogates, or is nested too deeply
        said = raw.strip()
    digest = int.from_bytes(blake2b(said, digest_size=_EVENT_BITS // 8).digest(), "big")
    return Key(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), digest or 1)


def _with_whole_numbers(value: object) -> object:
    """Return a JSON value with all whole numbers as integers, as far as doubles are exact. Its depth is bounded."""
    if isinstance(value, dict):
        return {name: _with_whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value


class DuplicateKeys:
    """Remembers keys. `clock` returns seconds since 1970."""

    def __init__(self, settings: IntakeSettings, *, clock: Clock) -> None:
        self._window_seconds = settings.duplicate_window_seconds
        self._max_keys = settings.duplicate_max_keys
        self._clock = clock
        # The id and the digest of each event in one number: an object for each would take more memory than the key.
        self._ids: OrderedDict[bytes, int] = OrderedDict()
        # How many keys came at which time, in the order of _ids: a time for each would take more memory than the key.
        self._spans: deque[_Span] = deque()
        self._span_seconds = min(1.0, self._window_seconds / 100)
        self._claimed: dict[bytes, asyncio.Future[None]] = {}
        self.are_kept = self._window_seconds > 0
        """Whether keys are looked at at all."""
        self.forgotten_to = 0
        """The keys of events up to this id are forgotten."""

    def find(self, key: Key) -> int | Literal["other"] | asyncio.Future[None] | None:
        """Return the id of the event with this key, `other` if the key belongs to another event, None if it is unknown.

        While the event of the key is being put, return a future that is done when the put has ended.
        """
        if claim := self._claimed.get(key.digest):
            return claim
        found = self._ids.get(key.digest)
        if found is None:
            return None
        event = found & _EVENT_MASK
        return "other" if event and event != key.event else found >> _EVENT_BITS

    def claim(self, keys: Iterable[Key]) -> None:
        """Claim keys that are unknown, whose events are being put. Call `settle` or `abandon` next."""
        loop = asyncio.get_running_loop()
        self._claimed.update((key.digest, loop.create_future()) for key in keys)

    def settle(self, ids: Mapping[Key, int]) -> None:
        """Remember claimed keys, whose events have these rising ids, and wake those that wait for them."""
        self._add({key.digest: _packed(event_id, key.event) for key, event_id in ids.items()}, self._clock())
        self.abandon(ids)

    def abandon(self, keys: Iterable[Key]) -> None:
        """Drop claims, and wake those that wait for them."""
        for key in keys:
            self._claimed.pop(key.digest).set_result(None)

    def forget_old(self) -> None:
        """Forget keys that are too old or too many."""
        oldest = self._clock() - self._window_seconds
        while self._spans:
            span = self._spans[0]
            number = span.keys if span.last <= oldest else min(span.keys, len(self._ids) - self._max_keys)
            if number <= 0:
                return
            for _ in range(number):
                self.forgotten_to = max(self.forgotten_to, self._ids.popitem(last=False)[1] >> _EVENT_BITS)
            span.keys -= number
            if not span.keys:
                self._spans.popleft()

    def load(self, keys: Sequence[DuplicateKey], *, age_seconds: Callable[[float], float] | None = None) -> None:
        """Remember the keys of earlier processes, which come in the order of their ids.

        `age_seconds` returns how long ago an earlier process accepted an event; by default `clock` tells that.
        """
        now = self._clock()
        for key in keys:
            at = key.accepted_at if age_seconds is None else now - age_seconds(key.accepted_at)
            # A difference of less than a second is noise, which must not change the order.
            accepted_at = at if abs(at - key.accepted_at) >= 1 else key.accepted_at
            self._add({key.digest: _packed(key.event_id, key.event or 0)}, accepted_at)
            if not self.are_kept:
                self.forgotten_to = key.event_id

    def remembered(self) -> list[DuplicateKey]:
        """Return all keys, for `load`."""
        ids = iter(self._ids.items())
        return [
            DuplicateKey(packed >> _EVENT_BITS, digest, span.last, packed & _EVENT_MASK or None)
            for span in self._spans
            for digest, packed in islice(ids, span.keys)
        ]

    def _add(self, ids: Mapping[bytes, int], at: float) -> None:
        new = {digest: packed for digest, packed in ids.items() if digest not in self._ids}
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


def _packed(event_id: int, event: int) -> int:
    """Return an id and the digest of its event, 0 if unknown, as one number."""
    return event_id << _EVENT_BITS | event


@dataclass(slots=True)
class _Span:
    """A short time, and how many keys came in it."""

    first: float
    last: float
    keys: int
