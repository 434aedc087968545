"""Decides which elements of a request may become events, and holds what that depends on.

All elements are read before any of them changes what is known of attribute types. Of elements that wait for the others, only
what the put needs is kept. Reading and judging leave turns of the event loop to others.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import msgspec

from forwarder.ages import Ages
from forwarder.attribute_types import types_file
from forwarder.attribute_types.guard import AttributeTypes, Judged, Seen
from forwarder.buffer.base import Buffer, Notes
from forwarder.event import Clock
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused, check
from forwarder.intake.duplicates import DuplicateKeys, Key
from forwarder.intake.elements import Element, Elements
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings, Settings
from forwarder.words import EventCode

ELEMENTS_PER_TURN: Final = 250
"""How many elements of one request are checked before other tasks get a turn of the event loop."""
BYTES_PER_TURN: Final = 64 * 1024
"""And how many bytes of them."""
MAX_LISTED_VIOLATIONS: Final = 1000
"""From this number on, refused elements are only counted: else a small request could ask for a huge answer."""


class Knowledge:
    """What a request is judged by: the contract, the types of attributes, and the keys of earlier events.

    The buffer stores what is learned of types and keys; it is recalled at the next start. `wall` returns seconds since 1970.
    """

    def __init__(self, settings: Settings, *, wall: Clock, ages: Ages, telemetry: Telemetry) -> None:
        self.types = AttributeTypes(settings.contract, telemetry=telemetry, clock=wall)
        self.elements = Elements(settings.contract, clock=wall)
        self.keys = DuplicateKeys(settings.intake, clock=ages.even)
        self._types_file = settings.contract.types_file
        self._ages = ages

    def use(self, settings: ContractSettings) -> None:
        """Use other settings from now on."""
        self.elements.use(settings)
        self.types.use(settings)

    def remembered(self) -> Notes:
        """Return all that a new database file must contain."""
        return Notes(self.types.remembered(), self.keys.remembered())

    async def recall(self, buffer: Buffer) -> None:
        """Load what the team fixed, and what earlier processes learned. Raise TypesFileError."""
        if self._types_file is not None:
            self.types.fix(await asyncio.to_thread(types_file.read, self._types_file))
        notes = await buffer.recall()
        self.types.load(notes.types)
        self.keys.load(notes.keys, age_seconds=self._ages.age_seconds)
        self.types.warn_if_unfixed()


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
class RefusedElements:
    """The refused elements of one request: all are counted, and as many listed as the bound of their memory allows."""

    listed: list[tuple[int, Refused]] = field(default_factory=list)
    codes: dict[EventCode, int] = field(default_factory=dict)
    """How many elements have which code as their first error."""
    first: dict[str, Refused] = field(default_factory=dict)
    """The first element with each code."""
    violations: int = 0

    def add(self, index: int, refused: Refused) -> None:
        """Add the element with this index."""
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
    refused: RefusedElements = field(default_factory=RefusedElements)
    refused_for_types: list[Judged] = field(default_factory=list)
    has_keys: bool = False
    has_judged: bool = False


async def judge(elements: Iterable[Element], types: AttributeTypes, *, keys_are_kept: bool) -> Judgement:
    """Read all elements, then judge the attributes of those that have something new about them.

    Raise what `elements` raises. Unless keys are kept, the apps' own keys are ignored.
    """
    request = Judgement()
    unknown: list[Draft] = []
    size = 0
    for body, checked, key in elements:
        if isinstance(checked, Conforming):
            draft = Draft(request.elements, body, checked.customer, checked.name, None)
            if key is not None and keys_are_kept:
                draft.key = key
                request.has_keys = True
            request.drafts.append(draft)
            if not types.know(checked):
                unknown.append(draft)
        else:
            request.refused.add(request.elements, checked)
        request.elements += 1
        size += len(body)
        if size >= BYTES_PER_TURN or request.elements % ELEMENTS_PER_TURN == 0:
            size = 0
            await asyncio.sleep(0)
    if unknown:
        await _judge_types(request, unknown, types)
    return request


async def _judge_types(request: Judgement, drafts: Sequence[Draft], types: AttributeTypes) -> None:
    """Judge the attributes of drafts. Each is parsed again: all parsed at once would be far larger than the body."""
    seen = Seen()
    refused: set[int] = set()
    size = 0
    for number, draft in enumerate(drafts, 1):
        checked = check(json_text.parse(draft.body))
        assert isinstance(checked, Conforming), "it was checked before"
        judged = types.judge(draft.body, checked, seen)
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
