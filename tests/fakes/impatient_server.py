"""A server in threads of its own that answers every request and then soon ends the connection, whatever is under way."""

import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_RESETS = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class ImpatientServer:
    """Each request's body is its own identifier, in angle brackets."""

    port: int
    most_idle_seconds: float
    received: Counter[bytes] = field(default_factory=Counter)
    """How many times each identifier came, whole."""
    connections: int = 0

    def serve(self, connection: socket.socket) -> None:
        generator = random.Random(self.connections)
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(5.0)
            try:
                while identifier := _identifier(connection):
                    self.received[identifier] += 1
                    connection.sendall(_ANSWER)
                    connection.settimeout(generator.uniform(1e-6, self.most_idle_seconds))
            except OSError:  # its patience is at its end, or the client is gone
                if generator.random() < 0.3:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)


def _identifier(connection: socket.socket) -> bytes | None:
    request = b""
    while not request.endswith(b">"):
        received = connection.recv(65536)
        if not received:
            return None
        request += received
        connection.settimeout(5.0)
    found = re.search(rb"<([0-9]+)>$", request)
    assert found is not None
    return found[1]


@contextmanager
def impatient_server(*, most_idle_seconds: float) -> Iterator[ImpatientServer]:
    """Serve while the block runs; at its end, everything that came is in `received`."""
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = ImpatientServer(listener.getsockname()[1], most_idle_seconds)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            server.connections += 1
            if stopping.is_set():
                connection.close()
                return
            threads.append(threading.Thread(target=server.serve, args=(connection,)))
            threads[-1].start()

    stopping = threading.Event()
    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        stopping.set()
        socket.create_connection(listener.getsockname()).close()
        for thread in (accepting, *threads):
            thread.join()
        listener.close()
