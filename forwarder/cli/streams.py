"""Blocking connections with one deadline for all that is done on them: TCP, a proxy's tunnel, TLS, TLS within TLS.

`probing` uses them, which must not wait longer than it says, whatever the other side sends or does not send. Timeouts of
sockets are for each read, so a side that sends a byte now and then would never meet one; here each read gets what is left of
the deadline. `within` gives the same to a function that has no deadline, such as the look-up of a name. Imports little.
"""

import base64
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar

MAX_HEAD_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 16 * 1024
_HTTP: Final = b"HTTP/1."
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?")

Result = TypeVar("Result")


class NotHttpError(Exception):
    """What came is no answer in HTTP."""


class ClosedError(Exception):
    """The other side closed the connection before its answer, or in the middle of it."""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    fields: dict[str, str]
    """By names in lower case; of one that came several times, the last."""


class Stream(Protocol):
    """A connection. Reads and writes raise TimeoutError at its deadline."""

    deadline: float

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def close(self) -> None: ...


class TcpStream:
    """A TCP connection. `deadline` is by `monotonic`."""

    def __init__(self, family: int, place: tuple[Any, ...], *, deadline: float) -> None:
        """Connect. Raise OSError."""
        self.deadline = deadline
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._limit()
            self._socket.connect(place)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        self._limit()
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """Return what comes next; nothing if the other side has closed the connection."""
        self._limit()
        return self._socket.recv(_READ_BYTES)

    def close(self) -> None:
        self._socket.close()

    def _limit(self) -> None:
        self._socket.settimeout(left_seconds(self.deadline))


class TlsStream:
    """TLS over another stream, which may be TLS itself. It closes that one."""

    def __init__(self, under: Stream, context: ssl.SSLContext, *, host: str) -> None:
        """Shake hands. Raise ssl.SSLError or OSError; `under` is then closed."""
        self._under = under
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
            self._pump(self._tls.do_handshake)
            self._flush()
        except BaseException:
            with suppress(OSError):  # why the handshake failed, for the other side
                self._flush()
            under.close()
            raise

    @property
    def deadline(self) -> float:
        return self._under.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._under.deadline = deadline

    @property
    def version(self) -> str:
        """The protocol, such as TLSv1.3."""
        return self._tls.version() or "?"

    @property
    def certificate(self) -> bytes:
        """The other side's certificate, as DER; nothing if it has none."""
        return self._tls.getpeercert(binary_form=True) or b""

    def send(self, data: bytes) -> None:
        self._pump(lambda: self._tls.write(data))
        self._flush()

    def receive(self) -> bytes:
        try:
            return self._pump(lambda: self._tls.read(_READ_BYTES))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def close(self) -> None:
        self._under.close()

    def _pump(self, work: Callable[[], Result]) -> Result:
        while True:
            try:
                return work()
            except ssl.SSLWantReadError:
                self._flush()
                if data := self._under.receive():
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._under.send(data)


def left_seconds(deadline: float) -> float:
    """Return what is left until a deadline. Raise TimeoutError if that is nothing."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def exchange(stream: Stream, request: str) -> Head:
    """Send a request without a body, and return the head of its answer.

    Raise NotHttpError, ClosedError or OSError.
    """
    stream.send(request.encode("ascii"))
    received = b""
    while True:
        if (found := _HEAD_END.search(received)) is not None:
            head = _head(received[: found.start()])
            if not 100 <= head.status < 200:
                return head
            received = received[found.end() :]  # such an answer only announces the real one
        elif not received.startswith(_HTTP[: len(received)]) or len(received) > MAX_HEAD_BYTES:
            raise NotHttpError
        elif data := stream.receive():
            received += data
        else:
            raise ClosedError


def connect_request(host_and_port: str, *, user_and_password: str | None, agent: str) -> str:
    """Return the request for a tunnel through a proxy."""
    lines = [f"CONNECT {host_and_port} HTTP/1.1", f"Host: {host_and_port}", f"User-Agent: {agent}"]
    if user_and_password is not None:
        encoded = base64.b64encode(user_and_password.encode()).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {encoded}")
    return "\r\n".join((*lines, "", ""))


def within(seconds: float, work: Callable[[], Result], *, name: str) -> Result:
    """Return what `work` returns, or raise what it raises, or TimeoutError; then `work` goes on, and nobody waits for it."""
    return together(seconds, [work], name=name)[0]()


def together(seconds: float, works: Sequence[Callable[[], Result]], *, name: str) -> list[Callable[[], Result]]:
    """Do all `works` at the same time, each in a thread of its own.

    Return for each a function that returns or raises what the work did; TimeoutError if it has not ended in time.
    """
    outcomes: list[Callable[[], Result]] = [_late] * len(works)

    def run(number: int, work: Callable[[], Result]) -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the caller asks
            outcomes[number] = _raiser(error)
        else:
            outcomes[number] = lambda: result

    threads = []
    deadline = monotonic() + seconds
    for number, work in enumerate(works):
        thread = threading.Thread(target=run, args=(number, work), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            outcomes[number] = _raiser(OSError(11, "no thread can be started"))
        else:
            threads.append(thread)
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    return list(outcomes)


def _late() -> NoReturn:
    raise TimeoutError


def _raiser(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


def _head(received: bytes) -> Head:
    first, *lines = received.split(b"\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise NotHttpError
    fields = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return Head(int(status[1]), fields)
