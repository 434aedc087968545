"""Who attacks: a process of its own, so that what it costs is not taken for what it does. Run with -m; see `main`."""

import asyncio
import random
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_HALF = b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX-Half: "


@dataclass
class Attacked:
    """What an attack came to, once it has ended."""

    still_open: int = 0
    closed: int = 0
    """How often a connection was closed by the daemon."""


@asynccontextmanager
async def attacking(port: int, *, connections: int, pause_seconds: float = 0) -> AsyncIterator[Attacked]:
    """Attack a port of 127.0.0.1 meanwhile, from a process of its own: see `main`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(port), str(connections), str(pause_seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    attacked = Attacked()
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"attacking\n"
        yield attacked
        process.stdin.write(b"\n")
        async with asyncio.timeout(20):
            attacked.still_open, attacked.closed = map(int, (await process.stdout.readline()).split())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Silent(asyncio.Protocol):
    """Sends nothing, and does not come back when it is closed."""

    def __init__(self, attack: "_Attack") -> None:
        self._attack = attack

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 - asyncio gives it
        self._attack.open += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        self._attack.open -= 1
        self._attack.closed += 1


class _Slow(asyncio.Protocol):
    """Sends half of a request's headers, then a byte now and then, and connects anew when it is closed."""

    def __init__(self, attack: "_Attack") -> None:
        self._attack = attack
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._attack.open += 1
        transport.write(_HALF)
        self._later(self._drip)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        self._transport = None
        self._attack.open -= 1
        self._attack.closed += 1
        self._later(self._attack.begin)

    def _drip(self) -> None:
        if self._transport is not None:
            self._transport.write(b"x")
            self._later(self._drip)

    def _later(self, act: object) -> None:
        assert callable(act)
        seconds = self._attack.pause_seconds
        asyncio.get_running_loop().call_later(random.uniform(seconds / 2, seconds * 3 / 2), act)


class _Attack:
    def __init__(self, port: int, connections: int, pause_seconds: float) -> None:
        self.open = self.closed = 0
        self.pause_seconds = pause_seconds
        self._port = port
        self._make = lambda: _Slow(self) if pause_seconds else _Silent(self)
        self._connections = connections
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        task = asyncio.create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(self._make, "127.0.0.1", self._port)
        except OSError:
            await asyncio.sleep(self.pause_seconds or 1)
            self.begin()

    async def run(self) -> None:
        for _ in range(self._connections):
            self.begin()
            await asyncio.sleep(0.0005)
        print("attacking", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(self.open, self.closed, flush=True)


def main() -> None:
    """Attack a port with so many connections until standard input ends.

    Each sends a byte of a head every so many seconds, and comes again when it is closed; with 0 seconds it sends nothing.
    """
    port, connections, pause_seconds = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_Attack(int(port), int(connections), float(pause_seconds)).run())


if __name__ == "__main__":
    main()
