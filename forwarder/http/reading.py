"""From bytes to requests: what httptools finds, held within bounds, and what it leaves to its user.

That is: it bounds no head; after an `Upgrade` it takes the body for another protocol; it has nothing against HTTP/2.0
or 0.9, no Host or several. A callback that raises would lose the rest of what came, so none does: what is refused ends
the reading.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from forwarder.http.messages import Limits, Refusal, Request, Resource, State

_LINE_BYTES: Final = 4
"""What a header has besides its name and value."""
_OVERHEAD: Final = 16
"""As many bytes may come for each byte of a body, besides as many as a head may have: chunks of one byte have six."""
SLICE_BYTES: Final = 4 * 1024
"""At most as much is to be fed at once, as it is not known how much of that is of one request, nor of how many."""
_BLOCK_BYTES: Final = 16 * 1024
LARGE_BODY_BYTES: Final = 64 * 1024
"""Smaller bodies are not counted among those that take memory together: each connection may have one."""
_MAX_KNOWN_HEADS: Final = 32
_MAX_KNOWN_HEAD_BYTES: Final = 2 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([1-9][0-9]{0,4})\r\n", re.IGNORECASE)
_UNUSUAL_HEADERS: Final = frozenset({"transfer-encoding", "upgrade", "expect", "trailer"})
_REPLAYED_HEAD: Final = b"POST / HTTP/1.1\r\n%b\r\n\r\n"


class Receiver(Protocol):
    """Who is told what was read."""

    def head_began(self) -> None:
        """Note that the first byte of a request has come."""
        ...

    def head_ended(self, request: Request, *, version: str, is_last: bool, with_body: bool, body_bytes: int) -> int:
        """Take a head; return how long the body may be, or -1 if nothing more is to be read.

        `is_last`: the client wants to ask no more. `with_body`: the answer is to have its body. `body_bytes`: as many
        come, 0 for none, -1 if that is not said.
        """
        ...

    def body_ended(self, body: bytes) -> None:
        """Take the body of that request, which has come completely."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Note that reading has ended, and why."""
        ...


class KnownHead(NamedTuple):
    """What the parser made of a head, and who answers requests that have it."""

    method: str
    target: str
    headers: Mapping[str, str]
    head_bytes: int
    resource: Resource


class KnownHeads:
    """The last heads of one listener: a client sends the same one with every post, except for the Content-Length.

    Such a head means the same again, so it is not parsed again. Any other difference, of a single byte, makes it another
    head. Only heads are known that the parser and the application accepted, and only until the application has other rules.
    At most 32 of 2 KiB.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}
        """By what is before and behind the digits of the Content-Length."""

    def forget(self) -> None:
        """Ask the application about each head again."""
        self._heads.clear()

    def find(self, data: bytes) -> tuple[KnownHead, Request] | None:
        """Return the one request that the data is, to the last byte, if its head is known. Its peer is to be added."""
        end = data.find(_END_OF_HEAD, 0, _MAX_KNOWN_HEAD_BYTES) + len(_END_OF_HEAD)
        length = _LENGTH.search(data, 0, end)
        if length is None or end + int(length[1]) != len(data):
            return None
        head = self._heads.get((data[: length.start(1)], data[length.end(1) : end]))
        if head is None or len(data) - end > min(head.resource.max_body_bytes, LARGE_BODY_BYTES):
            return None
        headers = {**head.headers, "content-length": length[1].decode()}
        return head, Request(head.method, head.target, headers, data[end:], None)

    def learn(self, data: bytes, request: Request, head_bytes: int, resource: Resource) -> None:
        """Remember the head of a request of HTTP/1.1 that the parser found in the data, and that another may follow."""
        end = data.find(_END_OF_HEAD, 0, _MAX_KNOWN_HEAD_BYTES) + len(_END_OF_HEAD)
        length = _LENGTH.search(data, 0, end)
        if (
            length is None
            or int(length[1]) != len(request.body)
            or end + len(request.body) != len(data)  # there is more than this request, or its head ends elsewhere
            or not _UNUSUAL_HEADERS.isdisjoint(request.headers)
        ):
            return
        if len(self._heads) >= _MAX_KNOWN_HEADS:
            self._heads.clear()
        key = data[: length.start(1)], data[length.end(1) : end]
        self._heads[key] = KnownHead(request.method, request.target, request.headers, head_bytes, resource)


class RequestReader:
    """Reads the requests of one connection, whose socket is `peer`; everything that it finds is told to `receiver`."""

    def __init__(self, receiver: Receiver, limits: Limits, *, peer: Any) -> None:
        self._receiver = receiver
        self._limits = limits
        self._peer = peer
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self.phase = State.NEW
        """NEW, IDLE, HEAD or BODY; CLOSED when nothing more is read."""
        self._target = b""
        self._headers: dict[str, str] = {}
        self._fields: list[tuple[bytes, bytes]] = []
        self.head_bytes = 0
        """Of the target and the headers."""
        self.came_bytes = 0
        """In all slices before, of which something is of the head, or of the body."""
        self._blocks: list[bytes] = []
        """What came of the body but its end, as its parts may be as many as its bytes."""
        self._body = bytearray()
        """The end of it."""
        self.body_bytes = 0
        """Of what came of the body."""
        self.discards = False
        """Whether the body is thrown away as it comes."""
        self._max_body_bytes = 0
        self._is_last = False
        self._slice_bytes = 0
        self._stops_before_body = False
        """Whether the parser is about to, as it takes the body for another protocol."""

    def feed(self, data: "bytes | memoryview") -> None:
        """Read more, at most SLICE_BYTES at a time."""
        self._slice_bytes = len(data)
        rest = data
        while self._parser is not None:
            try:
                self._parser.feed_data(rest)
                break
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                self._begin_anew()
            except HttpParserCallbackError as error:
                raise error.__context__ or error from None
            except HttpParserError:
                self._refuse("malformed_body" if self.phase is State.BODY else "malformed_http")
        if self._parser is not None:
            self._bound()

    def end(self) -> None:
        """Read no more. May be called again."""
        self.phase = State.CLOSED
        self._parser = None  # it and this refer to each other
        self._blocks.clear()
        self._body.clear()

    def begun(self) -> tuple[Request | None, bool]:
        """Return what is known of the request whose head is being read, and whether its answer is to have its body."""
        if self.phase is not State.HEAD or not self._target or self._parser is None:
            return None, True
        method = self._parser.get_method().decode()
        headers = self._headers or self._take_fields()
        is_head = method == "HEAD"
        target = self._target.decode("ascii")
        return Request("GET" if is_head else method, target, headers, b"", self._peer), not is_head

    def _refuse(self, refusal: Refusal) -> None:
        if self.phase is not State.CLOSED:
            self._receiver.refused(refusal)
            self.end()

    def _bound(self) -> None:
        """Refuse what too much has come of, and the parser keeps or ignores: of a head, beside a body, before a head."""
        self.came_bytes += self._slice_bytes
        spare_bytes = self._limits.max_head_bytes + SLICE_BYTES - self.came_bytes
        if self.phase is State.BODY:
            if spare_bytes + _OVERHEAD * self.body_bytes < 0:
                self._refuse("malformed_body")
        elif len(self._target) > self._limits.max_target_bytes:
            self._refuse("uri_too_long")
        elif spare_bytes < 0 or len(self._fields) > self._limits.max_headers:
            self._refuse("headers_too_large" if self.phase is State.HEAD else "malformed_http")

    def _begin_anew(self) -> None:
        """Go on behind a request that offers another protocol, which nobody here speaks; with its body, if it has one."""
        if self.phase is State.CLOSED:
            return
        self._parser = HttpRequestParser(self)
        if self.phase is State.BODY:
            length = self._headers.get("content-length")
            framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
            self._parser.feed_data(_REPLAYED_HEAD % framing.encode())

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """See httptools."""
        if self.phase is State.IDLE or self.phase is State.NEW:
            self.phase = State.HEAD
            self._target = b""
            self._headers = {}
            self._fields = []
            self.came_bytes = 0
            self._receiver.head_began()

    def on_url(self, part: bytes) -> None:
        """See httptools."""
        if self.phase is State.HEAD:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. It is also called for the trailers of a body in chunks, which mean nothing here."""
        if self.phase is State.HEAD:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """See httptools."""
        parser = self._parser
        if self.phase is not State.HEAD or parser is None:
            return
        headers = self._take_fields()
        version = parser.get_http_version()
        if (refusal := self._wrong_head(version)) is not None:
            self._refuse(refusal)
            return
        if "content-length" in headers:
            length = int(headers["content-length"].lstrip("0") or "0")
        else:
            length = -1 if "transfer-encoding" in headers else 0
        method = parser.get_method().decode()
        self.phase = State.BODY
        self.body_bytes = 0
        self.discards = False
        self.came_bytes = 0
        self._stops_before_body = length != 0 and parser.should_upgrade()
        self._is_last = not parser.should_keep_alive()
        self._max_body_bytes = self._receiver.head_ended(
            Request("GET" if method == "HEAD" else method, self._target.decode("ascii"), headers, b"", self._peer),
            version=version,
            is_last=self._is_last,
            with_body=method != "HEAD",
            body_bytes=length,
        )
        if self._max_body_bytes < 0:
            self.end()
        elif length > self._max_body_bytes:
            self._refuse("body_too_large")

    def _take_fields(self) -> dict[str, str]:
        """Make headers of what the parser found of them so far."""
        headers = self._headers
        size_bytes = len(self._target)
        for name, value in self._fields:
            size_bytes += len(name) + len(value) + _LINE_BYTES
            key = name.decode("ascii").lower()
            text = value.decode("utf-8", "surrogateescape").rstrip(" \t")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.head_bytes = size_bytes
        return headers

    def _wrong_head(self, version: str) -> Refusal | None:
        headers = self._headers
        if version not in ("1.1", "1.0"):
            return "malformed_http"
        if len(self._target) > self._limits.max_target_bytes:
            return "uri_too_long"
        if len(self._fields) > self._limits.max_headers or self.head_bytes > self._limits.max_head_bytes:
            return "headers_too_large"
        coding = headers.get("transfer-encoding", "chunked").lower()
        if coding != "chunked" or (version == "1.0" and "transfer-encoding" in headers):
            is_chunked = coding.rpartition(",")[2].strip() == "chunked"
            return "unsupported_transfer_encoding" if is_chunked and version == "1.1" else "malformed_http"
        # Without a Host nobody knows whom a request of HTTP/1.1 is for, and with two even less.
        return "malformed_http" if "," in headers.get("host", "," if version == "1.1" else "") else None

    def on_body(self, part: bytes) -> None:
        """See httptools."""
        if self.phase is not State.BODY:
            return
        self.body_bytes += len(part)
        if self.body_bytes > self._max_body_bytes:
            self._refuse("body_too_large")
        elif not self.discards:
            self._body += part
            if len(self._body) > _BLOCK_BYTES:
                self._blocks.append(bytes(self._body))
                self._body.clear()

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._stops_before_body:
            self._stops_before_body = False
            return
        if self.phase is not State.BODY:
            return
        body = b"".join((*self._blocks, self._body))
        self._blocks.clear()
        self._body.clear()
        self.came_bytes = 0
        self.phase = State.IDLE
        self._receiver.body_ended(body)
        if self._is_last:
            self.end()
