"""One HTTP intake, on TCP or on a Unix socket: which requests are allowed, and which route answers them.

Every answer is JSON, even to what is not HTTP, except the status page and the OpenAPI document. On TCP the access rules of
`locks` come first; the page, which shows no data, needs no token. A request for events that is refused counts as one refused
event.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from forwarder.host.sockets import peer_of, user_of
from forwarder.http.connections import Bodies, Connections
from forwarder.http.messages import Answer, CloseReason, Later, Limits, Refusal, Reply, Request, Resource
from forwarder.intake import answers, status_page
from forwarder.intake.bodies import ParsingBudget, RefusedBodyError, inflater_for, unpacked
from forwarder.intake.event_routes import EventRoutes
from forwarder.intake.locks import Locks, Operators, may_be_unasked, preflight
from forwarder.intake.operations import MAX_ID_DIGITS, Asked, Operation, Operations
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ControlSettings, IntakeSettings
from forwarder.words import Intake, RequestCode, RequestRefusalReason, SharedCode

CLOSING_SECONDS: Final = 2
"""How long requests that are being answered may take when the intake closes."""
_EVENT_PATHS: Final = frozenset({"/track/event", "/v1/events"})


class _Route(NamedTuple):
    method: str
    resource: Resource


class HttpIntake:
    """Serves one listening socket; `intake` is its name in the metrics."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        control: ControlSettings,
        intake: Intake,
        events: EventRoutes,
        bodies: Bodies,
        budget: ParsingBudget,
        telemetry: Telemetry,
        operations: Operations,
    ) -> None:
        self._intake = intake
        self._telemetry = telemetry
        self._rules = Locks(settings)
        self._locks: Locks | None = self._rules
        """None on a Unix socket, where everybody who may connect may post."""
        self._operators = Operators(control)
        self._max_body_bytes = settings.max_body_bytes
        self._budget = budget
        self._closing = False
        limits = Limits(
            head_seconds=settings.header_timeout_seconds,
            body_seconds=settings.body_timeout_seconds,
            answer_seconds=settings.body_timeout_seconds,
        )
        self.connections = Connections(self, limits, max_connections=settings.max_connections, bodies=bodies)
        self._routes: dict[str, _Route] = {
            "/track/event": self._route("POST", events.one, is_lasting=True),
            "/v1/events": self._route("POST", events.batch, is_lasting=True),
            "/": self._route("GET", self._show_page),
            "/openapi.yaml": self._route("GET", lambda _: answers.document()),
        }
        self._id_routes: dict[str, _Route] = {}
        """The routes whose paths end in an id, by the path before it."""
        for path, operation in operations.items():
            parent, is_parent, _ = path.partition("/ID")
            routes = self._id_routes if is_parent else self._routes
            routes[parent] = self._route(operation.method, partial(self._operate, operation))

    def use(self, settings: IntakeSettings) -> None:
        """Use the token, hosts and origins of these settings from now on. On a Unix socket only the token counts."""
        self._rules.use(settings)
        self.connections.known_heads.forget()

    def use_control(self, settings: ControlSettings) -> None:
        """Use the group of these settings from now on."""
        self._operators.use(settings)

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens. If it is a Unix socket, there are no locks."""
        if listener.family == socket.AF_UNIX:
            self._locks = None
        await self.connections.open(listener)

    def refuse_posts(self) -> None:
        """From now on answer only what changes nothing."""
        self._closing = True
        self.connections.known_heads.forget()

    async def close(self) -> None:
        """Accept no more connections and requests; wait a while for those being answered. May be called again."""
        self.refuse_posts()
        await self.connections.close(seconds=CLOSING_SECONDS)

    # From the server

    def begin(self, request: Request) -> Resource | Answer:
        """See Application."""
        found = self._find(request)
        if "origin" not in request.headers or self._locks is None:
            return found
        if isinstance(found, Answer):
            return self._for_page(found, request)
        return Resource(partial(self._answer_page, found.answer), found.max_body_bytes)

    def refuse(self, refusal: Refusal, request: Request | None) -> Answer:
        """See Application."""
        match refusal:
            case "headers_too_slow":
                self._telemetry.request_refused("too_slow")
                return answers.too_slow_headers()
            case "malformed_http":
                return self._refusal(refusal)
            case "body_too_slow":
                code: SharedCode = "too_slow"
            case _:
                code = refusal
        return self._refusal(code) if request is None else self._for_page(self._refuse(request, code), request)

    def fail(self, error: BaseException, request: Request) -> Answer:
        """See Application."""
        self._telemetry.request_failed(error)
        return self._for_page(self._refusal("internal_error"), request)

    def connection_closed(self, reason: CloseReason) -> None:
        """See Application."""
        self._telemetry.connection_closed(reason)

    # Which request is allowed

    def _find(self, request: Request) -> Resource | Answer:
        """Return what answers a request, or its refusal."""
        route = self._routes.get(request.target) or self._route_of(request.path)
        is_preflight = self._locks is not None and request.method == "OPTIONS" and "origin" in request.headers
        if (code := self._locked_out(request, is_preflight=is_preflight)) is not None:
            return self._refuse(request, code)
        if route is None:
            return self._refusal("not_found")
        method, resource = route
        if is_preflight:
            return Answer(204, preflight(request.headers, method))
        if request.method != method:
            return self._refusal("method_not_allowed", allow="GET, HEAD" if method == "GET" else method)
        if method == "POST" and (code := self._fault_of_post(request)) is not None:
            return self._refuse(request, code)
        return resource

    def _fault_of_post(self, request: Request) -> SharedCode | None:
        """Return why a post is refused without reading its body; None if it is not."""
        headers = request.headers
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if self._locks is not None and has_body and may_be_unasked(headers):
            return "unsupported_content_type"
        if self._closing:
            return "shutting_down"
        if "content-encoding" in headers:
            try:
                inflater_for(headers["content-encoding"])
            except RefusedBodyError as error:
                return error.code
        return None

    def _route(self, method: str, answer: Callable[[Request], Reply], *, is_lasting: bool = False) -> _Route:
        return _Route(method, Resource(answer, self._max_body_bytes, is_lasting))

    def _route_of(self, path: str) -> _Route | None:
        """Return the route of a path that is escaped or ends in an id."""
        if (route := self._routes.get(path)) is not None:
            return route
        parent, _, last = path.rpartition("/")
        is_id = last.isascii() and last.isdecimal() and len(last) <= MAX_ID_DIGITS
        return self._id_routes.get(parent) if is_id else None

    def _locked_out(self, request: Request, *, is_preflight: bool) -> SharedCode | None:
        if self._locks is None:
            return None
        authority = None if request.target.startswith("/") else request.authority
        code = self._locks.refuse(request.headers, authority=authority, is_preflight=is_preflight)
        if code is None or (code == "unauthorized" and request.path == "/"):
            return None
        self._telemetry.locked_out(code)
        return code

    def _lacking(self, request: Request) -> RequestCode | None:
        """Return why a client may not see payloads or change something; None if it may.

        The token is enough anywhere. A Unix socket may be open to many users, so there the client's user counts, too.
        """
        if self._rules.shows_token(request.headers):
            return None
        if self._locks is not None:
            return "unauthorized"
        peer = peer_of(request.peer)
        if self._operators.include(peer):
            return None
        self._telemetry.operator_refused("forbidden_user", user=None if peer is None else peer.user)
        return "forbidden_user"

    def _refuse(self, request: Request, code: SharedCode) -> Answer:
        if request.method == "POST" and request.path in _EVENT_PATHS:
            self._telemetry.events_refused(1, intake=self._intake, reason=code)
        return self._refusal(code)

    def _refusal(self, code: RequestRefusalReason, *, allow: str | None = None) -> Answer:
        self._telemetry.request_refused(code)
        return answers.refusal(code, allow=allow)

    # Web pages of other origins

    def _for_page(self, answer: Answer, request: Request) -> Answer:
        """Add the headers that let the page read the answer, if its origin is allowed."""
        if self._locks is None or not (more := self._locks.cors(request.headers)):
            return answer
        return Answer(answer.status, {**answer.headers, **more}, answer.body, answer.closes)

    async def _answer_page(self, ask: Callable[[Request], Reply], request: Request) -> Answer:
        match reply := ask(request):
            case Answer():
                answer = reply
            case Later(done, make):
                answer = make(await done)
            case _:
                answer = await reply
        return self._for_page(answer, request)

    # What is not for events

    def _show_page(self, request: Request) -> Answer:  # noqa: ARG002 - routes have it
        return status_page.own_page(asks_for_token=self._locks is not None and self._locks.needs_token)

    async def _operate(self, operation: Operation, request: Request) -> Answer:
        last = request.path.rpartition("/")[2]
        asked = Asked(
            int(last) if last.isdecimal() else 0,
            request.query,
            b"",
            partial(self._lacking, request),
            partial(user_of, request.peer),
        )
        if operation.method == "GET":
            return await operation.ask(asked)
        try:
            inflater = inflater_for(request.headers.get("content-encoding"))
            async with unpacked(request.body, inflater, max_bytes=self._max_body_bytes, budget=self._budget) as body:
                return await operation.ask(asked._replace(body=body))
        except RefusedBodyError as error:
            return self._refusal(error.code)
