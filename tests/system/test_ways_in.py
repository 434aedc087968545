"""The same events through every way in, with the installed daemon: they arrive byte for byte, and the ledger balances."""

import asyncio
import gzip
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

EVENTS = 1000
BATCH = 100
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


def bodies() -> list[bytes]:
    """Return the events, written as no encoder of ours would."""
    texts = (json.dumps(example_event(number), ensure_ascii=number % 2 == 0) for number in range(EVENTS))
    return [text.replace('"Price": 4531', '"Price":4531.00').encode() for text in texts]


def sockets_left(directory: Path) -> list[Path]:
    return list(directory.glob("*.sock"))


async def post_each(daemon: Daemon, events: Sequence[bytes], *, unix: bool) -> None:
    connector = aiohttp.UnixConnector(str(daemon.unix_socket)) if unix else aiohttp.TCPConnector()
    base = "http://localhost" if unix else daemon.base
    async with aiohttp.ClientSession(connector=connector) as http:
        for body in events:
            async with http.post(f"{base}/track/event", data=body, headers=JSON) as response:
                assert response.status == 200, await response.text()


async def over_tcp(daemon: Daemon, events: Sequence[bytes]) -> None:
    await post_each(daemon, events, unix=False)


async def over_unix(daemon: Daemon, events: Sequence[bytes]) -> None:
    await post_each(daemon, events, unix=True)


async def post_batches(
    daemon: Daemon, events: Sequence[bytes], join: Callable[[Sequence[bytes]], bytes], headers: dict[str, str]
) -> None:
    for first in range(0, len(events), BATCH):
        body = join(events[first : first + BATCH])
        async with daemon.http.post(f"{daemon.base}/v1/events", data=body, headers=headers) as response:
            assert response.status == 202, await response.text()
            assert await response.json() == {"accepted": BATCH, "duplicates": 0, "rejected": []}


async def as_arrays(daemon: Daemon, events: Sequence[bytes]) -> None:
    await post_batches(daemon, events, lambda some: b"[" + b" , ".join(some) + b"]", JSON)


async def as_lines(daemon: Daemon, events: Sequence[bytes]) -> None:
    await post_batches(daemon, events, b"\n".join, LINES)


async def compressed(daemon: Daemon, events: Sequence[bytes]) -> None:
    await post_batches(
        daemon, events, lambda some: gzip.compress(b"\r\n".join(some)), LINES | {"Content-Encoding": "gzip"}
    )


async def to_the_lines_socket(daemon: Daemon, events: Sequence[bytes]) -> None:
    reader, writer = await asyncio.open_unix_connection(daemon.unix_socket.with_name("lines.sock"))
    writer.write(b"\n".join(events))
    writer.write_eof()
    assert await reader.read() == b"", "nothing is answered, and the connection closed when all is taken"
    writer.close()
    await writer.wait_closed()


async def to_the_datagram_socket(daemon: Daemon, events: Sequence[bytes]) -> None:
    def send() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(daemon.unix_socket.with_name("datagram.sock")))
            for body in events:
                sender.send(body)

    await asyncio.to_thread(send)


WAYS: tuple[Callable[[Daemon, Sequence[bytes]], Awaitable[None]], ...] = (
    over_tcp,
    over_unix,
    as_arrays,
    as_lines,
    compressed,
    to_the_lines_socket,
    to_the_datagram_socket,
)
INTAKES = {"http": 4, "unix": 1, "lines": 1, "datagram": 1}
"""How many of the ways end at which intake."""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_same_events_arrive_by_every_way(tmp_path: Path, loop: str) -> None:
    sent = bodies()
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            loop=loop,
            intake__lines_socket=tmp_path / "lines.sock",
            intake__datagram_socket=tmp_path / "datagram.sock",
        ) as daemon,
    ):
        assert daemon.ready["lines"] == str(tmp_path / "lines.sock")
        assert daemon.ready["datagram"] == str(tmp_path / "datagram.sock")
        await asyncio.gather(*(way(daemon, sent) for way in WAYS))
        total = EVENTS * len(WAYS)

        async def all_delivered() -> bool:
            ledger = await daemon.ledger()
            return bool(ledger["received"] == total and not ledger["buffered"])

        await until(all_delivered, "all is delivered")
        ledger = await daemon.ledger()
        assert (ledger["accepted"], ledger["delivered"]) == (total, total)
        assert (ledger["rejected"], ledger["duplicates"], ledger["unaccounted"]) == (0, 0, 0)
        metrics = await daemon.metrics()
        for intake, ways in INTAKES.items():
            series = f'growlytics_forwarder_events_accepted_total{{intake="{intake}"}}'
            assert metrics[series] == ways * EVENTS
        arrived = Counter(body.encode() for body in await sandbox.raw())
        assert arrived == dict.fromkeys(sent, len(WAYS))
        assert await daemon.stop() == 0
        assert sockets_left(tmp_path) == []


async def test_refusals_of_every_way_are_counted_alike(tmp_path: Path) -> None:
    bad = b'{"customerId":"c","name":"","time":1700000000000,"attributes":{}}'
    async with (
        running_sandbox() as sandbox,
        running_daemon(
            tmp_path,
            sandbox.url,
            intake__lines_socket=tmp_path / "lines.sock",
            intake__datagram_socket=tmp_path / "datagram.sock",
        ) as daemon,
    ):
        async with daemon.http.post(f"{daemon.base}/track/event", data=bad, headers=JSON) as response:
            assert response.status == 422
            errors = (await response.json())["errors"]
        reader, writer = await asyncio.open_unix_connection(tmp_path / "lines.sock")
        writer.write(b"\n" + bad + b"\n")
        assert json.loads(await reader.readline()) == {"line": 2, "errors": errors}
        writer.close()
        await to_the_datagram_socket(daemon, [bad])

        async def counted() -> bool:
            metrics = await daemon.metrics()
            return metrics['growlytics_forwarder_events_rejected_total{reason="empty"}'] == 3

        await until(counted, "all three are counted")
        metrics = await daemon.metrics()
        for intake in ("http", "lines", "datagram"):
            assert metrics[f'growlytics_forwarder_events_received_total{{intake="{intake}"}}'] == 1
        assert (await daemon.ledger())["unaccounted"] == 0
