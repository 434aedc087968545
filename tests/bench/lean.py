"""The floor at low rates, as a process: it accepts an event and posts it on, in one thread, and does nothing else.

It parses with httptools on both sides, and its requests and answers are written by hand. With a file it commits each event
to SQLite before it answers, and commits again when the event is delivered, as a durable buffer must.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from tests.bench.far_side import ANSWER
from tests.bench.helpers import fast_loop, line_of, running
from tests.bench.machine import MEASURED_CORE


class _Store:
    """A table of events, each put and each ack a transaction; or nothing, without a file."""

    def __init__(self, file: str) -> None:
        self._database = sqlite3.connect(file, isolation_level=None) if file else None
        if self._database:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB)")

    def put(self, body: bytes) -> int:
        if not self._database:
            return 0
        return self._database.execute("INSERT INTO events (body) VALUES (?)", (body,)).lastrowid or 0

    def ack(self, number: int) -> None:
        if self._database:
            self._database.execute("DELETE FROM events WHERE id = ?", (number,))


class _Protocol(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it


class _Client(_Protocol):
    """A kept connection to the far side, which is idle or awaits one answer."""

    def __init__(self, done: "Callable[[_Client], None]") -> None:
        from httptools import HttpResponseParser  # noqa: PLC0415 - as the other yardsticks do

        self._parser = HttpResponseParser(self)
        self._done = done
        self.number = 0

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200
        self._done(self)


class _Forwarder:
    def __init__(self, address: str, store: _Store) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._store = store
        self._idle: list[_Client] = []
        self._head = (
            f"POST /track/event HTTP/1.1\r\nHost: {address}\r\nx-growlytics-key: some-key\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._connecting: set[asyncio.Task[None]] = set()

    def forward(self, body: bytes) -> None:
        number = self._store.put(body)
        if self._idle:
            self._post(self._idle.pop(), number, body)
        else:
            task = asyncio.create_task(self._connect(number, body))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, number: int, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Client(self._done), self._host, self._port)
        self._post(client, number, body)

    def _post(self, client: _Client, number: int, body: bytes) -> None:
        client.number = number
        client.transport.write(self._head + b"%d\r\n\r\n" % len(body) + body)

    def _done(self, client: _Client) -> None:
        self._store.ack(client.number)
        self._idle.append(client)


class _Server(_Protocol):
    def __init__(self, forwarder: _Forwarder) -> None:
        from httptools import HttpRequestParser  # noqa: PLC0415 - as the other yardsticks do

        self._parser = HttpRequestParser(self)
        self._forwarder = forwarder
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._forwarder.forward(body)
        self.transport.write(ANSWER)


async def _serve(address: str, file: str) -> None:
    forwarder = _Forwarder(address, _Store(file))
    server = await asyncio.get_running_loop().create_server(lambda: _Server(forwarder), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@asynccontextmanager
async def running_lean(url: str, file: Path | None = None) -> AsyncIterator[tuple[int, int]]:
    """Run it against a far side, with a file for its events if one is named; yield its process id and its port."""
    address = url.removeprefix("http://").partition("/")[0]
    async with running("lean", address, str(file or ""), core=MEASURED_CORE) as process:
        yield process.pid, int(await line_of(process))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(_serve(sys.argv[1], sys.argv[2]))
