"""The whole app in this process, over real sockets, against the sandbox."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from forwarder.app import App
from forwarder.sandbox.faults import Faults
from forwarder.sandbox.server import Sandbox
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
    ShutdownSettings,
)

KEY = "integration-test-key"
NUMBERS = ("9007199254740993", "18446744073709551617", "123456789012345678901234567890", "0.1", "1e22", "1.50", "-0.0")
LINES = {"Content-Type": "application/x-ndjson"}


@asynccontextmanager
async def running(
    faults: Faults | None = None,
    key: str = KEY,
    *,
    directory: Path | None = None,
    unix_socket: Path | None = None,
    max_body_bytes: int = 1 << 20,
    max_parsing_bytes: int = 8 << 20,
) -> AsyncIterator[tuple[App, Sandbox, str]]:
    """Run a sandbox and an app in front of it; yield both and the address of the app's intake.

    With a directory its buffer is there, on disk, and else in memory.
    """
    buffer = BufferSettings(kind="memory") if directory is None else BufferSettings(directory=str(directory))
    sandbox = Sandbox(key=KEY, faults=faults or Faults())
    await sandbox.open()
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(key)),
            intake=IntakeSettings(
                http=Address("127.0.0.1", 0),
                unix_socket=None if unix_socket is None else str(unix_socket),
                max_body_bytes=max_body_bytes,
                max_parsing_bytes=max_parsing_bytes,
            ),
            buffer=buffer,
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
            delivery=DeliverySettings(
                retry_initial_seconds=0.01,
                retry_max_seconds=0.05,
                probe_initial_seconds=0.01,
                probe_max_seconds=0.05,
            ),
            shutdown=ShutdownSettings(drain_seconds=5),
        )
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    try:
        yield app, sandbox, f"http://{app.addresses['http']}"
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await app.close()
        await sandbox.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


def event_text(attributes: str, *, product: str = "x") -> str:
    return (
        f'{{ "name":"Add To Cart", "customerId" : "c-\\u00e9-{product}","time":1700000000000,'
        f' "attributes": {attributes}}}'
    )


async def test_every_digit_arrives_as_it_was_written_alone_in_an_array_and_in_lines() -> None:
    attributes = "{" + ", ".join(f'"n{index}" :{text}' for index, text in enumerate(NUMBERS)) + "}"
    alone, first, second, third, fourth = (event_text(attributes, product=str(number)) for number in range(5))
    async with running() as (app, sandbox, base), aiohttp.ClientSession() as http:
        for path, body, headers in (
            ("/track/event", alone, {}),
            ("/v1/events", f" [\n{first} ,\t{second}\r\n]\n", {}),
            ("/v1/events", f"{third}\r\n\n  {fourth}", LINES),
        ):
            async with http.post(base + path, data=body.encode(), headers=headers) as response:
                assert response.status in (200, 202), await response.text()
        await until(lambda: app.buffer.ledger().delivered == 5, "all are delivered")
        raw = sorted(stored.raw.decode() for stored in sandbox.stored())
    assert raw == sorted([alone, first, second, third, fourth])


async def test_a_bad_element_is_refused_alone_and_its_neighbours_arrive() -> None:
    good = [event_text("{}", product=name) for name in ("before", "after")]
    async with running() as (app, sandbox, base), aiohttp.ClientSession() as http:
        body = f'[{good[0]}, {{"name": 5}}, {good[1]}]'.encode()
        async with http.post(f"{base}/v1/events?ids=true", data=body) as response:
            answer = await response.json()
        assert response.status == 202
        assert answer["accepted"] == 2
        assert [each["index"] for each in answer["rejected"]] == [1]
        assert answer["ids"][1] is None
        await until(lambda: app.buffer.ledger().delivered == 2, "both are delivered")
        assert {stored.raw.decode() for stored in sandbox.stored()} == set(good)


@pytest.mark.parametrize("faults", [Faults(fail_rate=1, fail_status=422), Faults(success_false_rate=1)])
async def test_an_event_that_growlytics_rejects_becomes_a_dead_letter_and_a_log_line(
    faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with running() as (app, sandbox, base), aiohttp.ClientSession() as http:
            for number in range(2):
                async with http.post(
                    f"{base}/track/event", data=event_text("{}", product=str(number)).encode()
                ) as response:
                    assert response.status == 200
                await until(lambda: not app.buffer.occupancy().events, "its fate is decided")
                sandbox.faults = faults
            ledger = app.buffer.ledger()
            assert (ledger.accepted, ledger.delivered, ledger.dead_lettered["rejected"]) == (2, 1, 1)
            assert app.buffer.dead_letters.events == 1
            assert ledger.unaccounted == 0
            assert len(sandbox.stored()) == 1
    rejected = [record for record in caplog.records if "rejected" in record.message]
    assert rejected[0].__dict__["fields"]["name"] == "Add To Cart"


async def test_a_wrong_key_burns_no_event_and_when_it_is_mended_all_arrive() -> None:
    async with running(key="another-key") as (app, sandbox, base), aiohttp.ClientSession() as http:
        for number in range(5):
            async with http.post(
                f"{base}/track/event", data=event_text("{}", product=str(number)).encode()
            ) as response:
                assert response.status == 200
        await until(lambda: sandbox.counters()["unauthorized"] >= 10, "others were tried after the first")
        assert app.buffer.ledger().buffered == 5
        sandbox.key = "another-key"
        await until(lambda: app.buffer.ledger().delivered == 5, "all are delivered")


async def test_connections_to_growlytics_are_kept_alive_and_used_again() -> None:
    async with running(Faults(latency_ms=20)) as (app, sandbox, base), aiohttp.ClientSession() as http:
        body = "[" + ",".join(event_text("{}", product=str(number)) for number in range(2000)) + "]"
        async with http.post(f"{base}/v1/events", data=body.encode()) as response:
            assert response.status == 202
        await until(lambda: app.buffer.ledger().delivered == 2000, "all are delivered")
        counters = sandbox.counters()
    assert counters["connections_opened"] <= 64
    assert 1 < counters["max_in_flight"] <= 64


async def test_the_status_shows_state_ledger_buffer_and_delivery_without_any_payload(tmp_path: Path) -> None:
    async with running(Faults(down=True)) as (app, _, base), aiohttp.ClientSession() as http:
        async with http.post(f"{base}/track/event", data=event_text('{"Card": "4111"}').encode()) as response:
            assert response.status == 200
        async with http.get(f"{base}/v1/status") as response:
            text = await response.text()
        status = json.loads(text)
        app.force.set()
    assert status["state"] == "ready"
    assert status["ledger"]["since_start"]["accepted"] == status["ledger"]["since_start"]["buffered"] == 1
    assert sum(status["buffer"]["events"].values()) == 1
    assert status["delivery"]["max_concurrency"] == 64
    assert "4111" not in text


async def test_the_large_bodies_of_all_listeners_take_at_most_four_times_what_may_be_parsed(tmp_path: Path) -> None:
    almost = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    almost += b"Content-Length: 100000\r\n\r\n" + bytes(99_999)
    path = tmp_path / "socket"
    async with running(unix_socket=path, max_body_bytes=100_000, max_parsing_bytes=100_000) as (app, _, _):
        host, _, port = app.addresses["http"].rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        opened += [await asyncio.open_unix_connection(path) for _ in range(3)]
        for _, writer in opened:
            writer.write(almost)
            await writer.drain()
        answers = [asyncio.create_task(reader.readline()) for reader, _ in opened]
        first, others = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        assert [answer.result() for answer in first] == [b"HTTP/1.1 429 Too Many Requests\r\n"]
        for answer, (_, writer) in zip(answers, opened, strict=True):
            if answer in others:
                writer.write(b"\0")
        async with asyncio.timeout(30):
            assert await asyncio.gather(*others) == [b"HTTP/1.1 400 Bad Request\r\n"] * 4
        for _, writer in opened:
            writer.close()


async def test_the_states_of_buffered_events_add_up_to_how_many_there_are_at_every_moment(tmp_path: Path) -> None:
    async with running(Faults(latency_ms=1), directory=tmp_path) as (app, _, base), aiohttp.ClientSession() as http:
        body = "[" + ",".join(event_text("{}", product=str(number)) for number in range(50)) + "]"
        async with http.post(f"{base}/v1/events", data=body.encode()) as response:
            assert response.status == 202
        while (buffered := app.buffer.ledger().buffered) > 0:
            states = app.status()["buffer"]["events"]  # type: ignore[index]  # JSON
            assert sum(states.values()) == buffered, states
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
async def test_a_stop_while_it_opens_ends_that_and_leaves_the_directory_free(tmp_path: Path, turns: int) -> None:
    settings = Settings(
        growlytics=GrowlyticsSettings(api_key=Secret(KEY)),
        intake=IntakeSettings(http=Address("127.0.0.1", 0)),
        buffer=BufferSettings(directory=str(tmp_path)),
        admin=AdminSettings(http=Address("127.0.0.1", 0)),
    )
    app = App(settings)
    opening = asyncio.create_task(app.open())
    for _ in range(turns):
        await asyncio.sleep(0)
    app.stop.set()
    may_serve = await opening
    assert "http" not in app.addresses or may_serve
    assert await app.close() == (0, 0)
    again = App(settings)
    try:
        assert await again.open()
    finally:
        await again.close()


async def test_a_stop_before_it_opens_accepts_nothing(tmp_path: Path) -> None:
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0)),
            buffer=BufferSettings(directory=str(tmp_path)),
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
        )
    )
    app.stop.set()
    assert not await app.open()
    assert app.addresses.keys() <= {"admin"}
    assert await app.close() == (0, 0)
    assert app.ledger()["accepted"] == 0


async def test_a_file_system_elsewhere_that_does_not_answer_keeps_the_start_waiting_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "buffer.db"
    file.touch()
    asked, answers = threading.Event(), threading.Event()
    real = os.open

    def hang(path: str | Path, *options: int, **more: int) -> int:
        if path == file:
            asked.set()
            answers.wait(30)
        return real(path, *options, **more)

    monkeypatch.setattr("os.open", hang)
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0)),
            buffer=BufferSettings(kind="memory", directory=str(tmp_path)),
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
        )
    )
    try:
        async with asyncio.timeout(20):
            assert await app.open()
        assert asked.is_set()
    finally:
        answers.set()
        await app.close()
