"""One HTTP connection to a daemon, on TCP or on a Unix socket.

A request has one deadline for all that it does, so a far side that sends a byte now and then cannot keep a command. The
answer is read up to a limit. Nothing is followed, decoded or repeated here. Only `daemon` uses it, when it connects: the
import takes as long as all else that a command needs to start.
"""

import select
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

CONNECT_SECONDS: Final = 5
"""The longest wait for one address."""

_PIECE_BYTES: Final = 256 * 1024
_FULL_QUEUE_SECONDS: Final = 0.05
"""How often a Unix socket is tried whose daemon has not accepted those who came before: nothing tells when it has room."""


class RawAnswer(NamedTuple):
    """An answer, of which nothing is checked but that it is HTTP."""

    status: int
    retry_after: str | None
    text: bytes | None
    """None if it is longer than allowed; then the connection cannot be used again."""


class DaemonConnection(HTTPConnection):
    """A connection that stays open between requests."""

    auto_open = 0
    sock: "_Socket | None"

    def __init__(self, host: str, port: int | None, *, unix_socket: str | None) -> None:
        """`host` and `port` go into each request, also over a Unix socket."""
        super().__init__(host, port)
        self._unix_socket = unix_socket

    def open(self, *, deadline: float) -> None:
        """Connect until `deadline`, a time of `monotonic`. Raises OSError."""
        if self._unix_socket is not None:
            self.sock = _connected(socket.AF_UNIX, 0, self._unix_socket, deadline)
            return
        unreached: OSError | None = None
        # A name may have several addresses, and the daemon may listen on one of them.
        host = self.host.encode("ascii")  # text would import the codec for international names
        for family, _, protocol, _, address in socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM):
            try:
                self.sock = _connected(family, protocol, address, deadline)
            except OSError as error:
                unreached = error
            else:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return
        assert unreached is not None, "a name without addresses is an error"
        raise unreached

    @property
    def is_usable(self) -> bool:
        """Whether it is open: the far side has neither closed it nor sent anything since the last answer."""
        if self.sock is None:
            return False
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return not poller.poll(0)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        *,
        deadline: float,
        max_answer_bytes: int,
    ) -> RawAnswer:
        """Send a request and return the answer. Raises OSError or HTTPException, after which it must be closed."""
        assert self.sock is not None, "open it first"
        self.sock.deadline = deadline
        # The daemon may answer before the end of a request that it does not want, and close the connection.
        with suppress(ConnectionError):
            self.request(method, path, body, headers)
        response = self.getresponse()
        text = _read(response, max_answer_bytes)
        if text is None:
            self.close()
        return RawAnswer(response.status, response.getheader("Retry-After"), text)


class _Socket(socket.socket):
    """A socket that blocks until its deadline at most."""

    deadline = 0.0

    def recv_into(self, *args: Any) -> int:
        self.settimeout(_left_seconds(self.deadline))
        return super().recv_into(*args)

    def sendall(self, data: "Buffer", flags: int = 0) -> None:
        """Send `data`; raise BrokenPipeError once an answer comes, as its sender may not read the rest."""
        poller = select.poll()
        poller.register(self, select.POLLIN | select.POLLOUT)
        rest = memoryview(data)
        while rest:
            self.settimeout(_left_seconds(self.deadline))
            events = poller.poll(_left_seconds(self.deadline) * 1000)
            if not events:
                raise TimeoutError
            if events[0][1] & ~select.POLLOUT:
                raise BrokenPipeError
            rest = rest[self.send(rest, flags) :]


def _connected(family: int, protocol: int, address: object, deadline: float) -> _Socket:
    connecting = _Socket(family, socket.SOCK_STREAM, protocol)
    deadline = min(deadline, monotonic() + CONNECT_SECONDS)
    try:
        while True:
            connecting.settimeout(_left_seconds(deadline))
            try:
                connecting.connect(address)  # type: ignore[arg-type]  # of this family
            except BlockingIOError:
                sleep(_FULL_QUEUE_SECONDS)
            else:
                return connecting
    except BaseException:
        connecting.close()
        raise


def _left_seconds(deadline: float) -> float:
    left_seconds = deadline - monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    return left_seconds


def _read(response: HTTPResponse, max_bytes: int) -> bytes | None:
    # Of a chunk whose size is negative, `read` would read whatever comes; `read1` reads what it asks for at most.
    read = response.read1 if response.chunked else response.read
    text = bytearray()
    while piece := read(_PIECE_BYTES):
        text += piece
        if len(text) > max_bytes:
            return None
    if response.length:
        raise IncompleteRead(b"", response.length)
    return bytes(text)
