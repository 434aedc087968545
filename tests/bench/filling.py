"""Filling a daemon's buffer fast: batches over its Unix socket."""

import asyncio
from collections.abc import Iterator

import aiohttp

from tests.bench.events import CUSTOMERS, event
from tests.system.processes import Daemon

BATCH = 1000
_POSTS = 4
_HEADERS = {"Content-Type": "application/x-ndjson"}


async def fill(daemon: Daemon, events: int, *, customers: int = CUSTOMERS, attributes: int = 7) -> None:
    """Have a multiple of `BATCH` events accepted."""
    assert events % BATCH == 0
    batches = iter(range(0, events, BATCH))
    connector = aiohttp.UnixConnector(str(daemon.unix_socket))
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as posts:
        for _ in range(_POSTS):
            posts.create_task(_post(http, batches, customers, attributes))


async def _post(http: aiohttp.ClientSession, batches: Iterator[int], customers: int, attributes: int) -> None:
    for first in batches:
        body = b"\n".join(event(first + n, customers=customers, attributes=attributes) for n in range(BATCH))
        async with http.post("http://daemon/v1/events", data=body, headers=_HEADERS) as response:
            assert response.status == 202, await response.text()
            assert (await response.json())["accepted"] == BATCH
