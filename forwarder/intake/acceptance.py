"""From what an app posted to what the buffer holds: split, check each element, put those that are good.

All the ways in share it, whatever they speak. Elements fail alone; what is good of one request is put together, all or
nothing. Every element is counted exactly once, as accepted or as refused.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from forwarder.buffer.base import Buffer, Full, NeverFits, Stored, Unavailable
from forwarder.event import Clock, Event
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused, Violation, check
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.telemetry import Telemetry

ELEMENTS_PER_TURN: Final = 250
"""How many elements of one request are checked before others get a turn of the event loop."""

MAX_LISTED_VIOLATIONS: Final = 1000
"""Of one request: no more elements are listed then, only counted, or a small request could ask for a huge answer."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The buffer took charge of the good elements; there may be none."""

    ids: Sequence[int | None]
    """One for each element; None where it was refused."""
    accepted: int
    refusals: Sequence[tuple[int, Refused]]
    """The index and the violations of refused elements, as far as they are listed."""

    @property
    def not_listed(self) -> int:
        """How many more elements were refused."""
        return len(self.ids) - self.accepted - len(self.refusals)


Acceptance = Accepted | Full | NeverFits | Unavailable

Element = tuple[bytes, Conforming | Refused]
"""The bytes of one element, and what the contract says of it."""


def read_one(body: bytes) -> Element:
    """Check a body that is one event."""
    return body, _check_text(body)


def read_json(body: bytes) -> Iterable[Element]:
    """Check a JSON array of events, or one event. Raises MalformedJsonError if it is not JSON as a whole."""
    value = json_text.parse(body)
    if isinstance(value, list):
        return ((raw, check(element)) for raw, element in zip(json_text.elements(body), value, strict=True))
    return [(body, check(value))]


def read_lines(body: bytes) -> Iterator[Element]:
    """Check the lines of a body, each an event of its own."""
    for line in json_text.lines(body):
        yield line, _check_text(line)


def _check_text(text: bytes) -> Conforming | Refused:
    try:
        return check(json_text.parse(text))
    except MalformedJsonError as error:
        return Refused((Violation("malformed_json", None, f"not valid JSON: {error}"),))


@dataclass(slots=True)
class _Refusals:
    """The refused elements of one request, all counted, but only so many listed that their memory is bounded."""

    listed: list[tuple[int, Refused]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    """Elements by the code of their first violation."""
    violations: int = 0

    def add(self, index: int, refused: Refused) -> None:
        self.codes[refused.violations[0].code] += 1
        if self.violations < MAX_LISTED_VIOLATIONS:
            self.violations += len(refused.violations)
            self.listed.append((index, refused))


class Acceptor:
    """Puts checked elements into the buffer. `ids` gives rising ids; `clock` gives seconds since 1970."""

    def __init__(self, *, buffer: Buffer, telemetry: Telemetry, ids: Iterator[int], clock: Clock) -> None:
        self._buffer = buffer
        self._telemetry = telemetry
        self._ids = ids
        self._clock = clock

    async def accept(self, elements: Iterable[Element], *, intake: str) -> Acceptance:
        """Take in the elements of one request."""
        good: list[tuple[int, bytes, Conforming]] = []
        refused = _Refusals()
        count = 0
        for index, (raw, checked) in enumerate(elements):
            count += 1
            match checked:
                case Conforming():
                    good.append((index, raw, checked))
                case Refused():
                    refused.add(index, checked)
                case _:
                    assert_never(checked)
            if count % ELEMENTS_PER_TURN == 0:
                await asyncio.sleep(0)
        return await self._put(good, refused, count=count, intake=intake)

    async def _put(
        self,
        good: Sequence[tuple[int, bytes, Conforming]],
        refused: "_Refusals",
        *,
        count: int,
        intake: str,
    ) -> Acceptance:
        # Ids are given only now, with no await before the put, so that they rise in the order of the puts.
        now = self._clock()
        events = [Event(next(self._ids), checked.customer, checked.name, raw, now) for _, raw, checked in good]
        answer = await self._buffer.put(events, intake=intake) if events else Stored()
        match answer:
            case Stored():
                for code, number in refused.codes.items():
                    self._telemetry.events_refused(number, intake=intake, reason=code)
                ids: list[int | None] = [None] * count
                for (index, _, _), event in zip(good, events, strict=True):
                    ids[index] = event.id
                return Accepted(ids, len(events), refused.listed)
            case Full():
                self._telemetry.events_refused(count, intake=intake, reason="buffer_full")
            case NeverFits():
                self._telemetry.events_refused(count, intake=intake, reason="body_too_large")
            case Unavailable():
                self._telemetry.events_refused(count, intake=intake, reason="buffer_unavailable")
            case _:
                assert_never(answer)
        return answer
