"""Plain posts of one event, answered without aiohttp's request, response and task for each: they cost more than the event.

A post is plain if it is all of what came in one segment, on a connection where nothing else is under way, and nothing about
it is special; nearly all are. aiohttp has parsed it then, as it does every other; whatever is not plain goes on as ever.
What comes before the answer is written waits for that, unread.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy

from forwarder.intake.connections import Connection

START: Final = b"POST /track/event HTTP/1.1\r\n"

Headers = CIMultiDictProxy[str]


class Posts(Protocol):
    """Who takes plain posts."""

    def are_taken(self, headers: Headers, size_bytes: int) -> bool:
        """Whether nothing speaks against a post with these headers and so long a body; what does is told as ever."""
        ...

    def answer(self, headers: Headers, body: bytes) -> Coroutine[Any, Any, tuple[bytes, bool]]:
        """Take in an event; return the whole answer, raw, and whether the connection is to be closed after it."""
        ...


class DirectConnection(Connection):
    """A connection that has plain posts taken by `posts`."""

    __slots__ = ("_answering", "_later", "_posts")

    def __init__(self, manager: web.Server, *, posts: Posts, **options: Any) -> None:
        super().__init__(manager, **options)
        self._posts = posts
        self._answering: asyncio.Task[None] | None = None
        """Set while a plain post is taken."""
        self._later = b""
        """What came meanwhile."""

    def data_received(self, data: bytes) -> None:
        """Take in what came; a plain post directly."""
        if self._answering is not None:
            self._later += data
            if self._wire is not None:
                self._wire.pause_reading()
        elif self._is_at_rest() and is_whole(data):
            self._receive_whole(data)
        else:
            super().data_received(data)

    def _is_at_rest(self) -> bool:
        """Whether what comes now begins a request, and aiohttp waits for nothing else, or is just about to."""
        waiter = self._waiter
        return not (
            (self._request_count if waiter is None else waiter.done())
            or self._begun
            or self._held
            or self._messages
            or self._upgraded
            or self._reading_paused
            or self._unread_since is not None  # aiohttp waits until the client reads
            or self._close
            or self._force_close
        )

    def _receive_whole(self, data: bytes) -> None:
        self._silent = False
        # aiohttp parses, and would wake its own task for it.
        waiter, self._waiter = self._waiter, None
        web.RequestHandler.data_received(self, data)
        self._waiter = waiter
        if not self._messages:
            return
        message, body = self._messages[0]
        if (
            len(self._messages) == 1
            and isinstance(message, RawRequestMessage)
            and not message.should_close
            and body.is_eof()
            and self._posts.are_taken(message.headers, body.total_bytes)
        ):
            assert self._parser is not None, "it has just parsed this"
            self._parser.message_consumed()
            self._messages.clear()
            self._take(message, body.read_nowait())
            self.took(message, body)
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _take(self, message: RawRequestMessage, body: bytes) -> None:
        self._is_busy = True
        self._head_since = None
        self._connections.used(self)
        self._answering = self._loop.create_task(self._answer(message.headers, body))

    async def _answer(self, headers: Headers, body: bytes) -> None:
        try:
            answer, closes = await self._posts.answer(headers, body)
        finally:
            self._answering = None
            self._is_busy = False
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(answer)
        if closes:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._later and self._wire is not None:
            data, self._later = self._later, b""
            self._wire.resume_reading()
            self.data_received(data)

    def _process_keepalive(self) -> None:
        if self._answering is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()


def is_whole(data: bytes) -> bool:
    """Whether this is a post of one event, all of it and nothing else, as its Content-Length says."""
    if not data.startswith(START):
        return False
    end = data.find(b"\r\n\r\n")
    length = b"ontent-Length: %d\r\n" % (len(data) - end - 4)
    return data.find(b"\r\nC" + length, 0, end + 2) >= 0 or data.find(b"\r\nc" + length.lower(), 0, end + 2) >= 0


def is_special(headers: Headers) -> bool:
    """Whether a header asks for more than to take an event in."""
    return (
        hdrs.ORIGIN in headers or hdrs.CONTENT_ENCODING in headers or hdrs.UPGRADE in headers or hdrs.EXPECT in headers
    )
