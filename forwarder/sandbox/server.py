"""The sandbox: a local stand-in for Growlytics, for tests, the demo and trying by hand. Not for production.

It checks requests against the contract as Growlytics would, and shows what Growlytics does not: what it stored, and which
attributes rule 5 made it drop. It answers a `POST /track/event`

- 200 `{"success":true}`: stored;
- 422 `{"success":false,"errors":[{"code","field","message"}]}`: all that is wrong with the event, also if it is not JSON;
- 401, 413, 415, 400 in the same shape: the key is not the sandbox's; longer than 1 MiB; not application/json; cut short.

Other paths get 404, other methods 405. After these two come the faults (`faults`), and only then the key and the contract.
Faults may change at any time, also through the endpoints of `control`. A request whose client has gone is still served and
stored, as by a server that has read it. A body that never ends holds its connection for ever.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from random import Random
from typing import Final, assert_never

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from forwarder.growlytics import contract, json_text
from forwarder.growlytics.contract import Conforming, Refused, Violation
from forwarder.sandbox import control
from forwarder.sandbox.connections import SandboxConnection, SandboxConnections
from forwarder.sandbox.control import ControlRequest, SandboxAnswer, error, errors
from forwarder.sandbox.faults import NO_FAULTS, Action, Decision, FaultInjector, Faults, retry_after
from forwarder.sandbox.printing import Arrival
from forwarder.sandbox.store import RequestCounts, Store, StoredEvent

PATH: Final = "/track/event"

_BACKLOG: Final = 1024
_MAX_BODY_BYTES: Final = 1024 * 1024  # aiohttp's own limit, too
_SHUTDOWN_SECONDS: Final = 0.05
"""How long requests may go on when the sandbox closes; those that are delayed on purpose are cut."""

_STORED: Final = SandboxAnswer(200, b'{"success":true}')
_SUCCESS_FALSE: Final = SandboxAnswer(200, b'{"success":false}')
_UNAUTHORIZED: Final = error(401, "unauthorized", "x-growlytics-key is missing, or is not the key of this sandbox")
_NOT_FOUND: Final = error(404, "not_found", f"events go to {PATH}; GET {control.PREFIX} lists what else there is")
_NOT_POST: Final = error(405, "method_not_allowed", "an event is sent with POST", allow="POST")
_NOT_JSON: Final = error(415, "unsupported_content_type", "the Content-Type of an event is application/json")
_TOO_LARGE: Final = error(413, "body_too_large", "the body is longer than 1 MiB")
_CUT_SHORT: Final = error(400, "malformed_body", "the body is not what its headers say: cut short, or wrongly encoded")
_LIMITED: Final = error(429, "rate_limited", "more requests than the sandbox was told to take")


class Sandbox:
    """One stand-in for Growlytics, with its own store, counters, key and faults."""

    def __init__(
        self,
        *,
        http: tuple[str, int] = ("127.0.0.1", 0),
        key: str = "sandbox-key",
        faults: Faults = NO_FAULTS,
        seed: int | None = None,
        max_stored_events: int = 1_000_000,
        show: Callable[[Arrival], object] | None = None,
    ) -> None:
        """Make one for the address `http`; port 0 finds a free one. The same seed draws the same faults, in order.

        `show` is called with each request for an event, once it is known how it is answered.
        """
        self._show = show
        self.key = key
        """What `x-growlytics-key` must say; may be set at any time."""
        self.start_faults: Final = faults
        self.store: Final = Store(max_events=max_stored_events)
        self._counters = RequestCounts()
        random = Random(seed)  # noqa: S311 - faults are no secrets
        self._injector = FaultInjector(faults, random=random, clock=time.monotonic)
        self._address = http
        self._connections: SandboxConnections | None = None
        self._runner: web.ServerRunner | None = None

    async def open(self) -> None:
        """Bind and serve. Raises OSError if it cannot bind."""
        self._connections = SandboxConnections(self._handle, self._counters)
        self._runner = web.ServerRunner(self._connections, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, *self._address, backlog=_BACKLOG).start()
        except OSError:
            await self.close()
            raise
        self._address = self._runner.addresses[0][:2]
        self._connections.close_idle(self.faults.close_idle_seconds)

    async def close(self) -> None:
        """Stop serving, and cut requests that hang or are delayed. May be called again."""
        runner, self._runner = self._runner, None
        if runner is None or self._connections is None:
            return
        self._connections.stop()
        await runner.cleanup()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; after `open()` the port that was bound."""
        return self._address

    @property
    def url(self) -> str:
        """Where events go."""
        host, port = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"

    @property
    def faults(self) -> Faults:
        """The faults in force; may be set at any time."""
        return self._injector.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._injector.faults = faults
        if self._connections is not None and self._runner is not None:
            self._connections.close_idle(faults.close_idle_seconds)

    def stored(self) -> list[StoredEvent]:
        """Return the first `max_stored_events` events that were stored, in order of arrival."""
        return self.store.events()

    def counters(self) -> dict[str, int]:
        """Return the counters of `RequestCounts` and of `Store`."""
        return self._counters.as_dict() | self.store.counters()

    def forget(self) -> None:
        """Forget events, attribute types and counters; faults and key stay."""
        self.store.forget()
        self._counters.forget()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._connections is not None, "a request comes on a connection"
        connection = self._connections.of(request)
        connection.idle_since = None
        if request.path.startswith(control.PREFIX):
            return _response(await self._control(request))
        self._counters.arrived()
        if not connection.has_served:
            connection.has_served = True
            self._counters.count("connections_opened")
        try:
            answer = await self._answer(request, connection)
        finally:
            self._counters.left()
            connection.idle_since = asyncio.get_running_loop().time()
        if answer is None:
            connection.reset()
            return web.Response()  # goes nowhere: the connection is closed
        if answer is _STORED and request.keep_alive and request.version == HttpVersion11:
            return _STORED_RESPONSE
        return _response(answer)

    async def _control(self, request: web.BaseRequest) -> SandboxAnswer:
        body = await _body(request)
        if isinstance(body, SandboxAnswer):
            return body
        return control.answer(self, ControlRequest(request.method, request.path, request.query, body))

    async def _answer(self, request: web.BaseRequest, connection: SandboxConnection) -> SandboxAnswer | None:
        """Return the answer to a request for the API; None: its connection must be reset."""
        if request.path != PATH:
            return self._refused(_NOT_FOUND)
        if request.method != "POST":
            return self._refused(_NOT_POST)
        decision = self._injector.decide()
        body = b""
        if decision.action is not Action.RESET_BEFORE_READ:
            read = await _body(request)
            if isinstance(read, SandboxAnswer):
                self._tell(b"", read)
                return self._refused(read)
            body = read
            if decision.delay_seconds:
                await asyncio.sleep(decision.delay_seconds)
        if decision.action is Action.HANG:
            self._tell(body, None, instead="hangs")  # the client may wait for very long
            return await self._act(decision, request, body, connection)
        answer = await self._act(decision, request, body, connection)
        self._tell(body, answer)
        return answer

    def _tell(self, body: bytes, answer: SandboxAnswer | None, *, instead: str = "reset") -> None:
        """Tell who watches how a request is answered, or what is done `instead`."""
        if self._show is not None:
            status, text = (instead, b"") if answer is None else (str(answer.status), answer.body)
            self._show(Arrival(time.time(), status, body, text))

    async def _act(
        self, decision: Decision, request: web.BaseRequest, body: bytes, connection: SandboxConnection
    ) -> SandboxAnswer | None:
        answer: SandboxAnswer | None = None
        match decision.action:
            case Action.SERVE:
                answer = self._track(request, body)
            case Action.FAIL:
                self._counters.count(f"injected_{decision.status}")
                answer = self._with_retry_after(error(decision.status, "injected", "the sandbox was told to fail"))
            case Action.LIMIT:
                self._counters.count("rate_limited")
                answer = self._with_retry_after(_LIMITED)
            case Action.SUCCESS_FALSE:
                self._counters.count("success_false")
                answer = _SUCCESS_FALSE
            case Action.RESET_BEFORE_READ:
                self._counters.count("reset_before_read")
            case Action.RESET_AFTER_READ:
                self._counters.count("reset_after_read")
            case Action.RESET_AFTER_STORE:
                answer = self._track(request, body)
                if answer is _STORED:
                    self._counters.count("reset_after_store")
                    answer = None
            case Action.HANG:
                self._counters.count("hangs")
                await connection.gone.wait()
            case unknown:
                assert_never(unknown)
        return answer

    def _track(self, request: web.BaseRequest, body: bytes) -> SandboxAnswer:
        """Store one event if the key and the contract allow it."""
        if request.headers.get("x-growlytics-key") != self.key:
            self._counters.count("unauthorized")
            return _UNAUTHORIZED
        if request.content_type != "application/json":
            return self._refused(_NOT_JSON)
        try:
            event = json_text.parse(body)
        except json_text.MalformedJsonError as malformed:
            return self._violated(Refused((Violation("malformed_json", None, str(malformed)),)))
        match contract.check(event):
            case Refused() as refused:
                return self._violated(refused)
            case Conforming(name=name):
                assert isinstance(event, dict), "the contract demands it"
                self.store.add(body, name, event["attributes"], time.time())
                return _STORED

    def _violated(self, refused: Refused) -> SandboxAnswer:
        self._counters.count("contract_violations")
        return errors(422, *(asdict(violation) for violation in refused.violations))

    def _refused(self, answer: SandboxAnswer) -> SandboxAnswer:
        self._counters.count(f"refused_{answer.status}")
        return answer

    def _with_retry_after(self, answer: SandboxAnswer) -> SandboxAnswer:
        header = retry_after(self.faults, answer.status, time.time())
        return answer if header is None else replace(answer, headers={"Retry-After": header})


async def _body(request: web.BaseRequest) -> bytes | SandboxAnswer:
    """Return the whole body, or the answer that says why there is none."""
    try:
        # Nearly every body arrives with its head; reading it at once saves a tenth of the request's time.
        if request.content.is_eof() and request.content.total_bytes <= _MAX_BODY_BYTES:
            return request.content.read_nowait()
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return _TOO_LARGE
    except (ConnectionError, web.RequestPayloadError):
        return _CUT_SHORT


class _Rendered(web.StreamResponse):
    """An answer that is rendered once: aiohttp's own rendering takes a third of a stored event's time.

    It has no state, so one object answers every request. It fits only connections that stay open.
    """

    def __init__(self, answer: SandboxAnswer) -> None:
        super().__init__(status=answer.status)
        head = f"HTTP/1.1 {self.status} {self.reason}\r\nContent-Type: application/json"
        self._rendered = f"{head}\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        await request.writer.write(self._rendered)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        assert not data, "all is written"


_STORED_RESPONSE: Final = _Rendered(_STORED)


def _response(answer: SandboxAnswer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers, content_type="application/json")
