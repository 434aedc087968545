"""Taps: operators watch events as they pass, each when it is accepted, after each attempt, and when it is given up.

- While `Taps.open` is empty, an event costs a look at that list and no call. Who tells taps of an event looks first.
- A tap is bounded in bytes, and there are at most `MAX_TAPS`. If its reader is slow, the oldest lines are lost and counted.
- A tap that nobody reads for `IDLE_SECONDS` ends, so a reader that dies or hangs costs nothing soon after.
- A line has no customer id, no event and no answer, unless the tap was opened with payloads.

Delivery and the buffers tell of events, the routes of intake open and read taps. Used on the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from secrets import randbits
from typing import Final, NamedTuple

import orjson

from forwarder.event import Clock, Event
from forwarder.observing.recent import FailureFields
from forwarder.words import DeadReason, DropReason, Intake, OutcomeName, Passing, RetryReason, TapEnd

MAX_TAPS: Final = 4
MAX_TAP_BYTES: Final = 2 * 1024 * 1024
"""How much may wait for the reader of one tap."""
LINE_BYTES: Final = 1000
"""What a line takes in memory besides the event and the answer, at most about."""
MAX_EVENT_BYTES: Final = 256 * 1024
"""A line shows no larger event."""
MAX_ANSWER_BYTES: Final = 2048
"""How much of an answer a line shows."""
IDLE_SECONDS: Final = 10.0
READ_SECONDS: Final = 3.0
"""How long a read waits for a line."""
GATHER_SECONDS: Final = 0.25
"""How long a read that has a line waits for more: at a hundred events a second each read would have one otherwise."""
_MAX_BYTES_A_CHARACTER: Final = 4
"""Of a text in memory, each character of which takes as much as the largest one."""
_ID_BITS: Final = 59
"""An id has at most 18 digits. It is not guessed: who may read a tap and does not know its id opens another."""

Line = dict[str, object]


class TooManyTapsError(Exception):
    """As many taps are open as may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapRequest:
    """What an operator wants to see."""

    with_payloads: bool = False
    names: Collection[str] = ()
    """The names of the events; all if empty."""
    customers: Collection[str] = ()
    """The lanes of the events; all if empty."""
    user: int | None = None
    """Who asks, by the number of the user, if it is known."""

    def wants(self, event: Event) -> bool:
        """Return whether it asks for lines about this event."""
        return (not self.names or event.name in self.names) and (not self.customers or event.customer in self.customers)


class Lines(NamedTuple):
    """What a read returns."""

    lines: Sequence[Line]
    lost: int
    """How many lines before these were lost since the read before, as nobody read them."""
    ended: TapEnd | None
    """Why there are no more; None while there may be."""


class Tap:
    """The lines that wait for one reader."""

    def __init__(self, request: TapRequest) -> None:
        self.id: Final = randbits(_ID_BITS)
        self.request: Final = request
        self.told = 0
        """How many lines were for it, those that were lost included."""
        self.lost = 0
        """How many were lost, those included that wait when it ends and nobody reads."""
        self.ended: TapEnd | None = None
        self.expiry: asyncio.TimerHandle | None = None
        """Set while nobody reads."""
        self._waiting: deque[tuple[Line, int]] = deque()
        self._bytes = 0
        self._lost_unread = 0
        self._reader: asyncio.Future[None] | None = None
        """Set while a read waits for more bytes than `_wakes_above`."""
        self._wakes_above = 0

    def add(self, line: Line, size: int) -> None:
        """Add a line of about so many bytes; the oldest lines are lost if there is no room."""
        self.told += 1
        self._waiting.append((line, size))
        self._bytes += size
        while self._bytes > MAX_TAP_BYTES:
            self._bytes -= self._waiting.popleft()[1]
            self.lost += 1
            self._lost_unread += 1
        if self._reader is not None and self._bytes > self._wakes_above:
            self._wake()

    async def read(self) -> Lines:
        """Wait for lines and return all of them; none after `READ_SECONDS`, or if another read begins meanwhile."""
        if not self._bytes:
            await self._until(0, READ_SECONDS)
        if self._bytes:
            await self._until(MAX_TAP_BYTES // 2, GATHER_SECONDS)
        lines = Lines([line for line, _ in self._waiting], self._lost_unread, self.ended)
        self._waiting.clear()
        self._bytes = self._lost_unread = 0
        return lines

    def end(self, why: TapEnd) -> None:
        """Let a read return at once, which is told why it is the last."""
        self.ended = why
        if self._reader is None:
            self.lost += len(self._waiting)
        self._wake()

    async def _until(self, above: int, seconds: float) -> None:
        """Wait until more bytes wait than that, or it ends, at most so many seconds."""
        self._wake()
        if self.ended is not None or self._bytes > above:
            return
        loop = asyncio.get_running_loop()
        self._wakes_above, self._reader = above, loop.create_future()
        reader, timer = self._reader, loop.call_later(seconds, self._wake)
        try:
            await reader
        finally:
            timer.cancel()
            if self._reader is reader:
                self._reader = None

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)


class Taps:
    """All taps. `clock` returns seconds since 1970, `age_seconds` how long ago an event was accepted.

    `has_ended` is called with each tap that has ended.
    """

    def __init__(
        self, *, clock: Clock, age_seconds: Callable[[float], float], has_ended: Callable[[Tap], object]
    ) -> None:
        self.open: Final[list[Tap]] = []
        """Look here before telling of an event: if it is empty, nothing need be told."""
        self._clock = clock
        self._age_seconds = age_seconds
        self._has_ended = has_ended
        self._is_closed = False

    # For operators

    @property
    def is_closed(self) -> bool:
        """Whether the daemon stops, and no more taps are opened."""
        return self._is_closed

    def begin(self, request: TapRequest) -> Tap:
        """Open a tap, which must be read. Raise TooManyTapsError."""
        if len(self.open) >= MAX_TAPS:
            raise TooManyTapsError
        tap = Tap(request)
        self.open.append(tap)
        self._expire_later(tap)
        return tap

    def find(self, tap_id: int, *, user: int | None) -> Tap | None:
        """Return the open tap of a user; None if it has ended, or is of another user."""
        return next((tap for tap in self.open if tap.id == tap_id and tap.request.user == user), None)

    async def read(self, tap: Tap) -> Lines:
        """Wait for lines of an open tap and return them."""
        self._cancel_expiry(tap)
        try:
            return await tap.read()
        finally:
            if tap.ended is None:
                self._cancel_expiry(tap)  # another read may have ended before
                self._expire_later(tap)

    def end(self, tap: Tap, why: TapEnd) -> None:
        """Close a tap. May be called again."""
        if tap.ended is not None:
            return
        self.open.remove(tap)
        self._cancel_expiry(tap)
        tap.end(why)
        self._has_ended(tap)

    def close(self) -> None:
        """Close all taps, as the daemon stops; no more are opened. May be called again."""
        self._is_closed = True
        for tap in tuple(self.open):
            self.end(tap, "stopping")

    def _expire_later(self, tap: Tap) -> None:
        tap.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.end, tap, "unread")

    def _cancel_expiry(self, tap: Tap) -> None:
        if tap.expiry is not None:
            tap.expiry.cancel()
            tap.expiry = None

    # From the buffers and delivery, only while a tap is open

    def accepted(self, events: Sequence[Event], *, intake: Intake) -> None:
        """The buffer has these events."""
        for event in events:
            self._tell(event, "accepted", intake=intake)

    def attempted(
        self,
        event: Event,
        outcome: OutcomeName,
        *,
        attempt: int,
        seconds: float,
        retry: RetryReason | None = None,
        failure: FailureFields | None = None,
        answer: bytes = b"",
    ) -> None:
        """An attempt has ended, the `attempt`-th of the event. `retry` is why there will be another one."""
        fields: Line = {"attempt": attempt, "attempt_seconds": round(seconds, 4)}
        if retry is not None:
            fields["reason"] = retry
        if failure is not None:
            fields["failure"] = failure
        self._tell(event, outcome, answer=answer, **fields)

    def dead_lettered(self, event: Event, *, reason: DeadReason) -> None:
        """An event has become a dead letter."""
        self._tell(event, "dead_letter", reason=reason)

    def dropped(self, event: Event, *, reason: DropReason) -> None:
        """An event is lost."""
        self._tell(event, "dropped", reason=reason)

    def _tell(self, event: Event, outcome: Passing, *, answer: bytes = b"", **fields: object) -> None:
        plain: Line | None = None
        for tap in self.open:
            if not tap.request.wants(event):
                continue
            if plain is None:
                plain = {
                    "at": round(self._clock(), 3),
                    "id": str(event.id),
                    "name": _text(event.name),
                    "age_seconds": round(self._age_seconds(event.accepted_at), 3),
                    "outcome": outcome,
                    **fields,
                }
                if event.kind != "event":
                    plain["kind"] = event.kind
            if tap.request.with_payloads:
                tap.add(*_with_payload(plain, event, answer))
            else:
                tap.add(plain, LINE_BYTES)


def _with_payload(plain: Line, event: Event, answer: bytes) -> tuple[Line, int]:
    """Return a line with the values of an event, and about how many bytes it takes."""
    line = {**plain, "customer": _text(event.customer)}
    size = LINE_BYTES + _MAX_BYTES_A_CHARACTER * len(event.customer)
    if len(event.body) <= MAX_EVENT_BYTES:
        line["event"] = orjson.Fragment(event.body)
        size += len(event.body)
    else:
        line["event"] = None
        line["event_bytes"] = len(event.body)
    if answer:
        line["answer"] = text = answer[:MAX_ANSWER_BYTES].decode(errors="replace")
        size += _MAX_BYTES_A_CHARACTER * len(text)
    return line, size


def _text(text: str) -> str:
    """Return a text in which lone surrogates, which JSON cannot contain, are replaced."""
    return text if text.isascii() else text.encode(errors="replace").decode()
