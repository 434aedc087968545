"""Events over HTTP, on TCP or on a Unix socket: `POST /track/event`, `POST /v1/events`; and what is asked about them.

It sits on aiohttp's low-level server: the routes are few and fixed, and an Application costs each event a tenth more.
Every answer is JSON, also where the request is not even HTTP. A body is read within a deadline and up to a size.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, Final, assert_never

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import ContentEncodingError

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.database.connection import DamagedError, UnavailableError
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.intake import acceptance, answers
from forwarder.intake.acceptance import Accepted, Acceptor, Element
from forwarder.intake.dead_letter_routes import DeadLetterRoutes
from forwarder.settings import IntakeSettings
from forwarder.telemetry import Telemetry

KEEPALIVE_SECONDS: Final = 75
CLOSING_SECONDS: Final = 2
"""How long requests under way may take to end when the intake closes."""
_CLOSING_POLL_SECONDS: Final = 0.01
_CUTTING_SECONDS: Final = 0.1
"""How long aiohttp then takes, twice, to cut those that did not."""

_MAX_ID_DIGITS: Final = 18
_ENCODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})
_LINES_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


class _RefusedError(Exception):
    """The body cannot be had; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class HttpIntake:
    """Serves one listening socket; `intake` is its name in the metrics.

    `status` gives the content of /v1/status, and `receipt` that of /v1/events/ID. `guarded` says that only those reach it
    who may see payloads and change something.
    """

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        intake: str,
        acceptor: Acceptor,
        telemetry: Telemetry,
        status: Callable[[], Mapping[str, object]],
        receipt: Callable[[int], Awaitable[Mapping[str, object] | None]],
        dead_letters: DeadLetterRoutes,
        guarded: bool,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._acceptor = acceptor
        self._telemetry = telemetry
        self._status = status
        self._receipt = receipt
        self._dead_letters = dead_letters
        self._guarded = guarded
        self._closing = False
        self._under_way = 0
        self._runner: web.ServerRunner | None = None
        self._routes = {
            "/track/event": ("POST", self._track),
            "/v1/events": ("POST", self._batch),
            "/v1/status": ("GET", self._show_status),
            "/v1/dead-letters": ("GET", self._list_dead_letters),
            "/v1/dead-letters/replay": ("POST", self._change_dead_letters),
            "/v1/dead-letters/purge": ("POST", self._change_dead_letters),
        }

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens."""
        server = _Server(self._handle, refuse=self._refuse_early, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
        self._runner = web.ServerRunner(server, shutdown_timeout=_CUTTING_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Take no more connections and requests; let those under way end, for a while. May be called again."""
        self._closing = True
        if self._runner:
            for site in list(self._runner.sites):
                await site.stop()
            # aiohttp would stop reading at once, and leave a client that is sending its body without an answer.
            deadline = asyncio.get_running_loop().time() + CLOSING_SECONDS
            while self._under_way and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - it happens once
                await asyncio.sleep(_CLOSING_POLL_SECONDS)
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = perf_counter()
        route = self._routes.get(request.raw_path) or self._routes.get(request.path) or self._route_of_one(request.path)
        if route is None:
            return answers.refusal("not_found")
        method, handler = route
        if request.method != method:
            return answers.refusal("method_not_allowed", allow=method)
        self._under_way += 1
        try:
            response = await handler(request)
        finally:
            self._under_way -= 1
        self._telemetry.request_answered(perf_counter() - started)
        return response

    async def _show_status(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - a handler's shape
        return answers.content(self._status())

    def _route_of_one(self, path: str) -> tuple[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] | None:
        """Return the route of a path that ends in an id."""
        parent, _, last = path.rpartition("/")
        if not last.isascii() or not last.isdecimal() or len(last) > _MAX_ID_DIGITS:
            return None
        handlers = {"/v1/events": self._show_receipt, "/v1/dead-letters": self._show_dead_letter}
        return ("GET", handlers[parent]) if parent in handlers else None

    async def _show_receipt(self, request: web.BaseRequest) -> web.StreamResponse:
        event_id = request.path.rpartition("/")[2]
        try:
            receipt = await self._receipt(int(event_id))
        except (UnavailableError, DamagedError):
            return answers.refusal("buffer_unavailable")
        return answers.refusal("not_found") if receipt is None else answers.content({"id": event_id, **receipt})

    async def _list_dead_letters(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._dead_letters.get("", request.query, allowed=self._guarded)

    async def _show_dead_letter(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._dead_letters.get(request.path.rpartition("/")[2], request.query, allowed=self._guarded)

    async def _change_dead_letters(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await self._read(request)
        except _RefusedError as error:
            return answers.refusal(error.code)
        return await self._dead_letters.post(request.path.rpartition("/")[2], body, allowed=self._guarded)

    async def _track(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await self._read(request)
        except _RefusedError as error:
            return self._refuse(error.code)
        answer = await self._acceptor.accept([acceptance.read_one(body)], intake=self._intake)
        if not isinstance(answer, Accepted):
            return _no_room(answer)
        event_id = answer.ids[0]
        return answers.violations(answer.refusals[0][1]) if event_id is None else answers.accepted_one(event_id)

    async def _batch(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await self._read(request)
        except _RefusedError as error:
            return self._refuse(error.code)
        elements: Iterable[Element]
        try:
            elements = acceptance.read_lines(body) if _is_lines(request) else acceptance.read_json(body)
        except MalformedJsonError as error:
            self._telemetry.events_refused(1, intake=self._intake, reason="malformed_json")
            return answers.malformed_json(f"the body is not valid JSON: {error}{_hint_at_lines(body)}")
        answer = await self._acceptor.accept(elements, intake=self._intake)
        if not isinstance(answer, Accepted):
            return _no_room(answer)
        return answers.accepted_batch(answer, with_ids=request.query.get("ids") == "true")

    def _refuse(self, code: str) -> web.Response:
        self._telemetry.events_refused(1, intake=self._intake, reason=code)
        return answers.refusal(code)

    def _refuse_early(self, error: BaseException | None, status: int) -> web.Response:
        """Answer what aiohttp could not make a request of, or what a handler raised, which is a bug."""
        if isinstance(error, ContentEncodingError):
            # Only its text tells what it lacks a library for from what is broken.
            return self._refuse("unsupported_encoding" if "install" in error.message else "malformed_body")
        if status == 400:
            return answers.malformed_http("this is not a request of HTTP/1.1 that the forwarder understands")
        if error is not None:
            self._telemetry.request_failed(error)
        return answers.internal_error()

    async def _read(self, request: web.BaseRequest) -> bytes:
        """Return the whole body, inflated."""
        if self._closing:
            raise _RefusedError("shutting_down")
        if request.headers.get("Content-Encoding", "").lower() not in _ENCODINGS:
            raise _RefusedError("unsupported_encoding")
        if (request.content_length or 0) > self._settings.max_body_bytes:
            raise _RefusedError("body_too_large")
        try:
            if request.content.is_eof():
                body = request.content.read_nowait()
                if len(body) > self._settings.max_body_bytes:
                    raise _RefusedError("body_too_large")
                return body
            return await self._read_slowly(request)
        except (web.RequestPayloadError, ConnectionError):
            raise _RefusedError("malformed_body") from None

    async def _read_slowly(self, request: web.BaseRequest) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds):
                await _invite_body(request)
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self._settings.max_body_bytes:
                        raise _RefusedError("body_too_large")
        except TimeoutError:
            raise _RefusedError("too_slow") from None
        return bytes(body)


def _no_room(answer: Full | NeverFits | Unavailable) -> web.Response:
    match answer:
        case Full():
            return answers.refusal("buffer_full")
        case Unavailable():
            return answers.refusal("buffer_unavailable")
        case NeverFits():
            return answers.refusal("body_too_large")
        case _:
            assert_never(answer)


def _is_lines(request: web.BaseRequest) -> bool:
    return request.content_type in _LINES_TYPES


async def _invite_body(request: web.BaseRequest) -> None:
    """Tell a client that waits for leave that it may send its body, as curl does with a large one."""
    if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


def _hint_at_lines(body: bytes) -> str:
    looks_like_lines = body.lstrip()[:1] == b"{" and b"\n{" in body
    return "; for one object a line, send Content-Type: application/x-ndjson" if looks_like_lines else ""


class _Server(web.Server):
    """A server whose connections answer in JSON also what never becomes a request; `refuse` does that, and counts it."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        refuse: Callable[[BaseException | None, int], web.Response],
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self._refuse = refuse

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, refuse=self._refuse, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ("_refuse",)

    def __init__(
        self, manager: web.Server, *, refuse: Callable[[BaseException | None, int], web.Response], **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp names it
    ) -> web.StreamResponse:
        """Answer in place of aiohttp, which would send text and log what strangers send as errors."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer has been sent already")
        return self._refuse(exc, status)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Leave out what a client did: a body that cannot be inflated, or a connection that it closed."""
        if not isinstance(options.get("exc_info"), (web.RequestPayloadError, ConnectionError)):
            super().log_exception(*args, **options)
