"""Requests and answers of HTTP/1.1, and the interface between a server and the application that answers. Pure."""

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
"""Why a request is refused before it can be answered; `busy`: all incoming bodies together take too much memory."""

CloseReason = Literal["too_many", "header_timeout", "body_timeout", "answer_timeout"]
"""Why a connection is closed to make room for others."""


@dataclass(slots=True)
class Request:
    """One request."""

    method: str
    """GET also for a HEAD request, as these differ only in how the answer is written."""
    target: str
    """As it came, mostly a path and a query. ASCII without white space."""
    headers: Mapping[str, str]
    """By lower-case names; repeated headers are joined by `, `. Bytes that are not UTF-8 are surrogates."""
    body: bytes
    """Empty until it is complete."""
    peer: Any
    """The socket of the connection, only to ask who connected."""

    @property
    def authority(self) -> str | None:
        """The host of a target that is a whole URL, as proxies get; it counts instead of the Host. Else None."""
        whole = _WHOLE_URL.match(self.target)
        return None if whole is None else whole[1]

    @property
    def path(self) -> str:
        """The path in the target, unescaped."""
        whole = _WHOLE_URL.match(self.target)
        return unquote(self.target[0 if whole is None else whole.end() :].partition("?")[0]) or "/"

    @property
    def query(self) -> dict[str, str]:
        """The query in the target; the last value counts where a name is repeated."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


@dataclass(slots=True)
class Answer:
    """One answer. If it `closes`, nothing more is read or answered on the connection."""

    status: int
    headers: Mapping[str, str]
    """All but Date, Content-Length and Connection, in ASCII."""
    body: bytes = b""
    closes: bool = False


class Later(NamedTuple):
    """An answer that `answer` makes from the result of `done`.

    Later requests of the connection begin meanwhile: this one has its place in their order already.
    """

    done: Future[Any]
    answer: Callable[[Any], Answer]


Reply = Answer | Later | Coroutine[Any, Any, Answer]
"""An answer, now or later. While a coroutine runs, later requests of the connection wait."""


class Resource(NamedTuple):
    """What answers a request, and the limit of its body."""

    answer: Callable[[Request], Reply]
    max_body_bytes: int
    is_lasting: bool = False
    """Whether later requests with the same head, except for the Content-Length, have it, until `KnownHeads.forget`."""


class Application(Protocol):
    """What answers the requests of a server. An exception is a bug, and only its request suffers."""

    def begin(self, request: Request) -> Resource | Answer:
        """Return what answers a request with this head; or return its answer, and the body is not wanted."""
        ...

    def refuse(self, refusal: Refusal, request: Request | None) -> Answer:
        """Return the answer to a broken request; it is None if not even its target is known.

        The connection is closed after the answer.
        """
        ...

    def fail(self, error: BaseException, request: Request) -> Answer:
        """Return the answer to a request for which another method raised."""
        ...

    def connection_closed(self, reason: CloseReason) -> None:
        """Note that a connection was closed to make room for others."""
        ...


class State(Enum):
    """What a connection waits for."""

    NEW = "the first byte of its first request"
    IDLE = "the first byte of another request"
    HEAD = "the end of a head"
    BODY = "the end of a body"
    ANSWERING = "answers from the application"
    UNREAD = "its client, to read what was written"
    LINGERING = "the end of what a refused client still sends"
    CLOSED = "what was written to be sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of size and time for clients."""

    head_seconds: float
    """For a head, from its first byte, or from connecting."""
    body_seconds: float
    """For a body, from the end of its head."""
    answer_seconds: float
    """For reading what was written."""
    idle_seconds: float = 75.0
    """Without a request, after one."""
    lingering_seconds: float = 2.0
    """How long data of a refused client is read and thrown away, so that the client can read why it is refused."""
    max_head_bytes: int = 32 * 1024
    """If it comes slowly, somewhat more is read before it is refused."""
    max_headers: int = 200
    max_target_bytes: int = 8 * 1024
    max_waiting_bytes: int = 128 * 1024
    """The memory of a connection's pipelined requests that are not answered yet, each at least 1 KiB; beyond it, reading
    stops."""


STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
