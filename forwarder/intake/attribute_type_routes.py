"""The endpoints of attribute types: list, forget, import. None shows values; those that change something are guarded."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar, Final

import orjson
from msgspec import Meta

from forwarder.attribute import MAX_ATTRIBUTE_BYTES, Place, TypeChanges, is_nameable
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.attribute_types.known import TooManyTypesError
from forwarder.growlytics.contract import MAX_NAME_UNITS
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.operations import Asked, Operation, Operations, Question, RefusedOperationError, wrong
from forwarder.words import ATTRIBUTE_TYPES, AttributeType

MAX_PAGE_TYPES: Final = 500
MAX_PAGE_BYTES: Final = 1 << 18
"""The most of one page: many clients may ask for pages and not read them."""
NOTE_SECONDS: Final = 5.0
"""How long a change may wait for the disk before the request is refused; clients wait for about 10 s."""
_CURSOR: Final = rf"^(?:[0-9a-f]{{4}}){{1,{MAX_NAME_UNITS}}}-(?:[0-9a-f]{{4}}){{0,{MAX_ATTRIBUTE_BYTES}}}\Z"
"""The UTF-16 code units of a name and of an attribute, in hexadecimal, so every text of this form is valid."""
_TYPES_PER_TURN: Final = 1000
"""How many types are read before other tasks get a turn of the event loop."""


class _TypesToList(Question):
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_TYPES)] = MAX_PAGE_TYPES
    after: Annotated[str, Meta(pattern=_CURSOR)] | None = None

    explained: ClassVar = {
        "limit": f"a decimal number from 1 to {MAX_PAGE_TYPES}",
        "after": "the next of the page before, unchanged",
    }


class _TypesToForget(Question):
    name: str
    attribute: str | None = None

    example: ClassVar = '{"name": "…", "attribute": "…"}'
    explained: ClassVar = {
        "name": "the name of events, a string",
        "attribute": "the name of an attribute, a string; leave it out to forget all attributes",
    }


class _TypesToImport(Question):
    types: dict[str, dict[str, AttributeType]]

    example: ClassVar = '{"types": {"Add To Cart": {"Price": "number"}}}'
    explained: ClassVar = {"types": f"an object like that in {example}, the type one of {', '.join(ATTRIBUTE_TYPES)}"}


class AttributeTypeRoutes:
    """Answers requests for the types of attributes. `note` stores changes on disk, and may take long.

    If it takes longer than `note_seconds`, the answer is 503 buffer_unavailable. The change is in force in memory all the
    same, and is stored as soon as there is room. To ask for it again does no harm.
    """

    def __init__(
        self,
        types: AttributeTypes,
        note: Callable[[TypeChanges], Awaitable[None]],
        *,
        note_seconds: float = NOTE_SECONDS,
    ) -> None:
        self._types = types
        self._note = note
        self._note_seconds = note_seconds
        self._noting: set[asyncio.Future[None]] = set()
        self.operations: Operations = {
            "/v1/attribute-types": Operation("GET", self._list),
            "/v1/attribute-types/forget": Operation("POST", self._forget, is_guarded=True),
            "/v1/attribute-types/import": Operation("POST", self._import, is_guarded=True),
        }

    async def _list(self, asked: Asked) -> Answer:
        listing = _TypesToList.of_query(asked.query)
        pieces: list[bytes] = []
        left = MAX_PAGE_BYTES
        last = following = None
        for place, described in self._types.listed(None if listing.after is None else _place_of(listing.after)):
            if len(pieces) == listing.limit or left <= 0:
                following = last
                break
            pieces.append(_json(described))
            left -= len(pieces[-1])
            last = place
        head = self._types.counts() | {"next": None if following is None else _cursor(following)}
        body = _json(head)[:-1] + b',"types":[' + b",".join(pieces) + b"]}"
        return answers.content(body)

    async def _forget(self, asked: Asked) -> Answer:
        which = _TypesToForget.of_body(asked.body)
        forgotten = self._types.forget(which.name, which.attribute)
        await self._store(forgotten)
        is_fixed = self._types.is_fixed(which.name, which.attribute)
        return answers.content({"forgotten": len(forgotten), "fixed": is_fixed})

    async def _import(self, asked: Asked) -> Answer:
        types = await _by_place(_TypesToImport.of_body(asked.body))
        try:
            changes = self._types.imported(types)
        except TooManyTypesError:
            raise wrong("these are more types than contract.max_attribute_types allows") from None
        await self._store(changes)
        fixed = sum(self._types.is_fixed(*place) for place in types)
        return answers.content({"imported": len(types) - fixed, "fixed": fixed})

    async def _store(self, changes: TypeChanges) -> None:
        """Wait until changes are stored. If that takes too long, refuse the request and let it go on."""
        if not changes:
            return
        noting = asyncio.ensure_future(self._note(changes))
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)
        done, _ = await asyncio.wait({noting}, timeout=self._note_seconds)
        if not done:
            noting.add_done_callback(_forget_outcome)
            raise RefusedOperationError(answers.refusal("buffer_unavailable"))
        noting.result()


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a name has lone surrogates, which only the standard library writes
        return json.dumps(value, separators=(",", ":")).encode()


def _cursor(place: Place) -> str:
    return "-".join(each.encode("utf-16-be", "surrogatepass").hex() for each in place)


def _place_of(cursor: str) -> Place:
    name, attribute = (bytes.fromhex(each).decode("utf-16-be", "surrogatepass") for each in cursor.split("-"))
    return name, attribute


def _forget_outcome(noting: "asyncio.Future[None]") -> None:
    """Fetch the exception, or asyncio logs that nobody did; the metrics and the log tell of a disk that fails already."""
    if not noting.cancelled():
        noting.exception()


async def _by_place(asked: _TypesToImport) -> dict[Place, AttributeType]:
    found: dict[Place, AttributeType] = {}
    for name, table in asked.types.items():
        if not 0 < len(name.encode("utf-16-le", "surrogatepass")) // 2 <= MAX_NAME_UNITS:
            raise wrong(f"an event's name has 1 to {MAX_NAME_UNITS} characters (UTF-16 code units)")
        for attribute, kind in table.items():
            if not is_nameable(attribute):
                raise wrong(f"an attribute's name has at most {MAX_ATTRIBUTE_BYTES} bytes in UTF-8")
            found[name, attribute] = kind
            if len(found) % _TYPES_PER_TURN == 0:
                await asyncio.sleep(0)
    return found
