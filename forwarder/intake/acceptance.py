"""From elements that an app posted to events in the buffer: judge each, store the good ones, count all.

All intakes share it. Elements are refused one by one; the good ones of one request are stored together, all or none. Every
element is counted exactly once: as accepted, as a duplicate or as refused.

All elements of a request are read before any is stored, learned or counted, so that a body that is refused as a whole leaves
no trace. Bodies that take more than one turn of the event loop are read one at a time, first come, first served.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, NamedTuple

from forwarder.attribute import LearnedType, Place
from forwarder.attribute_types.guard import AttributeTypes, Judged
from forwarder.buffer.base import Buffer, Full, NeverFits, Notes, PutAnswer, Stored, Unavailable
from forwarder.event import Clock, DuplicateKey, Event
from forwarder.growlytics.contract import Conforming, Refused, Violation
from forwarder.intake.duplicates import DuplicateKeys, Key
from forwarder.intake.elements import Element, Elements
from forwarder.intake.judging import BYTES_PER_TURN, ELEMENTS_PER_TURN, Draft, Judgement, judge
from forwarder.observing.telemetry import Telemetry
from forwarder.words import Intake, RefusalReason

LARGE_BODY_BYTES: Final = 256 * 1024
"""Only one body that is larger than this is stored at a time, so that smaller ones wait for no more than one."""
_KEY_REUSED: Final = (
    Violation(
        "idempotency_key_reused",
        "idempotency_key",
        "this key (Idempotency-Key) came with another event before: use a new key for each event, or repeat the same event",
    ),
)
_REASONS: Final[Mapping[type, RefusalReason]] = {
    Full: "buffer_full",
    NeverFits: "body_too_large",
    Unavailable: "buffer_unavailable",
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """The good elements are in the buffer; there may be none."""

    ids: Sequence[int | None]
    """One for each element; a duplicate has the id of the first event, a refused element None."""
    accepted: int
    duplicates: int
    refusals: Sequence[tuple[int, Refused]]
    """The indexes and violations of refused elements, as far as they are listed."""
    reused: Collection[int] = ()
    """The indexes of all elements that were refused because their keys came with other events."""

    @property
    def not_listed(self) -> int:
        """How many more elements were refused."""
        return len(self.ids) - self.accepted - self.duplicates - len(self.refusals)


Acceptance = Accepted | Full | NeverFits | Unavailable


class Storing(NamedTuple):
    """An event that is being stored, and its id."""

    event_id: int
    stored: asyncio.Future[PutAnswer]


class Acceptor:
    """Puts what `read` reads into the buffer. `ids` returns rising ids; `clock` returns seconds since 1970."""

    def __init__(
        self,
        elements: Elements,
        *,
        buffer: Buffer,
        types: AttributeTypes,
        keys: DuplicateKeys,
        telemetry: Telemetry,
        ids: Iterator[int],
        clock: Clock,
    ) -> None:
        self.read = elements
        self._buffer = buffer
        self._types = types
        self._keys = keys
        self._forgotten_to = 0
        """The buffer knows that the keys of events up to this id are forgotten."""
        self._large = asyncio.Lock()
        """Held while a body is read that takes more than one turn; beyond LARGE_BODY_BYTES also while it is stored."""
        self._telemetry = telemetry
        self._ids = ids
        self._clock = clock

    def begin_one(self, element: Element, *, intake: Intake) -> Storing | None:
        """Begin to store an event that needs nothing to be learned, remembered or forgotten: the usual case.

        None if it needs that, or is refused, or may have to wait: then use `accept`.
        """
        raw, checked, key = element
        if (
            isinstance(checked, Conforming)
            and key is None
            and self._keys.forgotten_to <= self._forgotten_to
            and self._types.know(checked)
        ):
            event = Event(next(self._ids), checked.customer, checked.name, raw, self._clock())
            if (stored := self._buffer.begin_put(event, intake=intake)) is not None:
                return Storing(event.id, stored)
        return None

    def refused_one(self, answer: Full | NeverFits | Unavailable, *, intake: Intake) -> None:
        """Count an event that `begin_one` began to store, but that the buffer did not store."""
        self._telemetry.events_refused(1, intake=intake, reason=_REASONS[type(answer)])

    async def accept_body(self, body: bytes, key: str | None, *, intake: Intake, is_lines: bool) -> Acceptance:
        """Accept all elements of a body: a JSON document, or lines. `key` is the key of the whole request.

        Raise MalformedJsonError, having counted nothing, if the body is refused as a whole.
        """
        read = self.read.lines if is_lines else self.read.json
        if len(body) <= BYTES_PER_TURN:
            posted = read(body, key)
            if posted.most <= ELEMENTS_PER_TURN:
                return await self.accept(posted.elements, intake=intake)
            del posted  # it may be far larger than the body
        async with self._large:
            request = await judge(read(body, key).elements, self._types, keys_are_kept=self._keys.are_kept)
            if len(body) > LARGE_BODY_BYTES:
                return await self._store(request, intake=intake)
        return await self._store(request, intake=intake)

    async def accept(self, elements: Iterable[Element], *, intake: Intake, patient: bool = False) -> Acceptance:
        """Accept the elements of one request. A `patient` caller tries again if the buffer refuses, so that is not counted.

        Raise what `elements` raises, having counted nothing.
        """
        request = await judge(elements, self._types, keys_are_kept=self._keys.are_kept)
        return await self._store(request, intake=intake, patient=patient)

    async def _store(self, request: Judgement, *, intake: Intake, patient: bool = False) -> Acceptance:
        """Store the good elements of a request, and count all."""
        if request.has_keys:
            await self._wait_for_claims(request)
        # From here to the put there is no await, so that ids rise in the order of the puts, and no key is claimed twice.
        fresh, repeats, reused = self._sift(request) if request.has_keys else (request.drafts, {}, ())
        now, next_id = self._clock(), self._ids.__next__
        events = [Event(next_id(), one.customer, one.name, one.body, now) for one in fresh]
        claimed: dict[Key, int] = {}
        if request.has_keys:
            claimed = {one.key: event.id for one, event in zip(fresh, events, strict=True) if one.key}
        judged = [one.judged for one in fresh if one.judged is not None] if request.has_judged else []
        answer = await self._put(events, judged, claimed, intake=intake, now=now)
        if not isinstance(answer, Stored):
            if not patient:
                self._telemetry.events_refused(request.elements, intake=intake, reason=_REASONS[type(answer)])
            return answer
        self._types.settled([*judged, *request.refused_for_types])
        if repeats:
            self._telemetry.events_duplicate(len(repeats), intake=intake)
        for code, number in request.refused.codes.items():
            first = request.refused.first[code]
            self._telemetry.events_refused(
                number, intake=intake, reason=code, name=first.name, field=first.violations[0].field
            )
        ids: list[int | None] = [None] * request.elements
        for one, event in zip(fresh, events, strict=True):
            ids[one.index] = event.id
        for index, repeated in repeats.items():
            ids[index] = repeated if isinstance(repeated, int) else claimed[repeated]
        return Accepted(ids, len(events), len(repeats), request.refused.listed, reused)

    async def _wait_for_claims(self, request: Judgement) -> None:
        """Wait until none of the keys belongs to an event that is being put."""
        self._keys.forget_old()
        keys = [draft.key for draft in request.drafts if draft.key]
        while claims := {found for key in keys if isinstance(found := self._keys.find(key), asyncio.Future)}:
            await asyncio.wait(claims)

    def _sift(self, request: Judgement) -> tuple[list[Draft], dict[int, int | Key], Collection[int]]:
        """Return the new drafts; the repeated ones, by index; and the indexes of those that use the key of another event.

        A repeated draft has the id of the event that it repeats, or the key of a new draft. The last ones are refused here.
        """
        fresh: list[Draft] = []
        repeats: dict[int, int | Key] = {}
        reused: set[int] = set()
        claimed: dict[bytes, Key] = {}
        for draft in request.drafts:
            if draft.key is None:
                fresh.append(draft)
                continue
            found = self._keys.find(draft.key) or claimed.setdefault(draft.key.digest, draft.key)
            if found is draft.key:
                fresh.append(draft)
            elif isinstance(found, int) or found == draft.key:
                repeats[draft.index] = draft.key if isinstance(found, Key) else found
            else:
                reused.add(draft.index)
                request.refused.add(draft.index, Refused(_KEY_REUSED, draft.name))
        if reused:
            request.refused.listed.sort(key=itemgetter(0))
        return fresh, repeats, reused

    async def _put(
        self,
        events: Sequence[Event],
        judged: Sequence[Judged],
        claimed: Mapping[Key, int],
        *,
        intake: Intake,
        now: float,
    ) -> PutAnswer:
        """Put events, with what is learned from them. Their keys are claimed meanwhile, and remembered if it succeeds."""
        if not events:
            return Stored()
        forgotten_to = self._keys.forgotten_to
        if not judged and not claimed and forgotten_to <= self._forgotten_to:  # the usual case
            return await self._buffer.put(events, intake=intake)
        types: dict[Place, LearnedType] = {}
        for each in judged:
            types.update(each.learned)
        keys = [DuplicateKey(event_id, key.digest, now, key.event) for key, event_id in claimed.items()]
        changes = self._types.changes()
        notes = Notes(types, keys, forgotten_to if forgotten_to > self._forgotten_to else 0, changes)
        self._keys.claim(claimed)
        stored = False
        try:
            answer = await self._buffer.put(events, intake=intake, notes=notes)
            stored = isinstance(answer, Stored)
        finally:
            if stored:
                self._keys.settle(claimed)
                self._forgotten_to = max(self._forgotten_to, forgotten_to)
            else:
                self._keys.abandon(claimed)
                self._types.requeue(changes)
        return answer
