"""A client that sends exactly the bytes it is told to, over TCP or a Unix socket, and reads whatever is answered.

It imports nothing of the package, so it may talk to the installed command too. Every wait has an end.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 30.0
"""Of every single wait; nothing takes nearly so long unless it hangs."""
ONE: Final = "/track/event"
BATCH: Final = "/v1/events"
GOOD: Final = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    version: str

    @property
    def code(self) -> str:
        """The code of the first error."""
        code: str = json.loads(self.body)["errors"][0]["code"]
        return code

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        """Whether nothing can follow on this connection."""
        usual = "close" if self.version == "HTTP/1.0" else "keep-alive"
        return self.headers.get("connection", usual).lower() == "close"


class Wire:
    """One connection, without the library's streams: they forget what was received when a reset follows."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = bytearray()
        self.has_ended = False

    async def send(self, *segments: bytes) -> None:
        """Send each segment by itself. Raise ConnectionError if the other side does not want it."""
        loop = asyncio.get_running_loop()
        for segment in segments:
            async with asyncio.timeout(SECONDS):
                await loop.sock_sendall(self.socket, segment)
            for _ in range(2):  # a server in the same loop reads each by itself
                await asyncio.sleep(0)

    async def send_what_is_taken(self, *segments: bytes) -> None:
        """Send as `send` does, until the other side is gone."""
        with suppress(ConnectionError):
            await self.send(*segments)

    def half_close(self) -> None:
        """Say that nothing more will be sent, as `nc -N` does at the end of its input."""
        with suppress(OSError):  # the other side may be gone
            self.socket.shutdown(socket.SHUT_WR)

    async def reply(self, *, to: str = "POST") -> Reply:
        """Read the next answer, which may be 100 Continue; `to` is the method of what it answers."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            assert await self._receive(), f"an answer, not the end after {bytes(self._received)!r}"
        head = bytes(self._received[:end])
        first, *fields = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version in ("HTTP/1.0", "HTTP/1.1")
        headers: dict[str, str] = {}
        for field in fields:
            name, _, value = field.partition(":")
            assert name.lower() not in headers, f"{name} is given once"
            headers[name.lower()] = value.strip()
        bodiless = to == "HEAD" or status in ("100", "204", "304")
        end = len(head) + 4 + (0 if bodiless else int(headers["content-length"]))
        while len(self._received) < end:
            assert await self._receive(), f"all of an answer, not the end after {bytes(self._received)!r}"
        body = bytes(self._received[len(head) + 4 : end])
        del self._received[:end]
        return Reply(int(status), headers, body, version)

    async def replies(self, count: int) -> list[Reply]:
        return [await self.reply() for _ in range(count)]

    async def rest(self) -> list[Reply]:
        """Read all answers that still come before the other side ends the connection, as it must soon."""
        replies = []
        while self._received or await self._receive():
            replies.append(await self.reply())
        return replies

    async def is_silent(self) -> bool:
        """Return whether nothing has come, after giving it the time of a few turns."""
        for _ in range(20):
            await asyncio.sleep(0.001)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._received
        return False

    async def _receive(self) -> bool:
        """Receive something; False at the end."""
        async with asyncio.timeout(SECONDS):
            try:
                data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 18)
            except ConnectionError:
                data = b""
        self._received += data
        self.has_ended = not data
        return bool(data)


@asynccontextmanager
async def wire_to(place: object) -> AsyncIterator[Wire]:
    """Connect to the path of a Unix socket, or to what reads as HOST:PORT."""
    with open_socket(place) as connection:
        connection.setblocking(False)
        yield Wire(connection)


def open_socket(place: object) -> socket.socket:
    """Return a connected socket that blocks."""
    if isinstance(place, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(str(place))
        return connection
    host, _, port = str(place).rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def event(number: int) -> bytes:
    """Return an event that is told from others by its number."""
    return b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Number":%d}}' % number


def post(path: str, body: bytes = GOOD, *fields: str, version: str = "1.1", method: str = "POST") -> bytes:
    """Write a request with a body and its length."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def get(path: str, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    """Write a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *fields, "", ""]).encode("latin-1")


def in_chunks(path: str, chunks: Iterable[bytes], *fields: str, trailers: bytes = b"") -> bytes:
    """Write a request whose body comes in chunks."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *fields, "Transfer-Encoding: chunked", "", ""]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(head).encode("latin-1") + body + b"0\r\n" + trailers + b"\r\n"


def cut(data: bytes, *places: int) -> list[bytes]:
    """Cut a stream into segments before these offsets."""
    ends = sorted({place for place in places if 0 < place < len(data)})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def by_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]
