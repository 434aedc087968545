"""The endpoints of attribute types: list, forget, import. They show no values; what changes something is guarded."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any, Final

import orjson
from aiohttp import web

from forwarder.database.attribute_types import AttributeType, Place, TypeChanges
from forwarder.database.connection import DamagedError, UnavailableError
from forwarder.growlytics import json_text
from forwarder.growlytics.attribute_types import AttributeTypes
from forwarder.growlytics.attribute_values import MAX_ATTRIBUTE_BYTES, TYPES, is_nameable
from forwarder.growlytics.contract import MAX_NAME_UNITS
from forwarder.growlytics.known_types import TooManyTypesError
from forwarder.intake import answers

_TYPES_PER_TURN: Final = 1000
"""How many types are written, or read, before others get a turn of the event loop."""
_TYPES: Final[Mapping[object, AttributeType]] = {each: each for each in TYPES}


class _AskedWronglyError(Exception):
    """The request cannot be understood; the message says why."""


class AttributeTypeRoutes:
    """Answers requests for the types of attributes. `note` has changes kept beyond the process."""

    changes = ("forget", "import")
    has_ids = False

    def __init__(self, types: AttributeTypes, note: Callable[[TypeChanges], Awaitable[None]]) -> None:
        self._types = types
        self._note = note

    async def get(self, path: str, query: Mapping[str, str], *, allowed: bool) -> web.Response:  # noqa: ARG002 - a shape
        """Answer a GET of what follows `/v1/attribute-types`, without a slash; there is nothing that needs leave."""
        return answers.refusal("not_found") if path else await self._list()

    async def post(self, path: str, body: bytes, *, allowed: bool) -> web.Response:
        """Answer a POST to what follows `/v1/attribute-types/`; `allowed`: may it change something?"""
        if not allowed:
            return answers.refusal("unauthorized")
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

    async def _list(self) -> web.Response:
        pieces = []
        listed = self._types.listed()
        while portion := list(islice(listed, _TYPES_PER_TURN)):
            pieces.append(_json(portion)[1:-1])
            await asyncio.sleep(0)
        body = _json(self._types.counts())[:-1] + b',"types":[' + b",".join(pieces) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _forget(self, asked: Mapping[str, Any]) -> web.Response:
        name, attribute = asked.get("name"), asked.get("attribute")
        if not isinstance(name, str):
            raise _AskedWronglyError("name must be the name of events, a string")
        if attribute is not None and not isinstance(attribute, str):
            raise _AskedWronglyError(
                "attribute must be the name of an attribute, a string; without it all are forgotten"
            )
        forgotten = self._types.forget(name, attribute)
        if forgotten:
            await self._note(forgotten)
        return answers.content({"forgotten": len(forgotten), "fixed": self._types.is_fixed(name, attribute)})

    async def _import(self, asked: Mapping[str, Any]) -> web.Response:
        types = await _types_in(asked.get("types"))
        try:
            changes = self._types.imported(types)
        except TooManyTypesError:
            raise _AskedWronglyError("these are more types than contract.max_attribute_types lets it learn") from None
        if changes:
            await self._note(changes)
        fixed = sum(self._types.is_fixed(*place) for place in types)
        return answers.content({"imported": len(types) - fixed, "fixed": fixed})


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


async def _types_in(tables: object) -> dict[Place, AttributeType]:
    wrong = _AskedWronglyError(f"types must be an object like {_IMPORT_EXAMPLE}, the type one of {', '.join(TYPES)}")
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
