"""More than the daemon can take at a time: of large batches, of bodies that end early, of connections that say nothing.

Each is measured (tests/bench/bounds.py) and tested (test_crowds.py). Run with -m, this is the process that posts batches.
"""

import asyncio
import gzip
import json
import os
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from tests.system.attackers import attacking
from tests.system.processes import START_SECONDS, Daemon, example_event, until

MIB = 1 << 20
BATCHES = 70
BATCHES_SECONDS = 30.0
KINDS = ("gzip", "plain", "chunked")
"""How a batch is sent; chunked, it is not compressed, and its length is not told."""
ROOM_FOR_BATCHES: dict[str, object] = {"buffer__max_events": 1_000_000, "buffer__max_bytes": 1 << 30}

BODIES = 300
UNTIL_THEN: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda body: body[: len(body) // 2],
    "all but the last byte": lambda body: body[:-1],
}
"""How much of a body comes before its client is gone."""

CONNECTIONS = 1300
DESCRIPTORS = 1024
LIMITED = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh")
"""Goes before a command that is to have no more descriptors than that: the soft limit and the hard one."""
TRIES = 20
_TRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


# Batches


@dataclass
class Posted:
    """What became of batches that were posted all at once, by clients that obey `Retry-After`."""

    accepted: int = 0
    """Which got 202, in the end."""
    busy: int = 0
    """How often one was to come again."""
    broken: int = 0
    """How often a connection ended before its answer; that client came again after a second, too."""
    refused: list[str] = field(default_factory=list)
    """What else was answered, instead."""
    seconds: float = 0


def large_batch() -> bytes:
    """Return a batch of documented example events, of 1 MiB or a little less."""
    events: list[str] = []
    length = 1
    for number in range(MIB):
        events.append(json.dumps(example_event(number), separators=(",", ":")))
        length += len(events[-1]) + 1
        if length > MIB:
            break
    return f"[{','.join(events[:-1])}]".encode()


@asynccontextmanager
async def posting_batches(
    daemon: Daemon, kind: str, *, batches: int = BATCHES
) -> "AsyncIterator[asyncio.Task[Posted]]":
    """Post so many batches of 1 MiB at once over TCP, of one of the `KINDS`, from a process of its own.

    They have just begun when this yields the task that returns what became of them, which it does within 30 s.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, f"{daemon.base}/v1/events", kind, str(batches)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    reading = process.stdout

    async def what_came_of_them() -> Posted:
        async with asyncio.timeout(BATCHES_SECONDS + _TRY_SECONDS):
            return Posted(**json.loads(await reading.readline()))

    try:
        async with asyncio.timeout(START_SECONDS):
            assert await reading.readline() == b"posting\n"
        async with asyncio.TaskGroup() as tasks:
            yield tasks.create_task(what_came_of_them())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _post_all(url: str, kind: str, batches: int) -> Posted:
    posted, body = Posted(), large_batch()
    headers = {"Content-Type": "application/json"}
    if kind == "gzip":
        body = gzip.compress(body, 6)
        headers["Content-Encoding"] = "gzip"
    started = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as http:

        async def data() -> AsyncIterator[bytes]:
            for first in range(0, len(body), 1 << 16):
                yield body[first : first + (1 << 16)]

        clients = [
            asyncio.create_task(_post_until_accepted(http, url, data if kind == "chunked" else lambda: body, posted))
            for _ in range(batches)
        ]
        print("posting", flush=True)
        _, late = await asyncio.wait(clients, timeout=BATCHES_SECONDS)
        posted.seconds = time.monotonic() - started
        for client in late:
            client.cancel()
        for client in clients:
            with suppress(asyncio.CancelledError):
                await client
    return posted


async def _post_until_accepted(
    http: aiohttp.ClientSession, url: str, data: Callable[[], AsyncIterator[bytes] | bytes], posted: Posted
) -> None:
    while True:
        pause_seconds = 1.0
        try:
            async with http.post(url, data=data()) as response:
                answer = await response.text()
        except aiohttp.ClientError:
            posted.broken += 1
        else:
            if response.status == 202:
                posted.accepted += 1
                return
            if "Retry-After" not in response.headers:
                posted.refused.append(answer)
                return
            posted.busy += 1
            pause_seconds = float(response.headers["Retry-After"])
        await asyncio.sleep(pause_seconds)


@asynccontextmanager
async def posting_steadily(daemon: Daemon, *, per_second: int = 50) -> AsyncIterator[list[float]]:
    """Post single events at a fixed rate meanwhile, whatever the answers take; fill in the seconds that each took."""
    taken: list[float] = []

    async def post(number: int) -> None:
        started = time.monotonic()
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
            assert response.status == 200, await response.text()
        taken.append(time.monotonic() - started)

    async def post_on() -> None:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as posts:
            number = 0
            while not ended.is_set():
                posts.create_task(post(number))
                number += 1
                await asyncio.sleep(max(0.0, begin + number / per_second - time.monotonic()))

    ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(post_on())
        yield taken
        ended.set()


# Bodies that end early


def send_in_part(daemon: Daemon, until_then: str, *, is_reset: bool, bodies: int = BODIES) -> Iterator[None]:
    """Send a part of a batch of 1 MiB and close or reset the connection, again and again; each time yield after it."""
    body = large_batch()
    head = f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    data = head.encode() + UNTIL_THEN[until_then](body)
    for _ in range(bodies):
        with socket.create_connection(address_of(daemon.base), timeout=30) as connection:
            connection.sendall(data)
            if is_reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        yield


async def growth_by_bodies_in_part(daemon: Daemon, until_then: str, *, is_reset: bool) -> int:
    """Send many bodies in part, one after the other; return by how many bytes the daemon's memory grew at most."""
    await _post_one(daemon)
    daemon.forget_peak()
    before = daemon.rss_bytes()
    parts = send_in_part(daemon, until_then, is_reset=is_reset)
    while await asyncio.to_thread(next, parts, True) is None:
        await _post_one(daemon)  # so that the daemon has had its turn at what came before
    return daemon.peak_bytes() - before


async def _post_one(daemon: Daemon) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(0)) as response:
        assert response.status == 200, await response.text()


def address_of(base: str) -> tuple[str, int]:
    host, _, port = base.removeprefix("http://").rpartition(":")
    return host, int(port)


# Silent connections


@dataclass
class Served:
    """How many of `TRIES` were served beside silent connections."""

    posts: int = 0
    """Each on a new connection."""
    lives: int = 0
    """Of `/livez`, likewise."""
    delivered: int = 0
    silent: int = 0
    """Connections that were made to say nothing; the rest waited to be accepted."""


async def serve_beside_silence(daemon: Daemon, base: str, delivered: Callable[[], Awaitable[int]]) -> Served:
    """Connect so often to the listener of `base`, say nothing, and see what a fresh daemon does meanwhile."""
    served = Served()

    async def attempt(number: int) -> None:
        await asyncio.sleep(number * _PAUSE_SECONDS)
        is_posted = await _is_answered("POST", f"{daemon.base}/track/event", json=example_event(number))
        served.posts += is_posted
        is_alive = await _is_answered("GET", f"{daemon.admin}/livez")
        served.lives += is_alive

    async def are_delivered() -> bool:
        served.delivered = await delivered()
        return served.delivered >= TRIES

    async with attacking(address_of(base)[1], connections=CONNECTIONS) as attacked:
        await asyncio.gather(*map(attempt, range(TRIES)))
        with suppress(AssertionError):
            await until(are_delivered, "all are delivered", seconds=_TRY_SECONDS)
    served.silent = attacked.still_open + attacked.closed
    return served


async def _is_answered(method: str, url: str, **options: object) -> bool:
    """Ask on a new connection."""
    timeout = aiohttp.ClientTimeout(total=_TRY_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.request(method, url, **options) as response,  # type: ignore[arg-type] # any of its options
        ):
            await response.read()
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


if __name__ == "__main__":
    os.nice(10)  # what others wait for beside them is to be due to the daemon, not to this
    print(json.dumps(asdict(asyncio.run(_post_all(sys.argv[1], sys.argv[2], int(sys.argv[3]))))))
