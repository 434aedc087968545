"""The endpoints of dead letters: list, show, replay, purge. What bears payloads or changes something is guarded."""

from typing import Annotated, ClassVar, Final

import orjson
from msgspec import UNSET, Meta, UnsetType

from forwarder.buffer.base import MAX_LETTERS, DeadLetters
from forwarder.event import DeadLetter
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.operations import MAX_ID_DIGITS, Asked, Id, Operation, Operations, Question
from forwarder.intake.replay import Replayed, Replayer
from forwarder.words import DEAD_REASONS, DeadReason

_MAX_INTEGER: Final = (1 << 63) - 1


class _Listing(Question):
    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 100
    after: Annotated[int, Meta(ge=0, le=_MAX_INTEGER)] = 0
    reason: DeadReason | UnsetType = UNSET
    payload: bool = False

    explained: ClassVar = {
        "limit": f"a decimal number from 1 to {MAX_LETTERS}",
        "after": f"a decimal number from 0 to {_MAX_INTEGER}",
        "reason": f"one of {', '.join(DEAD_REASONS)}",
        "payload": "true or false",
    }


class _Change(Question):
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


class DeadLetterRoutes:
    """Answers requests for dead letters."""

    def __init__(self, dead_letters: DeadLetters, replayer: Replayer) -> None:
        self._dead_letters = dead_letters
        self._replayer = replayer
        self.operations: Operations = {
            "/v1/dead-letters": Operation("GET", self._list),
            "/v1/dead-letters/ID": Operation("GET", self._show, is_guarded=True),
            "/v1/dead-letters/replay": Operation("POST", self._replay, is_guarded=True),
            "/v1/dead-letters/purge": Operation("POST", self._purge, is_guarded=True),
        }

    async def _list(self, asked: Asked) -> Answer:
        listing = _Listing.of_query(asked.query)
        if listing.payload:
            asked.demand_leave()
        page = await self._dead_letters.page(
            after_place=listing.after, max_letters=listing.limit, reason=listing.reason or None
        )
        return answers.content(
            {
                "dead_letters": [_described(letter, with_payload=listing.payload) for letter in page.letters],
                "next": None if page.next_place is None else str(page.next_place),
                "events": self._dead_letters.events,
            }
        )

    async def _show(self, asked: Asked) -> Answer:
        found = await self._dead_letters.find([asked.event_id])
        return answers.content(_described(found[0], with_payload=True)) if found else answers.refusal("not_found")

    async def _replay(self, asked: Asked) -> Answer:
        change = _Change.of_body(asked.body)
        answer = await self._replayer.replay(change.numbers, dry_run=change.dry_run)
        if not isinstance(answer, Replayed):
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

    async def _purge(self, asked: Asked) -> Answer:
        ids = _Change.of_body(asked.body).numbers
        async with self._replayer.changing:
            purged = set(await self._dead_letters.purge(ids))
        return answers.content({"purged": len(purged), "missing": [str(each) for each in ids if each not in purged]})


def _described(letter: DeadLetter, *, with_payload: bool) -> dict[str, object]:
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
    if with_payload:
        described["customer"] = answers.text(event.customer)
        described["answer"] = letter.answer.decode(errors="replace")
        described["event"] = orjson.Fragment(event.body)
    return described
