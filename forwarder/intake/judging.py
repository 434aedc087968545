"""What of a request may become events: every element is read before anything comes of it, in turns of the event loop.

Judging changes nothing of what is known of types until all elements were read. Of those that wait, only what the put needs
is kept. Used by `acceptance` alone.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import msgspec

from forwarder.attribute_types.guard import AttributeTypes, Judged, Seen
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused, check
from forwarder.intake.duplicates import Key
from forwarder.intake.elements import Element
from forwarder.words import EventCode

ELEMENTS_PER_TURN: Final = 250
"""How many elements of one request are checked before others get a turn of the event loop."""
BYTES_PER_TURN: Final = 64 * 1024
"""And how many bytes of them."""

MAX_LISTED_VIOLATIONS: Final = 1000
"""Of one request: no more elements are listed then, only counted, or a small request could ask for a huge answer."""


class Draft(msgspec.Struct, gc=False):  # no cycles, and up to a million of them
    """An element that may become an event."""

    index: int
    body: bytes
    customer: str
    name: str
    key: Key | None
    """The app's own."""
    judged: Judged | None = None


@dataclass(slots=True)
class Refusals:
    """The refused elements of one request, all counted, but only so many listed that their memory is bounded."""

    listed: list[tuple[int, Refused]] = field(default_factory=list)
    codes: dict[EventCode, int] = field(default_factory=dict)
    """Elements by the code of their first violation."""
    first: dict[str, Refused] = field(default_factory=dict)
    """Of each code."""
    violations: int = 0

    def add(self, index: int, refused: Refused) -> None:
        code = refused.violations[0].code
        self.codes[code] = self.codes.get(code, 0) + 1
        self.first.setdefault(code, refused)
        if self.violations < MAX_LISTED_VIOLATIONS:
            self.violations += len(refused.violations)
            self.listed.append((index, refused))


@dataclass(slots=True)
class Judgement:
    """The elements of one request, judged."""

    elements: int = 0
    drafts: list[Draft] = field(default_factory=list)
    refused: Refusals = field(default_factory=Refusals)
    refused_for_types: list[Judged] = field(default_factory=list)
    has_keys: bool = False
    has_judged: bool = False


class Judge:
    """Judges requests by the contract, and by what is known of `types`."""

    def __init__(self, types: AttributeTypes) -> None:
        self._types = types

    async def judge(self, elements: Iterable[Element], *, keys_are_kept: bool) -> Judgement:
        """Read all elements, and then look closely at the attributes of those that have something new about them.

        Raises what `elements` raises. The apps' own keys are left out unless they are kept.
        """
        request = Judgement()
        unknown: list[Draft] = []
        know = self._types.know
        size = 0
        for body, checked, key in elements:
            if isinstance(checked, Conforming):
                draft = Draft(request.elements, body, checked.customer, checked.name, None)
                if key is not None and keys_are_kept:
                    draft.key = key
                    request.has_keys = True
                request.drafts.append(draft)
                if not know(checked):
                    unknown.append(draft)
            else:
                request.refused.add(request.elements, checked)
            request.elements += 1
            size += len(body)
            if size >= BYTES_PER_TURN or request.elements % ELEMENTS_PER_TURN == 0:
                size = 0
                await asyncio.sleep(0)
        if unknown:
            await self._judge_types(request, unknown)
        return request

    async def _judge_types(self, request: Judgement, drafts: Sequence[Draft]) -> None:
        """Judge the attributes of drafts, which are read again: all of them at once would be far larger than the body."""
        seen = Seen()
        refused: set[int] = set()
        size = 0
        for number, draft in enumerate(drafts, 1):
            checked = check(json_text.parse(draft.body))
            assert isinstance(checked, Conforming), "it was checked before"
            judged = self._types.judge(draft.body, checked, seen)
            size += len(draft.body)
            if judged is not None and judged.refused is not None:
                request.refused.add(draft.index, judged.refused)
                request.refused_for_types.append(judged)
                refused.add(draft.index)
            elif judged is not None:
                draft.body, draft.judged = judged.body, judged
                request.has_judged = True
            if size >= BYTES_PER_TURN or number % ELEMENTS_PER_TURN == 0:
                size = 0
                await asyncio.sleep(0)
        if refused:
            request.drafts = [draft for draft in request.drafts if draft.index not in refused]
            request.refused.listed.sort(key=itemgetter(0))
