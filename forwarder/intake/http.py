"""Events over HTTP, on TCP or on a Unix socket: `POST /track/event`, `POST /v1/events`; and what is asked about them.

It sits on aiohttp's low-level server: the routes are few and fixed, and an Application costs each event a tenth more.
Every answer but the status page is JSON, also where the request is not even HTTP. On TCP requests must get past the locks
first; the page, which has no data, needs no token.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Final, Protocol, assert_never, cast

from aiohttp import HttpVersion11, web

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.database.connection import DamagedError, UnavailableError
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Refused
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.intake import answers
from forwarder.intake.acceptance import Accepted, Acceptor
from forwarder.intake.bodies import RefusedBodyError, inflater_for
from forwarder.intake.connections import Connection, Connections, Server
from forwarder.intake.direct import DirectConnection, Headers, is_special
from forwarder.intake.locks import Locks, may_be_unasked, preflight
from forwarder.intake.parsing import ParsingBudget, unpacked
from forwarder.intake.peers import Operators
from forwarder.intake.status_page import status_page
from forwarder.settings import ControlSettings, IntakeSettings
from forwarder.telemetry import Telemetry

CLOSING_SECONDS: Final = 2
"""How long requests under way may take to end when the intake closes."""
_CLOSING_POLL_SECONDS: Final = 0.01
_CUTTING_SECONDS: Final = 0.1
"""How long aiohttp then takes, twice, to cut those that did not."""
_ACCEPTED_PER_TURN: Final = 32
"""How many connections are accepted before others get a turn of the event loop: each costs it some 0.1 ms."""
_BACKLOG: Final = 1024
"""How many may wait for that; a client that finds no room there tries again only after a second."""

_MAX_ID_DIGITS: Final = 18
_LINES_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_EVENT_PATHS: Final = frozenset({"/track/event", "/v1/events"})

_WHOLE_URL: Final = re.compile("[^/?#]*://([^/?#]*)")

_Route = tuple[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]
"""The method, and who handles it."""


class OperatorRoutes(Protocol):
    """What operators ask for, and change, below one path.

    `lacking` is the code of what a request lacks to see payloads, and to change something; None if it may.
    """

    @property
    def changes(self) -> Collection[str]:
        """What a POST can be for: the last part of its path."""
        ...

    @property
    def has_ids(self) -> bool:
        """Whether a GET may name one of them, by its id."""
        ...

    async def get(self, path: str, query: Mapping[str, str], *, lacking: Callable[[], str | None]) -> web.Response:
        """Answer a GET; `path` is the id, or empty."""
        ...

    async def post(self, path: str, body: bytes, *, lacking: str | None) -> web.Response:
        """Answer a POST for one of the `changes`."""
        ...


class HttpIntake:
    """Serves one listening socket; `intake` is its name in the metrics.

    `status` gives the content of /v1/status, and `receipt` that of /v1/events/ID; `operators` are the routes below /v1, by
    the next part of their paths.
    """

    def __init__(  # noqa: PLR0913 - each is a part of the daemon that it speaks for
        self,
        settings: IntakeSettings,
        *,
        control: ControlSettings,
        intake: str,
        acceptor: Acceptor,
        budget: ParsingBudget,
        telemetry: Telemetry,
        status: Callable[[], Mapping[str, object]],
        receipt: Callable[[int], Awaitable[Mapping[str, object] | None]],
        operators: Mapping[str, OperatorRoutes],
    ) -> None:
        self._intake = intake
        self._acceptor = acceptor
        self._telemetry = telemetry
        self._status = status
        self._receipt = receipt
        self._operators = operators
        self._rules = Locks(settings)
        self._locks: Locks | None = self._rules
        """None on a Unix socket, where all may post who may connect."""
        self._may_operate = Operators(control)
        self._budget = budget
        self._body_timeout_seconds = settings.body_timeout_seconds
        self._connections = Connections(settings, telemetry=telemetry, too_slow=answers.too_slow_headers())
        self._max_body_bytes = settings.max_body_bytes
        self._closing = False
        self._under_way = 0
        self._runner: web.ServerRunner | None = None
        self._routes: dict[str, _Route] = {
            "/track/event": ("POST", self._track),
            "/v1/events": ("POST", self._batch),
            "/v1/status": ("GET", self._show_status),
            "/": ("GET", self._show_page),
            "/openapi.yaml": ("GET", self._show_document),
        }
        for name, routes in operators.items():
            self._routes[f"/v1/{name}"] = ("GET", self._look)
            self._routes |= {f"/v1/{name}/{change}": ("POST", self._change) for change in routes.changes}

    def use(self, settings: IntakeSettings) -> None:
        """Go by these settings' token, hosts and origins from now on; at a Unix socket only the token means something."""
        self._rules.use(settings)

    def use_control(self, settings: ControlSettings) -> None:
        """Go by these settings' group from now on."""
        self._may_operate.use(settings)

    def _lacking(self, request: web.BaseRequest) -> str | None:
        """Return the code of what a request lacks to see payloads and change something; None if it may.

        Over TCP who is let in has shown the token, if there is one. A Unix socket may be open to many, so there it counts
        who connected, unless the token is shown.
        """
        if self._locks is not None:
            return None if self._locks.demand_a_token else "unauthorized"
        connection = cast("Connection", request.protocol)
        peer = connection.peer()
        if self._may_operate.include(peer) or self._rules.shows_token(_plain(request.headers)):
            return None
        self._telemetry.operator_refused("forbidden_user", user=None if peer is None else peer.user)
        return "forbidden_user"

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens; unless it is a Unix socket there are locks on it."""
        if listener.family == socket.AF_UNIX:
            self._locks = None
        server = Server(
            self._handle,
            connections=self._connections,
            refuse=self._refuse_early,
            make=partial(DirectConnection, posts=self),
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_CUTTING_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=_ACCEPTED_PER_TURN).start()
        listener.listen(_BACKLOG)  # the event loop made the queue as short as that
        self._connections.start()

    async def close(self) -> None:
        """Take no more connections and requests; let those under way end, for a while. May be called again."""
        self._closing = True
        self._connections.stop()
        if self._runner:
            for site in list(self._runner.sites):
                await site.stop()
            # aiohttp would stop reading at once, and leave a client that is sending its body without an answer.
            deadline = asyncio.get_running_loop().time() + CLOSING_SECONDS
            while self._under_way and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - it happens once
                await asyncio.sleep(_CLOSING_POLL_SECONDS)
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        connection.request_began(request)
        self._under_way += 1
        try:
            response = await self._answer(request)
        finally:
            self._under_way -= 1
            connection.request_ended(request)
        self._add_cors(request, response)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        started = perf_counter()
        route = self._routes.get(request.raw_path) or self._routes.get(request.path) or self._route_of_one(request.path)
        is_preflight = self._locks is not None and request.method == "OPTIONS" and "Origin" in request.headers
        if (code := self._locked_out(request, is_preflight=is_preflight)) is not None:
            return self._refuse(request, code)
        if route is None:
            return answers.refusal("not_found")
        method, handler = route
        if is_preflight:
            return answers.preflight(preflight(_plain(request.headers), method))
        if request.method != method:
            return answers.refusal("method_not_allowed", allow=method)
        if self._locks is not None and request.body_exists and may_be_unasked(_plain(request.headers)):
            return self._refuse(request, "unsupported_content_type")
        response = await handler(request)
        self._telemetry.request_answered(perf_counter() - started)
        return response

    def _locked_out(self, request: web.BaseRequest, *, is_preflight: bool) -> str | None:
        if self._locks is None:
            return None
        code = self._locks.refuse(_plain(request.headers), authority=_authority(request), is_preflight=is_preflight)
        if code == "unauthorized" and request.path == "/":
            return None
        if code is not None:
            self._telemetry.locked_out(code)
        return code

    def _add_cors(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        if self._locks is not None and "Origin" in request.headers:
            response.headers.update(self._locks.cors(_plain(request.headers)))

    async def _show_status(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - a handler's shape
        return answers.content(self._status())

    async def _show_page(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - a handler's shape
        return status_page(asks_for_token=self._locks is not None and self._locks.demand_a_token)

    def _route_of_one(self, path: str) -> _Route | None:
        """Return the route of a path that ends in an id."""
        parent, _, last = path.rpartition("/")
        if not last.isascii() or not last.isdecimal() or len(last) > _MAX_ID_DIGITS:
            return None
        if parent == "/v1/events":
            return "GET", self._show_receipt
        routes = self._operators.get(parent.removeprefix("/v1/"))
        return ("GET", self._look) if routes is not None and routes.has_ids else None

    async def _show_receipt(self, request: web.BaseRequest) -> web.StreamResponse:
        event_id = request.path.rpartition("/")[2]
        try:
            receipt = await self._receipt(int(event_id))
        except (UnavailableError, DamagedError):
            return answers.refusal("buffer_unavailable")
        return answers.refusal("not_found") if receipt is None else answers.content({"id": event_id, **receipt})

    async def _show_document(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - a handler's shape
        return answers.document()

    async def _look(self, request: web.BaseRequest) -> web.StreamResponse:
        _, _, name, *rest = request.path.split("/")
        return await self._operators[name].get("".join(rest), request.query, lacking=partial(self._lacking, request))

    async def _change(self, request: web.BaseRequest) -> web.StreamResponse:
        _, _, name, change = request.path.split("/")
        lacking = self._lacking(request)  # now, as a token may be set while the body comes, and this one has shown none
        try:
            async with self._body(request) as body:
                return await self._operators[name].post(change, body, lacking=lacking)
        except RefusedBodyError as error:
            return answers.refusal(error.code)

    async def _track(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with self._body(request) as body:
                taken = await self._take(body, _key(request.headers))
        except RefusedBodyError as error:
            return self._refuse(request, error.code)
        return answers.accepted_one(taken) if isinstance(taken, int) else taken

    async def _take(self, body: bytes, key: str | None) -> int | web.Response:
        """Take in one event; return its id, or the answer that says why not."""
        answer = await self._acceptor.accept_one(self._acceptor.read.one(body, key), intake=self._intake)
        if isinstance(answer, int):
            return answer
        return answers.violations(answer) if isinstance(answer, Refused) else _no_room(answer)

    # Plain posts: see `direct`

    def are_taken(self, headers: Headers, size_bytes: int) -> bool:
        """Whether nothing speaks against a post of one event with these headers, and so long a body, which is there."""
        if self._closing or is_special(headers) or size_bytes > self._max_body_bytes:
            return False
        if self._locks is None:
            return True
        plain = _plain(headers)
        return self._locks.refuse(plain) is None and not may_be_unasked(plain)

    async def answer(self, headers: Headers, body: bytes) -> tuple[bytes, bool]:
        """Take in an event; return the whole answer, raw, and whether the connection is to be closed after it."""
        started = perf_counter()
        self._under_way += 1
        try:
            taken = await self._take(body, _key(headers))
        except Exception as error:  # noqa: BLE001 - a bug, of which only this request is to suffer
            self._telemetry.request_failed(error)
            taken = answers.internal_error()
        finally:
            self._under_way -= 1
        self._telemetry.request_answered(perf_counter() - started)
        if isinstance(taken, int):
            return answers.accepted_one_raw(taken), False
        return answers.raw(taken), taken.keep_alive is False

    # Batches

    async def _batch(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with self._body(request) as body:
                return await self._take_batch(request, body)
        except RefusedBodyError as error:
            return self._refuse(request, error.code)

    async def _take_batch(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        with_ids = request.query.get("ids", "false")
        if with_ids not in {"true", "false"}:
            self._telemetry.events_refused(1, intake=self._intake, reason="wrong_type")
            return answers.wrong_request("ids: true or false")
        try:
            answer = await self._acceptor.accept_body(
                body, _key(request.headers), intake=self._intake, is_lines=_is_lines(request)
            )
        except MalformedJsonError as error:
            self._telemetry.events_refused(1, intake=self._intake, reason="malformed_json")
            return answers.malformed_json(f"the body is not valid JSON: {error}{_hint_at_lines(body)}")
        if not isinstance(answer, Accepted):
            return _no_room(answer)
        return answers.accepted_batch(answer, with_ids=with_ids == "true")

    def _refuse(self, request: web.BaseRequest, code: str) -> web.Response:
        """Refuse a request before it is split; one for events counts as one of them."""
        if request.method == "POST" and request.path in _EVENT_PATHS:
            self._telemetry.events_refused(1, intake=self._intake, reason=code)
        return answers.refusal(code)

    def _refuse_early(self, request: web.BaseRequest, error: BaseException | None, status: int) -> web.Response:
        """Answer what aiohttp could not make a request of, or what a handler raised, which is a bug."""
        if status == 400:
            return answers.malformed_http("this is not a request of HTTP/1.1 that the forwarder understands")
        if error is not None:
            self._telemetry.request_failed(error)
        response = answers.internal_error()
        self._add_cors(request, response)
        return response

    @asynccontextmanager
    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """Read the whole body and inflate it, for as long as the block takes. Raises RefusedBodyError."""
        if self._closing:
            raise RefusedBodyError("shutting_down")
        inflater = inflater_for(", ".join(request.headers.getall("Content-Encoding", ())))
        is_here = request.content.is_eof()
        body = await self._read(request)
        if not is_here:
            cast("Connection", request.protocol).request_completed()
        async with unpacked(body, inflater, max_bytes=self._max_body_bytes, budget=self._budget) as whole:
            yield whole

    async def _read(self, request: web.BaseRequest) -> bytes:
        if (request.content_length or 0) > self._max_body_bytes:
            raise RefusedBodyError("body_too_large")
        try:
            if request.content.is_eof():
                body = request.content.read_nowait()
                if len(body) > self._max_body_bytes:
                    raise RefusedBodyError("body_too_large")
                return body
            return await self._read_slowly(request)
        except (web.RequestPayloadError, ConnectionError):
            raise RefusedBodyError("malformed_body") from None
        except RuntimeError:
            if request.protocol.connected:
                raise
            raise RefusedBodyError("malformed_body") from None  # the client left before anybody waited for more

    async def _read_slowly(self, request: web.BaseRequest) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                await _invite(request)
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self._max_body_bytes:
                        raise RefusedBodyError("body_too_large")
        except TimeoutError:
            self._telemetry.connection_closed("body_timeout")
            raise RefusedBodyError("too_slow") from None
        return bytes(body)


async def _invite(request: web.BaseRequest) -> None:
    """Tell a client that waits for leave that it may send its body, as curl does with a large one."""
    if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


def _no_room(answer: Full | NeverFits | Unavailable) -> web.Response:
    match answer:
        case Full():
            return answers.refusal("buffer_full", retry_after_seconds=answer.retry_after_seconds)
        case Unavailable():
            return answers.refusal("buffer_unavailable")
        case NeverFits():
            return answers.refusal("body_too_large")
        case _:
            assert_never(answer)


def _is_lines(request: web.BaseRequest) -> bool:
    return request.content_type in _LINES_TYPES


def _key(headers: Mapping[str, str]) -> str | None:
    """Return the app's own key of what it posts, if it gives one."""
    return headers.get("Idempotency-Key")


def _plain(headers: Headers) -> dict[str, str]:
    """Return aiohttp's headers as the locks take them."""
    plain: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        plain[key] = f"{plain[key]}, {value}" if key in plain else value
    return plain


def _authority(request: web.BaseRequest) -> str | None:
    """Return the host in a target that is a whole URL, as a proxy is sent; it counts in place of the Host."""
    target = request.raw_path
    if target.startswith("/"):
        return None
    found = _WHOLE_URL.match(target)
    return found[1] if found else None


def _hint_at_lines(body: bytes) -> str:
    looks_like_lines = json_text.bare(body)[:1] == b"{" and b"\n{" in body
    return "; for one object a line, send Content-Type: application/x-ndjson" if looks_like_lines else ""
