"""From bytes to requests: httptools parses, and this module adds the bounds and checks that httptools leaves to its user.

httptools does not bound a head; after an `Upgrade` it takes the body for another protocol; it accepts HTTP/2.0 and 0.9, a
missing Host and several. A callback that raises would lose the data that follows, so none does: a refusal ends the reading.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from forwarder.http.messages import Limits, Refusal, Request, Resource, State

_LINE_BYTES: Final = 4
"""The bytes of a header besides its name and value."""
_OVERHEAD: Final = 16
"""How many bytes may come for each byte of a body, besides the bytes of a head: a chunk of one byte takes six."""
SLICE_BYTES: Final = 4 * 1024
"""The most to feed at once: a slice may contain any number of requests."""
_BLOCK_BYTES: Final = 16 * 1024
LARGE_BODY_BYTES: Final = 64 * 1024
"""Smaller bodies are not counted together: each connection may have one."""
_MAX_KNOWN_HEADS: Final = 32
_MAX_KNOWN_HEAD_BYTES: Final = 2 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([1-9][0-9]{0,4})\r\n", re.IGNORECASE)
_UNUSUAL_HEADERS: Final = frozenset({"transfer-encoding", "upgrade", "expect", "trailer"})
_REPLAYED_HEAD: Final = b"POST / HTTP/1.1\r\n%b\r\n\r\n"


class Receiver(Protocol):
    """Receives what was read."""

    def head_began(self) -> None:
        """The first byte of a request came."""
        ...

    def head_ended(self, request: Request, *, version: str, is_last: bool, with_body: bool, body_bytes: int) -> int:
        """A head came. Return how long its body may be, or -1 to read nothing more.

        `is_last`: the client sends no more requests. `with_body`: the answer must have its body. `body_bytes`: the length
        of the body, 0 for none, -1 if the head does not say it.
        """
        ...

    def body_ended(self, body: bytes) -> None:
        """The body of that request came completely."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Reading has ended, because of this."""
        ...


class KnownHead(NamedTuple):
    """A head as the parser read it, and the resource that answers requests with this head."""

    method: str
    target: str
    headers: Mapping[str, str]
    memory_bytes: int
    """How much memory a request with this head takes, about, without its body."""
    resource: Resource


class KnownHeads:
    """The last heads of one listener, which need not be parsed again.

    A client sends the same head with every post, except for the Content-Length; any other difference, even of one byte,
    makes it another head. Only heads that the parser and the application accepted are known, and only until the application
    changes its rules. At most 32 of 2 KiB.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}
        """By the bytes before and after the digits of the Content-Length."""

    def forget(self) -> None:
        """Ask the application about each head again."""
        self._heads.clear()

    def find(self, data: bytes) -> tuple[KnownHead, Request] | None:
        """Return a known head and its request, without a peer, if the data is exactly one request with that head."""
        end = data.find(_END_OF_HEAD, 0, _MAX_KNOWN_HEAD_BYTES) + len(_END_OF_HEAD)
        length = _LENGTH.search(data, 0, end)
        if length is None or end + int(length[1]) != len(data):
            return None
        head = self._heads.get((data[: length.start(1)], data[length.end(1) : end]))
        if head is None or len(data) - end > min(head.resource.max_body_bytes, LARGE_BODY_BYTES):
            return None
        headers = {**head.headers, "content-length": length[1].decode()}
        return head, Request(head.method, head.target, headers, data[end:], None)

    def learn(self, data: bytes, request: Request, memory_bytes: int, resource: Resource) -> None:
        """Remember the head of a request of HTTP/1.1 that the data contains, if nothing about it is unusual."""
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
        self._heads[key] = KnownHead(request.method, request.target, request.headers, memory_bytes, resource)


class RequestReader:
    """Reads the requests of one connection, whose socket is `peer`, and tells `receiver` of them."""

    def __init__(self, receiver: Receiver, limits: Limits, *, peer: Any) -> None:
        self._receiver = receiver
        self._limits = limits
        self._peer = peer
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self.phase = State.NEW
        """NEW, IDLE, HEAD or BODY; CLOSED once nothing more is read."""
        self._target = b""
        self._headers: dict[str, str] = {}
        self._fields: list[tuple[bytes, bytes]] = []
        self.head_bytes = 0
        """The size of the target and the headers."""
        self.came_bytes = 0
        """The size of all earlier slices that contain some of this head, or of this body."""
        self._blocks: list[bytes] = []
        """The body so far without its end, in blocks, as the parser may yield it byte by byte."""
        self._body = bytearray()
        """The end of the body so far."""
        self.body_bytes = 0
        """The size of the body so far."""
        self.discards = False
        """Whether the body is thrown away."""
        self._max_body_bytes = 0
        self._is_last = False
        self._slice_bytes = 0
        self._stops_before_body = False
        """Whether the parser will stop before the body, because it takes the body for another protocol."""

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
        """Return what is known of the request whose head is being read, and whether its answer must have its body."""
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
        """Refuse too many bytes of a head, beside a body or before a head, which the parser would keep or ignore."""
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
        """Go on with the body, or the next request, after a request that offers another protocol, which is ignored."""
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
        """See httptools. Also called for the trailers of a chunked body, which are ignored."""
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
        """Return the headers that the parser has found so far."""
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
        # A request of HTTP/1.1 must have exactly one Host.
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
