"""One connection of a server: requests are answered in their order, and answers that are ready are written together.

What the connection waits for is one explicit state, with the time at which it began; `Connections.sweep` decides by these
two alone.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from forwarder.http.messages import CONTINUE, Answer, CloseReason, Later, Refusal, Request, Resource, State
from forwarder.http.reading import LARGE_BODY_BYTES, SLICE_BYTES, RequestReader

if TYPE_CHECKING:
    from forwarder.http.connections import Connections

_OBJECT_BYTES: Final = 110
"""The memory that a header takes besides its text; a request without headers takes ten times as much."""
_DISCARDED_BYTES: Final = 1 << 20
"""The longest unwanted body that is read and thrown away; for a longer one the connection is closed."""


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request and its answer."""

    request: Request | None
    version: str = "1.1"
    is_last: bool = True
    """Whether the client sends no request after it."""
    with_body: bool = True
    """Whether the answer must have its body."""
    is_refused: bool = False
    """Whether no request after it can be read."""
    resource: Resource | None = None
    answer: Answer | None = None
    waiting_bytes: int = 0
    """About how much memory its head, body and answer take, once they are complete."""
    counted_bytes: int = 0
    """How much of its body is counted among the large ones."""


class Connection(asyncio.Protocol):
    """One connection, which `keeper` keeps and closes."""

    def __init__(self, keeper: "Connections") -> None:
        self._keeper = keeper
        self._application = keeper.application
        self._limits = keeper.limits
        self.state = State.NEW
        self.since = keeper.clock()
        """When the state began."""
        self._exchange: _Exchange | None = None
        """The request that is being read, once its head is complete."""
        self._waiting: deque[_Exchange] = deque()
        """Requests that were read and wait until the running ones allow them to begin."""
        self._running: deque[_Exchange] = deque()
        """Requests that are being answered, or whose answers wait for earlier answers."""
        self._waiting_bytes = 0
        """The memory that both take."""
        self._max_waiting_bytes = keeper.limits.max_waiting_bytes
        self._holds_up: _Exchange | None = None
        """The last running request, if it must end before the next may begin."""
        self._is_unread = False
        """Whether the client has much to read."""
        self._unfed = b""
        """Data that came while too much was waiting."""
        self._has_ended = False
        """Whether the client sends no more."""
        self._invites = False
        """Whether the client waits for 100 Continue before it sends a body."""
        self._start = b""
        """The data that is being read, if a request begins with it."""

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._peer = peer = transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it only if the listener names TCP
        self._reader = RequestReader(self, self._limits, peer=peer)
        self._keeper.add(self)
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Read data, and begin to answer the requests in it.

        A single request with a known head, at a time when nothing else waits, takes a short path without the reader.
        """
        if self._unfed:
            self._unfed += data
            return
        if self.state is not State.IDLE and self.state is not State.NEW:
            self._feed(data)
            return
        keeper = self._keeper
        found = None if keeper.closing else keeper.known_heads.find(data)
        if found is None:
            self._start = data
            self._feed(data)
            self._start = b""
            return
        head, request = found
        self._reader.came_bytes = 0
        self._reader.phase = State.IDLE
        keeper.used(self)
        request.peer = self._peer
        exchange = _Exchange(request, is_last=False, resource=head.resource)
        exchange.waiting_bytes = head.memory_bytes + len(request.body)
        self._waiting_bytes += exchange.waiting_bytes
        self._running.append(exchange)
        self.state = State.ANSWERING
        self.since = keeper.clock()
        self._ask(exchange)
        if exchange.answer is not None:
            self._go_on()

    def eof_received(self) -> bool:
        """Answer the complete requests, as the client may still read. Return whether there is anything to answer."""
        self._has_ended = True
        if self._reader.phase is State.HEAD:
            self.refuse("malformed_http")
        elif self._reader.phase is State.BODY:
            self.refuse("malformed_body")
        self._settle()
        is_over = self.state is State.LINGERING or self.state is State.CLOSED
        return not is_over and self._transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client has much to read."""
        self._is_unread = True
        self._settle()

    def resume_writing(self) -> None:
        """See asyncio.Protocol: the client has read most of it."""
        self._is_unread = False
        self._go_on()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - protocols have it
        """See asyncio.Protocol. Answers that are still to come are thrown away."""
        self._keeper.remove(self)
        if self._reader.phase is State.BODY and self._exchange is not None:
            self.refused("malformed_body")
        self._reader.end()
        self._forget_exchanges()
        self._unfed = b""
        self.state = State.CLOSED

    # From the keeper

    def check_time(self, now: float) -> None:
        """Close the connection if its state has lasted too long."""
        limits, waited = self._limits, now - self.since
        match self.state:
            case State.NEW if waited > limits.head_seconds:
                self._close_for_others("header_timeout")
            case State.HEAD if waited > limits.head_seconds:
                self._application.connection_closed("header_timeout")
                self.refuse("headers_too_slow")
            case State.BODY if waited > limits.body_seconds:
                self._application.connection_closed("body_timeout")
                self.refuse("body_too_slow")
            case State.UNREAD | State.CLOSED if waited > limits.answer_seconds:
                self._close_for_others("answer_timeout")
            case State.LINGERING if waited > limits.answer_seconds:
                self.abort()
            case State.LINGERING if waited > limits.lingering_seconds and not self._transport.get_write_buffer_size():
                self.abort()
            case State.IDLE if waited > limits.idle_seconds:
                self.abort()
            case _:
                pass

    def close_if_idle(self) -> None:
        """Close the connection unless there is a request to answer, or a body to come."""
        if self.state in (State.NEW, State.IDLE, State.HEAD):
            self._close()

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be written."""
        self._transport.abort()

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request that is being read with a refusal, and read no more."""
        self.refused(refusal)
        self._reader.end()
        self._go_on()

    # From the reader

    def head_began(self) -> None:
        """See Receiver."""
        if self.state is not State.ANSWERING and self.state is not State.UNREAD:
            self.state = State.NEW  # so that the time of the next state begins now

    def head_ended(self, request: Request, *, version: str, is_last: bool, with_body: bool, body_bytes: int) -> int:
        """See Receiver."""
        self._exchange = exchange = _Exchange(request, version, is_last, with_body)
        try:
            begun = self._application.begin(request)
        except Exception as error:  # noqa: BLE001 - a bug; only this request must suffer
            begun = self._application.fail(error, request)
        waits = bool(body_bytes) and version == "1.1" and request.headers.get("expect", "").lower() == "100-continue"
        if isinstance(begun, Resource):
            exchange.resource = begun
            self._invites = waits and body_bytes <= begun.max_body_bytes
            return begun.max_body_bytes
        exchange.answer = begun
        if begun.closes or waits:  # after 100 Continue was refused, a body may come or not
            exchange.is_refused = True
            self._end_exchange(exchange)
            return -1
        self._reader.discards = True
        return _DISCARDED_BYTES

    def body_ended(self, body: bytes) -> None:
        """See Receiver."""
        exchange = self._exchange
        assert exchange is not None, "its head has ended"
        assert exchange.request is not None
        self._keeper.used(self)
        if len(body) > LARGE_BODY_BYTES and not self._count(exchange, len(body), is_complete=True):
            self.refused("busy")
            self._reader.end()
            return
        exchange.request.body = body
        memory_bytes = self._reader.head_bytes + _OBJECT_BYTES * (10 + len(exchange.request.headers))
        exchange.waiting_bytes = memory_bytes + len(body)
        if (
            exchange.resource is not None
            and exchange.resource.is_lasting
            and exchange.version == "1.1"
            and exchange.with_body
            and not exchange.is_last
        ):
            self._keeper.known_heads.learn(self._start, exchange.request, memory_bytes, exchange.resource)
        self._end_exchange(exchange)

    def refused(self, refusal: Refusal) -> None:
        """See Receiver."""
        exchange = self._exchange
        if exchange is None:
            request, with_body = self._reader.begun()
            exchange = _Exchange(request, with_body=with_body)
        if exchange.answer is None:
            exchange.answer = self._application.refuse(refusal, exchange.request)
        exchange.is_refused = True
        self._forget_body(exchange)
        self._end_exchange(exchange)

    def _end_exchange(self, exchange: _Exchange) -> None:
        """End the reading of a request, which is answered after all before it."""
        self._exchange = None
        self._invites = False
        self._waiting_bytes += exchange.waiting_bytes
        self._waiting.append(exchange)

    def _count(self, exchange: _Exchange, body_bytes: int, *, is_complete: bool) -> bool:
        """Count a large body as far as it has come. Return whether there is room for it."""
        more, exchange.counted_bytes = body_bytes - exchange.counted_bytes, body_bytes
        return self._keeper.bodies.count(self, more, is_complete=is_complete)

    def _forget_body(self, exchange: _Exchange) -> None:
        if exchange.counted_bytes:
            self._keeper.bodies.drop(self, exchange.counted_bytes)
            exchange.counted_bytes = 0

    # From data to answers

    def _feed(self, data: "bytes | memoryview") -> None:
        reader = self._reader
        if len(data) > SLICE_BYTES:
            data = memoryview(data)
        while reader.phase is not State.CLOSED:
            if self._waiting_bytes > self._max_waiting_bytes:
                self._unfed = bytes(data)
                self._transport.pause_reading()
                break
            reader.feed(data[:SLICE_BYTES])
            self._begin_waiting()
            if len(data) <= SLICE_BYTES:
                break
            data = data[SLICE_BYTES:]
        if reader.body_bytes > LARGE_BODY_BYTES and self._exchange is not None and not reader.discards:
            self._count(self._exchange, reader.body_bytes, is_complete=False)
        self._settle()

    def _begin_waiting(self) -> None:
        """Ask for answers in the order of the requests, and write those that are ready."""
        while True:
            while self._waiting and self._holds_up is None and not self._is_unread:
                if self._running and self._waiting_bytes > self._max_waiting_bytes:
                    break
                exchange = self._waiting.popleft()
                self._running.append(exchange)
                if exchange.answer is None:
                    self._ask(exchange)
            if not self._running or self._running[0].answer is None:
                return
            self._write()

    def _ask(self, exchange: _Exchange) -> None:
        request, resource = exchange.request, exchange.resource
        assert request is not None
        assert resource is not None
        try:
            reply = resource.answer(request)
        except Exception as error:  # noqa: BLE001 - a bug; only this request must suffer
            reply = self._application.fail(error, request)
        if isinstance(reply, Answer):
            self._holds_up = exchange if reply.closes else None
            self._answer(exchange, reply)
            return
        if isinstance(reply, Later):
            reply.done.add_done_callback(partial(self._answered, exchange, reply.answer))
            return
        self._holds_up = exchange
        task = self._loop.create_task(reply, name="answer to a request")
        self._keeper.tasks.add(task)
        task.add_done_callback(self._keeper.tasks.discard)
        task.add_done_callback(partial(self._answered, exchange, None))

    # From answers to the client

    def _answered(self, exchange: _Exchange, answer: Callable[[Any], Answer] | None, done: asyncio.Future[Any]) -> None:
        assert exchange.request is not None
        if self._holds_up is exchange:
            self._holds_up = None
        if done.cancelled() and not self._running:  # the connection is closed
            self._forget_body(exchange)
            return
        try:
            self._answer(exchange, done.result() if answer is None else answer(done.result()))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a bug; only this request must suffer
            self._answer(exchange, self._application.fail(error, exchange.request))
        if len(self._running) == 1:
            self._go_on()
        elif self._running:  # the others may be answered in this turn of the loop, too
            self._loop.call_soon(self._go_on)

    def _answer(self, exchange: _Exchange, answer: Answer) -> None:
        if exchange.counted_bytes:
            self._forget_body(exchange)
        exchange.answer = answer
        exchange.waiting_bytes += len(answer.body)
        self._waiting_bytes += len(answer.body)

    def _go_on(self) -> None:
        """Begin, write and read all that is possible now."""
        if self._waiting:
            self._begin_waiting()
        elif self._running and self._running[0].answer is not None:
            self._write()
        if self._unfed and self._waiting_bytes <= self._max_waiting_bytes:
            unfed, self._unfed = self._unfed, b""
            self._transport.resume_reading()
            self._feed(unfed)
        else:
            self._settle()

    def _write(self) -> None:
        answers = []
        ends = lingers = False
        while self._running and not ends and (answer := self._running[0].answer) is not None:
            exchange = self._running.popleft()
            self._waiting_bytes -= exchange.waiting_bytes
            lingers = answer.closes or exchange.is_refused
            ends = lingers or exchange.is_last or (self._keeper.closing and self._is_idle())
            connection = "close" if ends else "keep-alive" if exchange.version == "1.0" else ""
            answers.append(self._keeper.encode(answer, connection=connection, with_body=exchange.with_body))
        self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
        if ends:
            self._forget_exchanges()
            if lingers and not self._has_ended:
                self._linger()
            else:
                self._close()

    def _is_idle(self) -> bool:
        return not self._running and not self._waiting and self._reader.phase is not State.BODY

    # What the connection waits for

    def _settle(self) -> None:
        """Note what the connection waits for now; close it if that is nothing and no request may come."""
        if self.state is State.LINGERING or self.state is State.CLOSED:
            return
        if self._is_unread:
            state = State.UNREAD
        elif self._running or self._waiting:
            state = State.ANSWERING
        elif (state := self._reader.phase) is not State.BODY and (self._has_ended or self._keeper.closing):
            self._close()
            return
        if self._invites and state is State.BODY and not self._reader.body_bytes:
            self._invites = False
            self._transport.write(CONTINUE)
        if state is not self.state:
            self.state = state
            self.since = self._keeper.clock()

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = self._keeper.clock()

    def _close(self) -> None:
        self._reader.end()
        self._enter(State.CLOSED)
        self._transport.close()

    def _linger(self) -> None:
        """Read and throw away data for a while: if the connection closed now, the client could lose the last answers."""
        self._reader.end()
        self._enter(State.LINGERING)
        with suppress(OSError):  # the client may have closed already
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _close_for_others(self, reason: CloseReason) -> None:
        self._application.connection_closed(reason)
        self.abort()

    def _forget_exchanges(self) -> None:
        """Answer nothing more."""
        for exchange in (*self._waiting, *((self._exchange,) if self._exchange else ())):
            self._forget_body(exchange)
        self._exchange = None
        self._waiting.clear()
        self._running.clear()
        self._waiting_bytes = 0
