"""The admin listener: `/metrics`, `/livez`, `/readyz`, `/healthz`, and links to them. It changes nothing.

It shows no payloads. With `admin.page` it shows the status page, too, without the names of events and customers.

Readiness is only about this process: while Growlytics is down or the buffer is full, the app's pod must stay in service. The
listener has a few connections of its own, so its clients take none from those that post events.
"""

import gzip
import socket
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.exposition import choose_encoder

from forwarder.http.connections import Bodies, Connections
from forwarder.http.messages import Answer, CloseReason, Limits, Refusal, Request, Resource
from forwarder.intake import answers, status_page
from forwarder.intake.locks import AdminLock
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import AdminSettings, IntakeSettings
from forwarder.words import RequestRefusalReason

MAX_CONNECTIONS: Final = 64
_CLOSING_SECONDS: Final = 1.0
_MAX_BODY_BYTES: Final = 4096
"""The longest body of a GET, which is read and ignored."""


class Admin:
    """Serves one listening socket. `/readyz` shows `is_ready`; the page shows `status`, which must name nothing."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        admin: AdminSettings,
        telemetry: Telemetry,
        is_ready: Callable[[], bool],
        status: Callable[[], Mapping[str, object]],
    ) -> None:
        self._lock = AdminLock(settings, own=admin.http)
        self._has_page = admin.page
        self._telemetry = telemetry
        self._is_ready = is_ready
        self._status = status
        self._connections = Connections(
            self,
            Limits(
                head_seconds=settings.header_timeout_seconds,
                body_seconds=settings.body_timeout_seconds,
                answer_seconds=settings.body_timeout_seconds,
            ),
            max_connections=MAX_CONNECTIONS,
            bodies=Bodies(0),
        )
        self._routes = _resources(
            {
                "/": lambda _: status_page.links(has_page=self._has_page),
                "/metrics": self._metrics,
                "/livez": self._alive,
                "/healthz": self._alive,
                "/readyz": self._ready,
            }
        )
        self._page_routes = self._routes | _resources(
            {
                "/status": lambda _: status_page.shared_page(),
                "/status.json": lambda _: answers.content(self._status()),
            }
        )

    def use(self, settings: IntakeSettings, admin: AdminSettings) -> None:
        """Use the hosts of these settings from now on, and show the page if they say so."""
        self._lock.use(settings)
        self._has_page = admin.page

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens."""
        await self._connections.open(listener)

    async def close(self) -> None:
        """Stop serving. May be called again."""
        await self._connections.close(seconds=_CLOSING_SECONDS)

    def begin(self, request: Request) -> Resource | Answer:
        """See Application."""
        if (code := self._lock.refuse(request.headers, authority=request.authority)) is not None:
            self._telemetry.locked_out(code)
            return self._refusal(403, code, "use an IP address, or add this name to intake.allowed_hosts")
        routes = self._page_routes if self._has_page else self._routes
        if (resource := routes.get(request.path)) is None:
            return self._refusal(404, "not_found", f"the paths here are {', '.join(routes)}")
        if request.method != "GET":
            return self._refusal(
                405, "method_not_allowed", "only GET and HEAD are allowed here", {"Allow": "GET, HEAD"}
            )
        return resource

    def refuse(self, refusal: Refusal, request: Request | None) -> Answer:  # noqa: ARG002 - Application has it
        """See Application."""
        match refusal:
            case "headers_too_slow" | "body_too_slow":
                code: RequestRefusalReason = "too_slow"
            case _:
                code = refusal
        return self._refusal(_STATUSES[refusal], code)

    def fail(self, error: BaseException, request: Request) -> Answer:  # noqa: ARG002 - Application has it
        """See Application."""
        self._telemetry.request_failed(error)
        return self._refusal(500, "internal_error", "the forwarder failed; the log says more")

    def connection_closed(self, reason: CloseReason) -> None:
        """See Application."""
        self._telemetry.connection_closed(reason)

    def _refusal(
        self, status: int, code: RequestRefusalReason, message: str = "", more: Mapping[str, str] | None = None
    ) -> Answer:
        self._telemetry.request_refused(code)
        answer = _text(status, f"{code}: {message}\n" if message else f"{code}\n", more)
        answer.closes = status == 403
        return answer

    def _metrics(self, request: Request) -> Answer:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = encode(self._telemetry.registry)
        headers = {**_SAFE, "Content-Type": content_type}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        return Answer(200, headers, body)

    def _alive(self, request: Request) -> Answer:  # noqa: ARG002 - routes have it
        return _text(200, "ok\n")

    def _ready(self, request: Request) -> Answer:  # noqa: ARG002 - routes have it
        return _text(200, "ok\n") if self._is_ready() else _text(503, "not ready\n")


def _resources(routes: Mapping[str, Callable[[Request], Answer]]) -> dict[str, Resource]:
    return {path: Resource(answer, _MAX_BODY_BYTES) for path, answer in routes.items()}


_STATUSES: Final[dict[Refusal, int]] = {
    "malformed_http": 400,
    "uri_too_long": 414,
    "headers_too_large": 431,
    "unsupported_transfer_encoding": 501,
    "headers_too_slow": 408,
    "body_too_large": 413,
    "malformed_body": 400,
    "body_too_slow": 408,
    "busy": 429,
}


_SAFE: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def _text(status: int, text: str, more: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {**_SAFE, "Content-Type": "text/plain; charset=utf-8", **(more or {})}, text.encode())
