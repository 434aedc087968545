"""What operators may ask for over HTTP: how a request is read, who may make it, and how it is refused."""

import re
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self

import msgspec

from forwarder.buffer.base import BufferUnavailableError
from forwarder.growlytics import json_text
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.words import RequestCode

MAX_ID_DIGITS: Final = 18
_MAX_INTEGER_DIGITS: Final = 19
_FIELD: Final = re.compile(r"\$\.(\w+)|required field `(\w+)`")
"""The field in an error of msgspec."""

Id = Annotated[str, msgspec.Meta(pattern=rf"^[0-9]{{1,{MAX_ID_DIGITS}}}\Z")]


class RefusedOperationError(Exception):
    """The request is refused, and `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Question(msgspec.Struct):
    """What a request contains besides its path. Each kind of request has its members as fields."""

    example: ClassVar[str] = "{}"
    """A body."""
    explained: ClassVar[Mapping[str, str]] = {}
    """What each field must be."""
    texts: ClassVar[AbstractSet[str]] = frozenset()
    """Fields of a query that are text, whatever they look like."""

    @classmethod
    def of_body(cls, body: bytes) -> Self:
        """Read a JSON object. Raise RefusedOperationError."""
        try:
            value = json_text.parse(body)
        except json_text.MalformedJsonError:
            value = None
        return cls._of(value)

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Self:
        """Read a query, in which decimal numbers, `true` and `false` are no strings. Raise RefusedOperationError."""
        return cls._of({name: text if name in cls.texts else _value(text) for name, text in query.items()})

    @classmethod
    def _of(cls, value: object) -> Self:
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            found = _FIELD.search(str(error))
        if found is None:
            raise wrong(f"send a JSON object like {cls.example}")
        field = found[1] or found[2]
        raise wrong(f"{field} must be {cls.explained[field]}")


class Asked(NamedTuple):
    """One request."""

    event_id: int
    """The id in its path; 0 if it has none."""
    query: Mapping[str, str]
    body: bytes
    """Empty unless the request is a POST."""
    lacking: Callable[[], RequestCode | None]
    """Returns why the client is not an operator; None if it is one."""
    user: Callable[[], int | None] = lambda: None
    """Returns the number of the client's user over a Unix socket; None if it is unknown."""

    def demand_operator(self) -> None:
        """Raise RefusedOperationError unless the client may see payloads and change something."""
        if (code := self.lacking()) is not None:
            raise RefusedOperationError(answers.refusal(code))


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked for. `answer` may raise RefusedOperationError and BufferUnavailableError."""

    method: Literal["GET", "POST"]
    answer: Callable[[Asked], Awaitable[Answer]]
    is_guarded: bool = False
    """Whether it shows payloads or changes something, so that only operators may ask for it."""

    async def ask(self, asked: Asked) -> Answer:
        """Answer a request."""
        try:
            if self.is_guarded:
                asked.demand_operator()
            return await self.answer(asked)
        except RefusedOperationError as error:
            return error.answer
        except BufferUnavailableError:
            return answers.refusal("buffer_unavailable")


Operations = Mapping[str, Operation]
"""By their paths, in which `ID` stands for an id."""


def looking(
    status: Callable[[], Mapping[str, object]], receipt: Callable[[int], Awaitable[Mapping[str, object] | None]]
) -> Operations:
    """Return the operations that show the status and the receipt of an event, which is None if the event is unknown."""

    async def show_status(_: Asked) -> Answer:
        return answers.content(status())

    async def show_receipt(asked: Asked) -> Answer:
        if (found := await receipt(asked.event_id)) is None:
            return answers.refusal("not_found")
        return answers.content({"id": str(asked.event_id), **found})

    return {"/v1/status": Operation("GET", show_status), "/v1/events/ID": Operation("GET", show_receipt)}


def refused(code: RequestCode, why: str) -> RefusedOperationError:
    """Return the error for a request that is understood, but cannot be done."""
    return RefusedOperationError(answers.refusal(code, why=why))


def wrong(message: str) -> RefusedOperationError:
    """Return the error for a request that cannot be understood."""
    return RefusedOperationError(answers.wrong("wrong_type", message))


def _value(text: str) -> object:
    if text.isascii() and text.isdecimal() and len(text) <= _MAX_INTEGER_DIGITS:
        return int(text)
    return text == "true" if text in {"true", "false"} else text
