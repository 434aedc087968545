"""The endpoints of attribute types: list, forget, import. They show no values; what changes something is guarded."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from forwarder.database.attribute_types import Place, TypeChanges
from forwarder.database.connection import DamagedError, UnavailableError
from forwarder.growlytics import json_text
from forwarder.growlytics.attribute_types import AttributeTypes
from forwarder.growlytics.attribute_values import MAX_ATTRIBUTE_BYTES, is_nameable
from forwarder.growlytics.contract import MAX_NAME_UNITS
from forwarder.growlytics.known_types import TooManyTypesError
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.words import ATTRIBUTE_TYPES, AttributeType, RequestCode

MAX_PAGE_TYPES: Final = 500
MAX_PAGE_BYTES: Final = 1 << 18
"""What is listed at once: many may ask, and not read what they are answered."""
NOTE_SECONDS: Final = 5.0
"""For how long a change may wait for the disk before its client is told to come again: clients wait for about 10 s."""
_CURSOR: Final = re.compile(
    rf"((?:[0-9a-f]{{4}}){{1,{MAX_NAME_UNITS}}})-((?:[0-9a-f]{{4}}){{0,{MAX_ATTRIBUTE_BYTES}}})"
)
"""The UTF-16 code units of a name and of an attribute, so that whatever looks like one is one."""
_TYPES_PER_TURN: Final = 1000
"""How many types are read before others get a turn of the event loop."""
_TYPES: Final[Mapping[object, AttributeType]] = {each: each for each in ATTRIBUTE_TYPES}


class _AskedWronglyError(Exception):
    """The request cannot be understood; the message says why."""


class AttributeTypeRoutes:
    """Answers requests for the types of attributes. `note` has changes kept beyond the process, and may take its time.

    What it has not done within `note_seconds` is answered 503 buffer_unavailable. The change is in force all the same, in
    memory, and is kept on disk as soon as there is room. To ask for it again does no harm.
    """

    changes = ("forget", "import")
    has_ids = False

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

    async def get(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        lacking: Callable[[], RequestCode | None],  # noqa: ARG002 - a shape
    ) -> Answer:
        """Answer a GET of what follows `/v1/attribute-types`, without a slash; there is nothing that needs leave."""
        try:
            return answers.refusal("not_found") if path else self._list(query)
        except _AskedWronglyError as error:
            return answers.wrong_request(str(error))

    async def post(self, path: str, body: bytes, *, lacking: RequestCode | None) -> Answer:
        """Answer a POST to what follows `/v1/attribute-types/`; `lacking`: the code of what it lacks to change things."""
        if lacking is not None:
            return answers.refusal(lacking)
        try:
            match path:
                case "forget":
                    return await self._forget(_asked(body, 'send a JSON object like {"name": "…", "attribute": "…"}'))
                case "import":
                    return await self._import(_asked(body, f"send a JSON object like {_IMPORT_EXAMPLE}"))
                case _:
                    return answers.refusal("not_found")
        except _AskedWronglyError as error:
            return answers.wrong_request(str(error))
        except (UnavailableError, DamagedError):
            return answers.refusal("buffer_unavailable")

    def _list(self, query: Mapping[str, str]) -> Answer:
        limit, after = _limit(query.get("limit", str(MAX_PAGE_TYPES))), query.get("after")
        pieces: list[bytes] = []
        left = MAX_PAGE_BYTES
        last = following = None
        for place, described in self._types.listed(None if after is None else _place_of(after)):
            if len(pieces) == limit or left <= 0:
                following = last
                break
            pieces.append(_json(described))
            left -= len(pieces[-1])
            last = place
        head = self._types.counts() | {"next": None if following is None else _cursor(following)}
        body = _json(head)[:-1] + b',"types":[' + b",".join(pieces) + b"]}"
        return answers.encoded(body)

    async def _forget(self, asked: Mapping[str, Any]) -> Answer:
        name, attribute = asked.get("name"), asked.get("attribute")
        if not isinstance(name, str):
            raise _AskedWronglyError("name must be the name of events, a string")
        if attribute is not None and not isinstance(attribute, str):
            raise _AskedWronglyError(
                "attribute must be the name of an attribute, a string; without it all are forgotten"
            )
        forgotten = self._types.forget(name, attribute)
        if not await self._noted(forgotten):
            return answers.refusal("buffer_unavailable")
        return answers.content({"forgotten": len(forgotten), "fixed": self._types.is_fixed(name, attribute)})

    async def _import(self, asked: Mapping[str, Any]) -> Answer:
        types = await _types_in(asked.get("types"))
        try:
            changes = self._types.imported(types)
        except TooManyTypesError:
            raise _AskedWronglyError("these are more types than contract.max_attribute_types lets it learn") from None
        if not await self._noted(changes):
            return answers.refusal("buffer_unavailable")
        fixed = sum(self._types.is_fixed(*place) for place in types)
        return answers.content({"imported": len(types) - fixed, "fixed": fixed})

    async def _noted(self, changes: TypeChanges) -> bool:
        """Return whether they are kept; if that takes too long it goes on, and nobody waits for it."""
        if not changes:
            return True
        noting = asyncio.ensure_future(self._note(changes))
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)
        done, _ = await asyncio.wait({noting}, timeout=self._note_seconds)
        if done:
            noting.result()
        else:
            noting.add_done_callback(_forget_outcome)
        return bool(done)


_IMPORT_EXAMPLE: Final = '{"types": {"Add To Cart": {"Price": "number"}}}'


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # names may hold lone surrogates, which only the standard library writes
        return json.dumps(value, separators=(",", ":")).encode()


def _asked(body: bytes, mend: str) -> Mapping[str, Any]:
    try:
        asked = json_text.parse(body)
    except json_text.MalformedJsonError:
        asked = None
    if not isinstance(asked, dict):
        raise _AskedWronglyError(mend)
    return asked


def _limit(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 19 and 1 <= int(text) <= MAX_PAGE_TYPES:
        return int(text)
    raise _AskedWronglyError(f"limit: a decimal number from 1 to {MAX_PAGE_TYPES}, as text")


def _cursor(place: Place) -> str:
    return "-".join(each.encode("utf-16-be", "surrogatepass").hex() for each in place)


def _place_of(cursor: str) -> Place:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise _AskedWronglyError("after: the next of the page before, as it was")
    name, attribute = (bytes.fromhex(each).decode("utf-16-be", "surrogatepass") for each in found.groups())
    return name, attribute


def _forget_outcome(noting: "asyncio.Future[None]") -> None:
    """A disk that fails is told by the metrics and the log; asyncio would tell of an exception that nobody fetched."""
    if not noting.cancelled():
        noting.exception()


async def _types_in(tables: object) -> dict[Place, AttributeType]:
    wrong = _AskedWronglyError(
        f"types must be an object like {_IMPORT_EXAMPLE}, the type one of {', '.join(ATTRIBUTE_TYPES)}"
    )
    if not isinstance(tables, dict):
        raise wrong
    found: dict[Place, AttributeType] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise wrong
        if not 0 < len(name.encode("utf-16-le", "surrogatepass")) // 2 <= MAX_NAME_UNITS:
            raise _AskedWronglyError(f"an event's name has 1 to {MAX_NAME_UNITS} characters (UTF-16 code units)")
        for attribute, kind in table.items():
            if not isinstance(kind, str) or kind not in _TYPES:
                raise wrong
            if not is_nameable(attribute):
                raise _AskedWronglyError(f"an attribute's name has at most {MAX_ATTRIBUTE_BYTES} bytes in UTF-8")
            found[name, attribute] = _TYPES[kind]
            if len(found) % _TYPES_PER_TURN == 0:
                await asyncio.sleep(0)
    return found
