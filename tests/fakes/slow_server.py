"""A server in threads of its own that answers late, so that it goes on while the test's own loop stands still."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(eq=False)
class SlowServer:
    """Answers each request after `seconds` with `pieces`, and a pause of as long again between each two of them."""

    port: int
    scheme: str
    seconds: float
    pieces: Sequence[bytes]
    bodies: list[bytes] = field(default_factory=list)
    """Of the requests that came, whole."""
    ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/track/event"

    def serve(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        connection.settimeout(30.0)
        with suppress(OSError), tls.wrap_socket(connection, server_side=True) if tls else connection as stream:
            while body := _body(stream):
                self.bodies.append(body)
                for piece in self.pieces:
                    self.ending.wait(self.seconds)
                    stream.sendall(piece)


def _body(stream: socket.socket) -> bytes:
    """Return the body of the next request, nothing if there is none."""
    request = b""
    while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < _length(request):
        received = stream.recv(65536)
        if not received:
            return b""
        request += received
    return request.partition(b"\r\n\r\n")[2]


def _length(request: bytes) -> int:
    return int(request.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])


@contextmanager
def slow_server(*pieces: bytes, seconds: float, tls: ssl.SSLContext | None = None) -> Iterator[SlowServer]:
    """Serve while the block runs."""
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = SlowServer(listener.getsockname()[1], "https" if tls else "http", seconds, pieces)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            if server.ending.is_set():
                connection.close()
                return
            threads.append(threading.Thread(target=server.serve, args=(connection, tls)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        server.ending.set()
        socket.create_connection(listener.getsockname()).close()
        for thread in (accepting, *threads):
            thread.join()
        listener.close()
