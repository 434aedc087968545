"""Asking a daemon for the types of attributes, and to forget or import some. Used by `attribute-types` only."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from forwarder.cli.daemon import Daemon, DaemonAnswer, not_a_forwarder
from forwarder.cli.dead_letter_requests import stopped_by
from forwarder.cli.patience import StoppedError
from forwarder.words import ATTRIBUTE_TYPES, AttributeType

if TYPE_CHECKING:
    from forwarder.attribute import Place

MAX_LISTED_TYPES: Final = 10_000_000
"""Ten times as many as can be learned: who lists more goes on for ever."""

_PATH: Final = "/v1/attribute-types"
_END_SECONDS: Final = 1e11
"""The year 5138. Times beyond what a calendar has cannot be shown."""


class KnownType(NamedTuple):
    """The type of one attribute."""

    place: "Place"
    type: "AttributeType"
    first_seen: float | None
    """Seconds since 1970; None if it is fixed."""
    conflicts: int


class Known(NamedTuple):
    """All that a daemon knows of types."""

    types: list[KnownType]
    max_learned: int
    is_full: bool


async def known_types(daemon: Daemon) -> Known:
    """Return all types, which are asked for page by page. Raises DaemonError and StoppedError."""
    found: dict[Place, KnownType] = {}  # what is forgotten meanwhile may have others come twice
    listed = 0
    after: object = None
    while True:
        answer = _good(daemon, await daemon.get(_PATH if after is None else f"{_PATH}?{urlencode({'after': after})}"))
        page, max_learned = _page(daemon, answer), answer.content.get("max")
        listed += len(page)
        found.update((each.place, each) for each in page)
        following = answer.content.get("next")
        if following is None and type(max_learned) is int:
            return Known(list(found.values()), max_learned, answer.content.get("full") is True)
        if not isinstance(following, str) or not page or following == after or listed > MAX_LISTED_TYPES:
            raise _strange(daemon, answer)
        after = following


def _page(daemon: Daemon, answer: DaemonAnswer) -> list[KnownType]:
    entries = answer.content.get("types")
    if not isinstance(entries, list):
        raise _strange(daemon, answer)
    types = [_known_type(entry) for entry in entries if isinstance(entry, dict)]
    known = [each for each in types if each is not None]
    if len(known) != len(entries):
        raise _strange(daemon, answer)
    return known


async def forget(daemon: Daemon, name: str, attribute: str | None) -> tuple[int, bool]:
    """Have it forget, and return how many types that were, and whether some are fixed. Raises as `known_types`."""
    asked = {"name": name} if attribute is None else {"name": name, "attribute": attribute}
    answer = await _post(daemon, "forget", asked)
    return _integer(daemon, answer, "forgotten"), answer.content.get("fixed") is True


async def import_types(daemon: Daemon, types: "Mapping[Place, AttributeType]") -> tuple[int, int]:
    """Have it learn these and no others; return how many it did, and how many are fixed. Raises as `known_types`."""
    tables: dict[str, dict[str, str]] = {}
    for (name, attribute), kind in types.items():
        tables.setdefault(name, {})[attribute] = kind
    answer = await _post(daemon, "import", {"types": tables})
    return _integer(daemon, answer, "imported"), _integer(daemon, answer, "fixed")


async def _post(daemon: Daemon, action: str, asked: Mapping[str, object]) -> DaemonAnswer:
    # ASCII, so that whatever a shell handed over as a name can be sent.
    body = json.dumps(asked, separators=(",", ":")).encode()
    return _good(daemon, await daemon.post(f"{_PATH}/{action}", body, content_type="application/json"))


def _good(daemon: Daemon, answer: DaemonAnswer) -> DaemonAnswer:
    if answer.status != 200:
        raise stopped_by(answer, daemon)
    return answer


def _integer(daemon: Daemon, answer: DaemonAnswer, field: str) -> int:
    value = answer.content.get(field)
    if type(value) is not int:
        raise _strange(daemon, answer)
    return value


def _strange(daemon: Daemon, answer: DaemonAnswer) -> StoppedError:
    return StoppedError(not_a_forwarder(daemon.place, answer.status))


def _known_type(entry: Mapping[str, object]) -> KnownType | None:

    name, attribute, conflicts = entry.get("name"), entry.get("attribute"), entry.get("conflicts")
    kind = next((each for each in ATTRIBUTE_TYPES if each == entry.get("type")), None)
    first_seen = entry.get("first_seen")
    if not isinstance(name, str) or not isinstance(attribute, str) or kind is None or type(conflicts) is not int:
        return None
    if first_seen is None and entry.get("fixed") is True:
        return KnownType((name, attribute), kind, None, conflicts)
    if isinstance(first_seen, int | float) and 0 <= first_seen < _END_SECONDS:
        return KnownType((name, attribute), kind, first_seen, conflicts)
    return None
