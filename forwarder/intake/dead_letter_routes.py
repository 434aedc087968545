"""The endpoints of dead letters: list, show, replay, purge. Those that show payloads or change something are guarded.

A replay moves dead letters back into the buffer, through the contract like any other event. It does so in one transaction,
so that none is lost if it is interrupted and none is sent twice if it is repeated. A replayed event gets a new id, as its
place is behind newer events of its customer. The types of its attributes are not judged again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Final, NamedTuple

import orjson
from msgspec import UNSET, Meta, UnsetType

from forwarder.buffer.base import MAX_LETTERS, Buffer, Full, NeverFits, Stored, Unavailable
from forwarder.event import Clock, DeadLetter, DeadLetterPage, Event, LetterFilter
from forwarder.growlytics.contract import Conforming, Refused, lane_of_customer
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.elements import Elements
from forwarder.intake.operations import MAX_ID_DIGITS, Asked, Id, Operation, Operations, Question
from forwarder.observing.recent import Receipts
from forwarder.words import DEAD_REASONS, DeadReason

_MAX_INTEGER: Final = (1 << 63) - 1
_MAX_SECONDS: Final = 253402300799
"""The end of the year 9999."""


class _LettersToList(Question):
    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 100
    after: Annotated[int, Meta(ge=0, le=_MAX_INTEGER)] = 0
    reason: DeadReason | UnsetType = UNSET
    customer: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    name: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    since: Annotated[int, Meta(ge=0, le=_MAX_SECONDS)] | UnsetType = UNSET
    answers: bool = False
    payload: bool = False

    texts: ClassVar = frozenset({"customer", "name"})
    explained: ClassVar = {
        "limit": f"a decimal number from 1 to {MAX_LETTERS}",
        "after": f"a decimal number from 0 to {_MAX_INTEGER}",
        "reason": f"one of {', '.join(DEAD_REASONS)}",
        "customer": "a customerId",
        "name": "the name of an event",
        "since": "a time in whole seconds since 1970",
        "answers": "true or false",
        "payload": "true or false",
    }

    @property
    def only(self) -> LetterFilter:
        """Which dead letters are meant."""
        return LetterFilter(
            reason=self.reason or None,
            customer=lane_of_customer(self.customer) if self.customer else None,
            name=self.name or None,
            since=None if self.since is UNSET else self.since,
        )


class _LettersToChange(Question):
    ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_LETTERS)]
    dry_run: bool = False

    example: ClassVar = '{"ids": ["1"]}'
    explained: ClassVar = {
        "ids": f"a list of 1 to {MAX_LETTERS} ids, each a decimal number of 1 to {MAX_ID_DIGITS} digits, as text",
        "dry_run": "true or false",
    }

    @property
    def numbers(self) -> list[int]:
        """The ids, each once."""
        return list(dict.fromkeys(map(int, self.ids)))


class _Moved(NamedTuple):
    """What became of the dead letters that were asked for."""

    moved: Sequence[tuple[int, int | None]]
    """The ids of those that were moved, and their new ids; None in a dry run."""
    refused: Sequence[tuple[int, Refused]]
    """Those that the contract does not allow stay."""
    missing: Sequence[int]
    """These ids are of no dead letters, or not any more."""


class DeadLetterRoutes:
    """Answers requests for dead letters. `next_id` returns rising ids; `clock` seconds since 1970.

    A replay moves at most `max_replayed_bytes`, or one larger event.
    """

    def __init__(
        self,
        *,
        elements: Elements,
        buffer: Buffer,
        receipts: Receipts,
        next_id: Callable[[], int],
        clock: Clock,
        max_replayed_bytes: int,
    ) -> None:
        self._elements = elements
        self._buffer = buffer
        self._dead_letters = buffer.dead_letters
        self._receipts = receipts
        self._next_id = next_id
        self._clock = clock
        self._max_replayed_bytes = max_replayed_bytes
        self.changing = asyncio.Lock()
        """Held by the one request that changes dead letters."""
        self.operations: Operations = {
            "/v1/dead-letters": Operation("GET", self._list),
            "/v1/dead-letters/ID": Operation("GET", self._show, is_guarded=True),
            "/v1/dead-letters/replay": Operation("POST", self._replay, is_guarded=True),
            "/v1/dead-letters/purge": Operation("POST", self._purge, is_guarded=True),
        }

    async def _list(self, asked: Asked) -> Answer:
        wanted = _LettersToList.of_query(asked.query)
        if wanted.payload or wanted.customer:
            asked.demand_operator()
        with_answer = wanted.payload or (wanted.answers and asked.lacking() is None)
        page = DeadLetterPage([], wanted.after)
        while not page.letters and page.next_place is not None:
            page = await self._dead_letters.page(
                after_place=page.next_place, max_letters=wanted.limit, only=wanted.only
            )
        return answers.content(
            {
                "dead_letters": [
                    _described(letter, with_answer=with_answer, with_payload=wanted.payload) for letter in page.letters
                ],
                "next": None if page.next_place is None else str(page.next_place),
                "events": self._dead_letters.events,
            }
        )

    async def _show(self, asked: Asked) -> Answer:
        found = await self._dead_letters.find([asked.event_id])
        return (
            answers.content(_described(found[0], with_answer=True, with_payload=True))
            if found
            else answers.refusal("not_found")
        )

    async def _purge(self, asked: Asked) -> Answer:
        ids = _LettersToChange.of_body(asked.body).numbers
        async with self.changing:
            purged = set(await self._dead_letters.purge(ids))
        return answers.content({"purged": len(purged), "missing": [str(each) for each in ids if each not in purged]})

    async def _replay(self, asked: Asked) -> Answer:
        wanted = _LettersToChange.of_body(asked.body)
        # Even if the request is cancelled, the replay goes on: until it has ended, nobody else may change dead letters.
        moving = asyncio.create_task(self._move(wanted.numbers, dry_run=wanted.dry_run), name="replay")
        answer = await asyncio.shield(moving)
        if not isinstance(answer, _Moved):
            return answers.no_room(answer)
        return answers.content(
            {
                "replayed": [
                    {"id": str(old), "new_id": None if new is None else str(new)} for old, new in answer.moved
                ],
                "refused": [
                    {"id": str(old), "errors": answers.described(why.violations)} for old, why in answer.refused
                ],
                "missing": [str(each) for each in answer.missing],
            }
        )

    async def _move(self, ids: Sequence[int], *, dry_run: bool) -> _Moved | Full | NeverFits | Unavailable:
        """Move dead letters into the buffer: all that the contract allows, or none."""
        async with self.changing:
            letters = await self._dead_letters.find(ids, max_bytes=self._max_replayed_bytes)
            if len(letters) > 1 and sum(letter.event.size_bytes for letter in letters) > self._max_replayed_bytes:
                return NeverFits()
            good: list[tuple[Event, Conforming]] = []
            refused: list[tuple[int, Refused]] = []
            for letter in letters:
                checked = self._elements.one(letter.event.body)[1]
                if isinstance(checked, Conforming):
                    good.append((letter.event, checked))
                else:
                    refused.append((letter.event.id, checked))
            found = {letter.event.id for letter in letters}
            missing = [letter_id for letter_id in ids if letter_id not in found]
            if dry_run or not good:
                return _Moved([(event.id, None) for event, _ in good], refused, missing)
            now = self._clock()
            new = [
                Event(self._next_id(), check.customer, check.name, event.body, now, event.kind) for event, check in good
            ]
            replayed = [event.id for event, _ in good]
            answer = await self._buffer.put(new, intake="replay", replayed=replayed)
            if not isinstance(answer, Stored):
                return answer
            moved = [(old, event.id) for old, event in zip(replayed, new, strict=True)]
            for (old, _), (_, event_id) in zip(good, moved, strict=True):
                self._receipts.ended(old.id, "replaced", event_id, old.customer)
            return _Moved(moved, refused, missing)


def _described(letter: DeadLetter, *, with_answer: bool, with_payload: bool) -> dict[str, object]:
    event = letter.event
    described: dict[str, object] = {
        "id": str(event.id),
        "name": answers.text(event.name),
        "reason": letter.reason,
        "status": letter.status,
        "attempts": letter.attempts,
        "accepted_at": event.accepted_at,
        "first_attempt_at": letter.first_attempt_at,
        "last_attempt_at": letter.last_attempt_at,
        "size_bytes": event.size_bytes,
    }
    if event.kind != "event":
        described["kind"] = event.kind
    if with_answer:
        described["answer"] = letter.answer.decode(errors="replace")
    if with_payload:
        described["customer"] = answers.text(event.customer)
        described["event"] = orjson.Fragment(event.body)
    return described
