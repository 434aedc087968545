"""From what an app posted to what the buffer holds: judge each element, put those that are good.

All the ways in share it, whatever they speak. Elements fail alone; what is good of one request is put together, all or
nothing. Every element is counted exactly once: as accepted, as a duplicate or as refused.

Of a body that is refused as a whole, nothing is put, learned or counted here: all its elements are read before. Of those
that wait for that, only what the put needs is kept. Bodies that take more than one turn of the event loop are read one at a
time, first come, first served.
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
from forwarder.intake.judging import BYTES_PER_TURN, ELEMENTS_PER_TURN, Draft, Judge, Judgement
from forwarder.observing.telemetry import Telemetry
from forwarder.words import Intake, RefusalReason

LARGE_BODY_BYTES: Final = 256 * 1024
"""Of larger bodies one is stored at a time: what comes meanwhile waits for no more of them."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The buffer took charge of the good elements; there may be none."""

    ids: Sequence[int | None]
    """One for each element, of a duplicate the first one's; None where it was refused."""
    accepted: int
    duplicates: int
    refusals: Sequence[tuple[int, Refused]]
    """The index and the violations of refused elements, as far as they are listed."""
    reused: Collection[int] = ()
    """The indexes of all those that were refused because their keys came with other events."""

    @property
    def not_listed(self) -> int:
        """How many more elements were refused."""
        return len(self.ids) - self.accepted - self.duplicates - len(self.refusals)


Acceptance = Accepted | Full | NeverFits | Unavailable
OneAccepted = int | Refused | Full | NeverFits | Unavailable


class Storing(NamedTuple):
    """An event that is being stored, with the id that it will have."""

    event_id: int
    stored: asyncio.Future[PutAnswer]


class Acceptor:
    """Puts what `read` read into the buffer. `ids` gives rising ids; `clock` gives seconds since 1970."""

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
        self._judge = Judge(types)
        self._keys = keys
        self._forgotten_to = 0  # what the buffer was told last
        self._large = asyncio.Lock()
        """Held by the one body with many elements that is being read, and by a large one also while it is stored."""
        self._telemetry = telemetry
        self._ids = ids
        self._clock = clock

    async def accept_body(self, body: bytes, key: str | None, *, intake: Intake, is_lines: bool) -> Acceptance:
        """Take in all that one body holds: JSON, or lines of it. `key` is that of the whole request, from its headers.

        Raises MalformedJsonError, having counted nothing, if the body is refused as a whole.
        """
        read = self.read.lines if is_lines else self.read.json
        if len(body) <= BYTES_PER_TURN:
            posted = read(body, key)
            if posted.most <= ELEMENTS_PER_TURN:
                return await self.accept(posted.elements, intake=intake)
            del posted  # it may be far larger than the body
        async with self._large:
            request = await self._judge.judge(read(body, key).elements, keys_are_kept=self._keys.are_kept)
            if len(body) > LARGE_BODY_BYTES:
                return await self._settle(request, intake=intake, patient=False)
        return await self._settle(request, intake=intake, patient=False)

    async def accept(self, elements: Iterable[Element], *, intake: Intake, patient: bool = False) -> Acceptance:
        """Take in the elements of one request. Who is `patient` tries again what was not taken, so it is not counted.

        Raises what `elements` raises, having counted nothing.
        """
        return await self._settle(
            await self._judge.judge(elements, keys_are_kept=self._keys.are_kept), intake=intake, patient=patient
        )

    async def _settle(self, request: Judgement, *, intake: Intake, patient: bool) -> Acceptance:
        """Put what is good of a request, and count all of it."""
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
            one_of_them = request.refused.first[code]
            self._telemetry.events_refused(
                number, intake=intake, reason=code, name=one_of_them.name, field=one_of_them.violations[0].field
            )
        ids: list[int | None] = [None] * request.elements
        for one, event in zip(fresh, events, strict=True):
            ids[one.index] = event.id
        for index, first in repeats.items():
            ids[index] = first if isinstance(first, int) else claimed[first]
        return Accepted(ids, len(events), len(repeats), request.refused.listed, reused)

    def begin_one(self, element: Element, *, intake: Intake) -> Storing | None:
        """Begin to take in an event about which nothing is to be learned, remembered or forgotten, as nearly always.

        None if there is, or it may have to wait: see `accept_one`.
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

    def refuse_one(self, answer: Full | NeverFits | Unavailable, *, intake: Intake) -> Full | NeverFits | Unavailable:
        """Count an event that the buffer refused, and return the buffer's answer."""
        self._telemetry.events_refused(1, intake=intake, reason=_REASONS[type(answer)])
        return answer

    async def accept_one(self, element: Element, *, intake: Intake) -> OneAccepted:
        """Take in the one element of a request; return the event's id, of a duplicate the first one's."""
        answer = await self.accept([element], intake=intake)
        if not isinstance(answer, Accepted):
            return answer
        event_id = answer.ids[0]
        return answer.refusals[0][1] if event_id is None else event_id

    async def _wait_for_claims(self, request: Judgement) -> None:
        """Wait until none of the keys is of an event that is just being put."""
        self._keys.forget_old()
        keys = [draft.key for draft in request.drafts if draft.key]
        while claims := {found for key in keys if isinstance(found := self._keys.find(key), asyncio.Future)}:
            await asyncio.wait(claims)

    def _sift(self, request: Judgement) -> tuple[list[Draft], dict[int, int | Key], Collection[int]]:
        """Return what is new, and by their indexes the repetitions: of which event, or of which key among the new ones.

        Also the indexes of those that use the key of another event, which are refused.
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
        """Put events, whose keys are claimed meanwhile; if they are not stored, none is remembered."""
        if not events:
            return Stored()
        forgotten_to = self._keys.forgotten_to
        if not judged and not claimed and forgotten_to <= self._forgotten_to:  # as nearly always
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
                self._types.give_back(changes)
        return answer


_KEY_REUSED: Final = (
    Violation(
        "idempotency_key_reused",
        "idempotency_key",
        "this key (Idempotency-Key) came with another event before: give each event a key of its own, or post it as it was",
    ),
)
_REASONS: Final[Mapping[type, RefusalReason]] = {
    Full: "buffer_full",
    NeverFits: "body_too_large",
    Unavailable: "buffer_unavailable",
}
