"""Requests and answers of HTTP/1.1, and what a server asks of who answers them. Pure."""

import re
from asyncio import Future
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

_WHOLE_URL: Final = re.compile("[^/?#]+://([^/?#]*)")

Refusal = Literal[
    "malformed_http",
    "uri_too_long",
    "headers_too_large",
    "unsupported_transfer_encoding",
    "headers_too_slow",
    "body_too_large",
    "malformed_body",
    "body_too_slow",
    "busy",
]
"""Why a request is refused before it can be answered; `busy`: the bodies that come take too much memory together."""

CloseReason = Literal["too_many", "header_timeout", "body_timeout", "answer_timeout"]
"""Why a connection is closed for the sake of others."""


@dataclass(slots=True)
class Request:
    """One request."""

    method: str
    """GET also where it came as HEAD, as these differ only in how the answer is written."""
    target: str
    """As it came: mostly a path and a query. ASCII without white space."""
    headers: Mapping[str, str]
    """By name in lower case; those that came several times are joined by `, `. Bytes that are not UTF-8 are surrogates."""
    body: bytes
    """Empty until all of it has come."""
    peer: Any
    """The socket of the connection, to ask about it only."""

    @property
    def authority(self) -> str | None:
        """The host in a target that is a whole URL, as a proxy is sent; it counts in place of the Host. Else None."""
        whole = _WHOLE_URL.match(self.target)
        return None if whole is None else whole[1]

    @property
    def path(self) -> str:
        """The path in the target, with the characters that escapes stand for."""
        whole = _WHOLE_URL.match(self.target)
        return unquote(self.target[0 if whole is None else whole.end() :].partition("?")[0]) or "/"

    @property
    def query(self) -> dict[str, str]:
        """What follows `?` in the target; of what is there twice, the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


@dataclass(slots=True)
class Answer:
    """One answer. If it `closes`, nothing more of the connection is answered, nor is the rest of the body read."""

    status: int
    headers: Mapping[str, str]
    """All but Date, Content-Length and Connection, in ASCII."""
    body: bytes = b""
    closes: bool = False


class Later(NamedTuple):
    """An answer that `answer` makes of what `done` will hold.

    Meanwhile the requests behind it on the connection are given out, too: this one has its place in their order already.
    """

    done: Future[Any]
    answer: Callable[[Any], Answer]


Reply = Answer | Later | Coroutine[Any, Any, Answer]
"""An answer, now or later. A coroutine is run, and the requests behind it on the connection wait for its end."""


class Resource(NamedTuple):
    """Who answers a request, and how much body it may have."""

    answer: Callable[[Request], Reply]
    max_body_bytes: int
    is_lasting: bool = False
    """Whether each request with the same head has this resource, whatever its Content-Length, until `KnownHeads.forget`."""


class Application(Protocol):
    """Who answers the requests of a server. What is raised is a bug, of which only the one request suffers."""

    def begin(self, request: Request) -> Resource | Answer:
        """Say who answers a request, by its head; or answer it, and no body is wanted."""
        ...

    def refuse(self, refusal: Refusal, request: Request | None) -> Answer:
        """Return the answer to what cannot be a request, or has no whole body; None if not even its target is known.

        The connection is closed after it.
        """
        ...

    def fail(self, error: BaseException, request: Request) -> Answer:
        """Return the answer to a request at which something else raised."""
        ...

    def connection_closed(self, reason: CloseReason) -> None:
        """Note that a connection was closed for the sake of others."""
        ...


class State(Enum):
    """What a connection waits for."""

    NEW = "the first byte of its first request"
    IDLE = "the first byte of another request"
    HEAD = "the end of a head"
    BODY = "the end of a body"
    ANSWERING = "answers from who gives them"
    UNREAD = "its client, to read what was written"
    LINGERING = "the end of what a refused client still sends"
    CLOSED = "what was written to be sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask for, and how long it may take."""

    head_seconds: float
    """For a head, from its first byte, or from connecting."""
    body_seconds: float
    """For a body, from the end of its head."""
    answer_seconds: float
    """For reading what was written."""
    idle_seconds: float = 75.0
    """Without a request, after one."""
    lingering_seconds: float = 2.0
    """As long is read, and thrown away, what a refused client still sends, or it could not read why it is refused."""
    max_head_bytes: int = 32 * 1024
    """Of one that comes slowly, somewhat more is read before it is refused."""
    max_headers: int = 200
    max_target_bytes: int = 8 * 1024
    max_waiting_bytes: int = 128 * 1024
    """What the pipelined requests of a connection that are not answered yet may take in memory, each at least 1 KiB; beyond,
    no more is read."""


STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
