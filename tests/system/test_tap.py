"""Taps of the real daemon, read over its control socket: what they show, to whom, and what they cost."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.observing.tap import IDLE_SECONDS, MAX_TAPS
from tests.fakes.other_users import NEEDS_ROOT, User, open_directory
from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

NOWHERE = "http://127.0.0.1:1/track/event"
SECRET = "YOUR_APP_CUSTOMER_ID"
TOKEN = "s3cret-token-of-operators"


@dataclass
class Reader:
    """Reads a tap until it ends."""

    control: aiohttp.ClientSession
    tap: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    lost: int = 0
    ended: str | None = None
    texts: list[str] = field(default_factory=list)

    async def read(self) -> None:
        async with self.control.get(f"/v1/tap/{self.tap}") as answer:
            text = await answer.text()
            assert answer.status == 200, text
        content = json.loads(text)
        self.texts.append(text)
        self.lines += content["lines"]
        self.lost += content["lost"]
        self.ended = content["ended"]

    async def read_on(self) -> None:
        while self.ended is None:
            await self.read()

    def seen(self, event_id: str) -> list[str]:
        return [line["outcome"] for line in self.lines if line["id"] == event_id]


@asynccontextmanager
async def controlling(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(daemon.ready["control"]))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as control:
        yield control


async def opened(control: aiohttp.ClientSession, **request: object) -> Reader:
    async with control.post("/v1/tap", json=request) as answer:
        assert answer.status == 200, await answer.text()
        return Reader(control, (await answer.json())["id"])


@asynccontextmanager
async def tapping(daemon: Daemon, **request: object) -> AsyncIterator[Reader]:
    """Read a tap while the block runs, then close it."""
    async with controlling(daemon) as control:
        reader = await opened(control, **request)
        reading = asyncio.create_task(reader.read_on())
        try:
            yield reader
            async with control.post("/v1/tap/close", json={"id": reader.tap}) as answer:
                assert answer.status == (404 if reader.ended else 200)
            await reading
        finally:
            reading.cancel()


def messages(daemon: Daemon) -> list[str]:
    return [line["message"] for line in daemon.lines]


async def posted(daemon: Daemon, number: int = 1, **more: object) -> str:
    async with daemon.http.post(f"{daemon.base}/track/event", json={**example_event(number), **more}) as answer:
        assert answer.status == 200, await answer.text()
        event_id: str = (await answer.json())["id"]
        return event_id


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_it_shows_each_step_of_an_event_with_its_cause_and_no_value_of_it(tmp_path: Path, kind: str) -> None:
    settings: dict[str, object] = {"buffer__kind": kind, "control__socket": tmp_path / "control.sock"}
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **settings) as daemon:
        async with tapping(daemon) as reader:
            good = await posted(daemon)
            await until(lambda: reader.seen(good) == ["accepted", "delivered"], "the tap shows both")
            await sandbox.faults(fail_rate=1, fail_status=503)
            late = await posted(daemon, 2)
            await until(lambda: "retryable" in reader.seen(late), "the tap shows the failed attempt")
            await sandbox.faults(fail_rate=0)
            await until(lambda: reader.seen(late)[-1] == "delivered", "the tap shows that it was delivered then")
            await sandbox.faults(fail_rate=1, fail_status=422)
            bad = await posted(daemon, 3)
            await until(lambda: reader.seen(bad)[-1:] == ["dead_letter"], "the tap shows that it is a dead letter")
            await sandbox.use_key("another")
            await sandbox.faults(fail_rate=0)
            blocked = await posted(daemon, 4)
            await until(lambda: "blocked" in reader.seen(blocked), "the tap shows that we are refused")
        assert reader.ended == "closed"
        assert reader.lost == 0
    first = next(line for line in reader.lines if line["outcome"] == "retryable")
    assert first["name"] == "Add To Cart"
    assert (first["reason"], first["failure"]["status"], first["attempt"]) == ("status_5xx", 503, 1)
    assert first["failure"]["host"] == sandbox.base.removeprefix("http://")
    last = next(line for line in reader.lines if line["outcome"] == "dead_letter")
    assert (last["id"], last["reason"]) == (bad, "rejected")
    assert "rejected" in reader.seen(bad)
    assert SECRET not in "".join(reader.texts)
    assert "BagPack" not in "".join(reader.texts)
    assert not any("tap" in line["message"] for line in daemon.lines)


async def test_with_payloads_it_shows_the_values_and_the_log_says_who_watched_them(tmp_path: Path) -> None:
    async with (
        running_sandbox("--fail-rate=1", "--fail-status=422") as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
    ):
        async with tapping(daemon, payloads=True) as reader:
            event_id = await posted(daemon)
            await until(lambda: "rejected" in reader.seen(event_id), "the tap shows the attempt")
        await until(lambda: "a tap with payloads has ended" in messages(daemon), "the log says so")
    rejected = next(line for line in reader.lines if line["outcome"] == "rejected")
    assert rejected["customer"] == example_event(1)["customerId"]
    assert rejected["event"] == example_event(1)
    assert "the sandbox was told to fail" in rejected["answer"]
    opened_line, ended_line = (line for line in daemon.lines if "tap" in line["message"])
    assert opened_line["message"] == "a tap with payloads was opened"
    assert opened_line["user"] == ended_line["user"] == os.geteuid()
    assert ended_line["lines"] == len(reader.lines)
    assert SECRET not in json.dumps((opened_line, ended_line))


async def test_an_event_that_makes_room_is_shown_as_dropped(tmp_path: Path) -> None:
    settings = {"buffer__max_events": 10, "buffer__when_full": "drop_oldest"}
    async with running_daemon(tmp_path, NOWHERE, **settings) as daemon, tapping(daemon) as reader:
        ids = [await posted(daemon, number) for number in range(20)]
        await until(lambda: Counter(line["outcome"] for line in reader.lines)["dropped"] >= 10, "it shows them")
        dropped = [line for line in reader.lines if line["outcome"] == "dropped"]
        assert {line["reason"] for line in dropped} == {"drop_oldest"}
        assert {line["id"] for line in dropped} <= set(ids)


async def test_only_what_was_asked_for_is_shown(tmp_path: Path) -> None:
    customer = "a very long id " * 100
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        async with tapping(daemon, names=["Bought"]) as bought, tapping(daemon, customers=[customer]) as one:
            first = await posted(daemon, name="Bought")
            second = await posted(daemon, customerId=customer)
            await until(lambda: bought.lines and one.lines, "both show something")
        assert {line["id"] for line in bought.lines} == {first}
        assert {line["id"] for line in one.lines} == {second}


async def test_one_tap_at_a_hundred_events_a_second_loses_none(tmp_path: Path) -> None:
    events, rate = 500, 100
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        async with tapping(daemon) as reader:
            loop = asyncio.get_running_loop()
            began, ids = loop.time(), []
            for number in range(events):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                ids.append(await posted(daemon, number))
            await until(lambda: len(reader.lines) >= 2 * events, "the tap shows two lines for each event")
        assert reader.lost == 0
        assert Counter(line["id"] for line in reader.lines) == dict.fromkeys(ids, 2)
        assert all(reader.seen(event_id) == ["accepted", "delivered"] for event_id in ids[::50])


async def test_a_reader_that_hangs_loses_its_tap_and_others_may_have_it(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon, controlling(daemon) as control:
        for _ in range(MAX_TAPS):
            await opened(control)
        for _ in range(1000):
            async with control.post("/v1/tap", json={}) as answer:
                assert answer.status == 429
                assert (await answer.json())["code"] == "too_many_taps"
                assert answer.headers["Retry-After"] == "10"
        metrics = await daemon.metrics()
        assert metrics['growlytics_forwarder_http_requests_refused_total{reason="too_many_taps"}'] == 1000

        async def is_open() -> bool:
            async with control.post("/v1/tap", json={}) as answer:
                return answer.status == 200

        await until(is_open, "there is room for another", seconds=IDLE_SECONDS + 30)


async def test_it_goes_on_while_the_daemon_drains_and_is_told_of_the_end(tmp_path: Path) -> None:
    settings = {"shutdown__drain_seconds": 60, "delivery__retry_max_seconds": 1, "delivery__probe_max_seconds": 1}
    async with running_sandbox("--fail-rate=1") as sandbox, running_daemon(tmp_path, sandbox.url, **settings) as daemon:
        async with controlling(daemon) as control:
            reader = await opened(control)
            event_id = await posted(daemon)
            daemon.process.send_signal(signal.SIGTERM)
            reading = asyncio.create_task(reader.read_on())

            async def drains() -> bool:
                async with control.get("/v1/status") as answer:
                    return bool((await answer.json())["state"] == "draining")

            await until(drains, "it drains")
            async with control.post("/v1/tap", json={}) as answer:
                assert answer.status == 503
            await sandbox.faults(fail_rate=0)
            await until(reading.done, "the tap has ended")
            await reading
        assert reader.ended == "stopping"
        assert reader.seen(event_id)[-1] == "delivered"
        assert await daemon.process.wait() == 0


async def test_it_is_neither_on_tcp_with_a_token_nor_on_the_apps_socket(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, intake__token=TOKEN) as daemon:
        app = aiohttp.UnixConnector(str(daemon.unix_socket))
        async with controlling(daemon) as control, aiohttp.ClientSession("http://localhost", connector=app) as over_app:
            tap = (await opened(control)).tap
            for method, path, body in (
                ("POST", "/v1/tap", {}),
                ("GET", f"/v1/tap/{tap}", None),
                ("POST", "/v1/tap/close", {"id": tap}),
            ):
                headers = {"x-growlytics-key": TOKEN}
                async with daemon.http.request(method, daemon.base + path, json=body, headers=headers) as answer:
                    assert answer.status == 404, path
                async with over_app.request(method, path, json=body, headers=headers) as answer:
                    assert answer.status == 404, path
            async with control.get(f"/v1/tap/{tap}") as answer:
                assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", 'send a JSON object like {"payloads": false}'),
        ("[]", 'send a JSON object like {"payloads": false}'),
        ('{"payloads":1}', "payloads must be true or false"),
        ('{"names":"Add To Cart"}', "names must be a list of at most 100 texts"),
        ('{"customers":[1]}', "customers must be a list of at most 100 texts"),
        (json.dumps({"names": ["x"] * 101}), "names must be a list of at most 100 texts"),
    ],
)
async def test_a_request_that_cannot_be_understood_says_what_is_expected(
    tmp_path: Path, body: str, message: str
) -> None:
    async with (
        running_daemon(tmp_path, NOWHERE) as daemon,
        controlling(daemon) as control,
        control.post("/v1/tap", data=body) as answer,
    ):
        assert answer.status == 422
        assert message in (await answer.json())["message"]


@NEEDS_ROOT
async def test_another_operator_cannot_read_it() -> None:
    group = 54400
    with open_directory() as directory:
        config = directory / "config.toml"
        socket = directory / "c.sock"
        config.write_text(f"[control]\nsocket = '{socket}'\ngroup = {group}\n")
        async with running_daemon(directory, NOWHERE, config=config) as daemon, controlling(daemon) as control:
            member, another = User(groups=(group,)), User(user=54329, groups=(group,))
            ((status, _, body),) = await member.ask_closely(socket, ("POST", "/v1/tap", '{"payloads":true}'))
            assert status == 200
            read = ("GET", f"/v1/tap/{json.loads(body)['id']}", "")
            assert [status for status, _ in await another.ask(socket, read)] == [404]
            async with control.get(read[1]) as answer:
                assert answer.status == 404, "not even root reads what the log says another user watches"
            assert [status for status, _ in await member.ask(socket, read)] == [200]
            opened_by = [line["user"] for line in daemon.lines if line["message"] == "a tap with payloads was opened"]
            assert opened_by == [member.user]
