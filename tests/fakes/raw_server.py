"""A server that speaks exactly the bytes a test wants, on a port of its own on loopback."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """One request, as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Return every value of a header; its name is in lower case."""
        return [value for one, value in self.headers if one == name]


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """Return a complete answer, after which the connection may be used again."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(eq=False)
class Connection:
    """One connection that a client made."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: "RawServer"

    async def request(self) -> Request | None:
        """Read one whole request; None if the client closed the connection instead."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in fields)]
        length = int(dict(headers).get("content-length", "0"))
        request = Request(line, headers, await self.reader.readexactly(length))
        self.server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send bytes; ConnectionError if the client is gone."""
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """End the connection in good order."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def closed_by_client(self) -> bool:
        """Wait until the client ends the connection; False if it sends something instead."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    @property
    def file_descriptor(self) -> int:
        """The socket's, for what has to happen at once, without a turn of the loop."""
        made: socket.socket = self.writer.get_extra_info("socket")
        return made.fileno()

    def end(self) -> None:
        """End it in good order as far as the kernel goes, at once, and without a word to the loop."""
        made: socket.socket = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it may be at its end already
            made.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End it as a crashed host does."""
        made: socket.socket = self.writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Connection], Awaitable[None]]


@dataclass(eq=False)
class RawServer:
    """Does with each connection what `behave` says; then the connection stays open until the end."""

    behave: Behaviour
    scheme: str = "http"
    port: int = 0
    connections: list[Connection] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/track/event"


@asynccontextmanager
async def raw_server(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve while the block runs, over TLS if there is a context for it."""
    server = RawServer(behave, "http" if tls is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, server)
        server.connections.append(connection)
        task = asyncio.create_task(_run(behave, connection))
        tasks.add(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for connection in server.connections:
            connection.writer.transport.abort()
        await asyncio.sleep(0)  # lets the transports close their sockets
        for result in ended:
            if isinstance(result, Exception):
                raise result  # a test's behaviour that fails is a failure of the test


async def _run(behave: Behaviour, connection: Connection) -> None:
    with contextlib.suppress(ConnectionError):  # the client went away, which is its right
        await behave(connection)


def answering(data: bytes) -> Behaviour:
    """Answer every request of every connection with the same bytes."""

    async def behave(connection: Connection) -> None:
        while await connection.request():
            await connection.send(data)

    return behave


def answering_once_and_closing(data: bytes) -> Behaviour:
    """Answer the first request of every connection with these bytes, and close it."""

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        await connection.close()

    return behave
