"""Servers that misbehave, for the code that apps copy: each connection gets the next behaviour, the last one for ever."""

import contextlib
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Behaviour = Callable[[socket.socket, threading.Event], None]
"""What is done with a connection whose request has been read; the event is set in the end."""

ACCEPTED: Final = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{"success":true,"id":"1-1"}'
)


@dataclass
class FarSide:
    """A running server."""

    address: str
    requests: list[bytes] = field(default_factory=list)
    """Each as it came, its head and as much of its body as came with it."""

    def keys(self) -> list[str]:
        """Return the idempotency key of each request."""
        return [
            found[1].decode() for each in self.requests if (found := re.search(rb"(?i)idempotency-key: (.*)\r", each))
        ]


def answers(status: str, body: bytes = b"", *headers: str) -> Behaviour:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return sends(head.encode() + b"\r\n" + body)


def sends(text: bytes) -> Behaviour:
    def behave(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(text)

    return behave


def trickles(start: bytes, piece: bytes) -> Behaviour:
    """Send a start, and then a piece again and again, as long as the client reads and the test goes on."""

    def behave(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(start)
        while not ended.wait(0.05):
            connection.sendall(piece)

    return behave


def floods(start: bytes, piece: bytes) -> Behaviour:
    def behave(connection: socket.socket, ended: threading.Event) -> None:
        connection.settimeout(1)
        connection.sendall(start)
        while not ended.is_set():
            connection.sendall(piece)

    return behave


def hangs(connection: socket.socket, ended: threading.Event) -> None:
    ended.wait(60)


def closes(connection: socket.socket, ended: threading.Event) -> None:
    """Say nothing."""


def resets(connection: socket.socket, ended: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


@contextmanager
def far_side(*behaviours: Behaviour, path: Path | None = None) -> Iterator[FarSide]:
    """Run a server on a free port of loopback, or on a Unix socket."""
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(str(path) if path else ("127.0.0.1", 0))
        listener.listen()
        server = FarSide(f"unix:{path}" if path else f"http://127.0.0.1:{listener.getsockname()[1]}")
        ended = threading.Event()
        thread = threading.Thread(target=_serve, args=(listener, behaviours, server.requests, ended))
        thread.start()
        try:
            yield server
        finally:
            ended.set()
            thread.join()


def _serve(
    listener: socket.socket, behaviours: tuple[Behaviour, ...], requests: list[bytes], ended: threading.Event
) -> None:
    threads: list[threading.Thread] = []
    while not ended.is_set():
        if not select.select([listener], [], [], 0.02)[0]:
            continue
        connection, _ = listener.accept()
        behaviour = behaviours[min(len(threads), len(behaviours) - 1)]
        threads.append(threading.Thread(target=_converse, args=(connection, behaviour, requests, ended)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _converse(connection: socket.socket, behaviour: Behaviour, requests: list[bytes], ended: threading.Event) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(30)
        requests.append(_request(connection))
        behaviour(connection, ended)


def _request(connection: socket.socket) -> bytes:
    """Read a request with all of its body."""
    text = b""
    while b"\r\n\r\n" not in text and (piece := connection.recv(65536)):
        text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]) and (piece := connection.recv(65536)):
        body += piece
        text += piece
    return text
