"""The endpoint that shows operators the inside of the daemon. It changes nothing and shows no payloads.

All parts together have at most about 4 MiB, like the longest page of dead letters.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.operations import Asked, Operation, Operations, wrong
from forwarder.words import DEBUG_PARTS, DebugPart

_BY_NAME: Final[Mapping[str, DebugPart]] = {part: part for part in DEBUG_PARTS}


def debugging(read: Callable[[Collection[DebugPart]], Awaitable[Mapping[str, object]]]) -> Operations:
    """Return the operation that shows what `read` returns for the parts that are asked for, by default all."""

    async def show(asked: Asked) -> Answer:
        names = asked.query.get("parts", "")
        wanted = [_BY_NAME.get(name) for name in names.split(",")] if names else DEBUG_PARTS
        parts = {part for part in wanted if part is not None}
        if None in wanted:
            raise wrong(f"parts must be some of {', '.join(DEBUG_PARTS)}, separated by commas")
        return answers.content(await read(parts))

    return {"/v1/debug": Operation("GET", show, is_guarded=True)}
