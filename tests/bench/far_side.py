"""A cheap stand-in for Growlytics, as a process: it counts requests and answers all alike, or none.

It costs a fraction of the sandbox, so that what is measured is the daemon. It binds its port at once, but refuses
connections until it is told to `answer` or to `withhold`; a command is a line on standard input, and the reply to each,
also to `count`, is how many requests were answered so far.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from tests.bench.helpers import fast_loop, line_of, running
from tests.bench.machine import OTHER_CORE

_BODY = b'{"success":true}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_LENGTH = b"\r\ncontent-length: "


class _Far:
    def __init__(self) -> None:
        self.answered = 0
        self.withholding = False
        self._waiting: list[asyncio.Transport] = []

    def asked(self, transport: asyncio.Transport) -> None:
        if self.withholding:
            self._waiting.append(transport)
        else:
            self.answered += 1
            transport.write(ANSWER)

    def go_on(self, *, withholding: bool) -> None:
        self.withholding = withholding
        if not withholding:
            waiting, self._waiting = self._waiting, []
            for transport in waiting:
                if not transport.is_closing():
                    self.asked(transport)


class _Connection(asyncio.Protocol):
    def __init__(self, far: _Far) -> None:
        self._far = far
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head, blank, body = received.partition(b"\r\n\r\n")
        if blank:
            length = int(head[head.lower().index(_LENGTH) + len(_LENGTH) :].partition(b"\r")[0])
            assert len(body) <= length, "nobody pipelines"
            if len(body) == length:
                self._received = b""
                self._far.asked(self._transport)
                return
        self._received = received


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    far = _Far()
    server = await loop.create_server(lambda: _Connection(far), "127.0.0.1", port, start_serving=False)
    host, port = server.sockets[0].getsockname()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(f"http://{host}:{port}/track/event", flush=True)
    async for command in commands:
        if command != b"count\n":
            far.go_on(withholding=command == b"withhold\n")
            await server.start_serving()
        print(far.answered, flush=True)


@dataclass
class FarSide:
    """The running process."""

    process: asyncio.subprocess.Process
    url: str

    async def answer(self) -> int:
        """Answer what waits and what comes; return how many requests were answered before."""
        return await self._tell("answer")

    async def withhold(self) -> int:
        """Answer nothing from now on."""
        return await self._tell("withhold")

    async def count(self) -> int:
        return await self._tell("count")

    async def _tell(self, command: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        return int(await line_of(self.process))


@asynccontextmanager
async def running_far_side(port: int = 0) -> AsyncIterator[FarSide]:
    """Run it, on a port of its own choice unless one is given."""
    async with running("far_side", str(port), core=OTHER_CORE) as process:
        yield FarSide(process, await line_of(process))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(_serve(int(sys.argv[1])))
