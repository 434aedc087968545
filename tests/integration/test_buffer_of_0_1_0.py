"""What version 0.1.0 left in the buffer's directory is opened, delivered, kept and accounted for by this version.

If one of these fails, whoever installs this version loses something. Mend the code, not the test, and never the files.
"""

import asyncio
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from forwarder.app import App
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
)
from tests.fixtures.buffer_0_1_0 import DIRECTORY, Letter, contents, copy_to, copy_with_new_keys_to

HASHES = {
    "buffer.db": "b3b9084f5bf03312316339e499ae9a34f3870148fee0f69337521ab1775d597a",
    "buffer.db-wal": "89c06f4425b0219c0a7111127381d54c9fd298ccd55ae82071de0195894f918c",
    "expected.json": "c40e26132294c008934c499aabe760a5663a019dcf026e48e29c7e31d5f26254",
}
HOW = pytest.mark.parametrize("how", ["stopped", "killed"])
DEADLINE_SECONDS = 20.0


class Daemon:
    """An app on a directory, and all that it posted, by customer."""

    def __init__(self, app: App, http: aiohttp.ClientSession, came: dict[str, list[bytes]]) -> None:
        self.app = app
        self.came = came
        self._http = http

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Ask over the Unix socket, where payloads are shown."""
        async with self._http.request(method, f"http://localhost{path}", **options) as response:
            return response.status, await response.read()

    async def post(self, body: bytes, *, key: str) -> dict[str, Any]:
        """Post an event with a key in its wrapper, as that may be of any characters; return the answer."""
        element = b'[{"idempotency_key":%s,"event":%s}]' % (json.dumps(key).encode(), body)
        _, text = await self.ask("POST", "/v1/events?ids=true", data=element)
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def letters(self) -> list[Letter]:
        found = []
        _, text = await self.ask("GET", "/v1/dead-letters?limit=500")
        for listed in json.loads(text)["dead_letters"]:
            _, text = await self.ask("GET", f"/v1/dead-letters/{listed['id']}")
            body = text[text.index(b'"event":') + len(b'"event":') : -1]
            shown = json.loads(text)
            found.append(Letter(shown["id"], body, shown["reason"], shown["status"], shown["answer"]))
        return found

    async def until_delivered(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.app.buffer.occupancy().events:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Daemon]:
    """Run an app on the directory, against a far side that takes everything."""
    came: defaultdict[str, list[bytes]] = defaultdict(list)

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        came[json.loads(body)["customerId"]].append(body)
        return web.json_response({"success": True})

    far_side = web.Application()
    far_side.router.add_post("/track/event", take)
    runner = web.AppRunner(far_side, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    socket = directory.with_name("intake.sock")
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(
                url=f"http://127.0.0.1:{runner.addresses[0][1]}/track/event", api_key=Secret("key")
            ),
            intake=IntakeSettings(http=None, unix_socket=str(socket)),
            buffer=BufferSettings(directory=str(directory)),
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
        )
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as http:
            yield Daemon(app, http, came)
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await app.close()
        await runner.cleanup()


def by_customer(backlog: Sequence[Sequence[bytes]]) -> dict[str, list[bytes]]:
    return {json.loads(bodies[0])["customerId"]: list(bodies) for bodies in backlog}


def test_the_files_are_those_that_0_1_0_wrote() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DIRECTORY.iterdir()}
    assert {name: found.get(name) for name in HASHES} == HASHES, "read the README there before you change anything"


@HOW
async def test_its_backlog_is_delivered_byte_for_byte_in_each_customers_order_and_balances(
    tmp_path: Path, how: str
) -> None:
    expected = contents(how)
    async with running(copy_to(tmp_path / "buffer", how)) as daemon:
        await daemon.until_delivered()
        assert daemon.came == by_customer(expected.backlog)
        ledger, before = daemon.app.buffer.ledger(), expected.ledger
        number = sum(map(len, expected.backlog))
        assert before["buffered"] == number + len(expected.marked), "or the test shows nothing"
        assert (ledger.received, ledger.accepted) == (before["received"], before["accepted"])
        assert (ledger.duplicates, ledger.rejected) == (before["duplicates"], before["rejected"])
        assert ledger.delivered == before["delivered"] + number
        assert ledger.dead_lettered == before["dead_lettered"] | {
            "ambiguous": before["dead_lettered"]["ambiguous"] + len(expected.marked)
        }
        assert sum(ledger.dropped.values()) == 0
        assert (ledger.buffered, ledger.unaccounted) == (0, 0)
        async with asyncio.timeout(DEADLINE_SECONDS):  # the rows are counted in the background
            while not (text := await metrics_of(daemon)) or "events_unaccounted 0.0" not in text:
                await asyncio.sleep(0.01)
        assert 'events_dropped_total{reason="corrupt"} 0.0' in text


async def metrics_of(daemon: Daemon) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{daemon.app.addresses['admin']}/metrics") as response,
    ):
        return await response.text()


@HOW
async def test_its_dead_letters_are_kept_with_reasons_and_answers_and_what_was_on_the_wire_joins_them(
    tmp_path: Path, how: str
) -> None:
    expected = contents(how)
    async with running(copy_to(tmp_path / "buffer", how)) as daemon:
        letters = await daemon.letters()
        assert letters == [*expected.letters, *expected.marked]
        by_reason = {"rejected": 8, "expired": 3, "ambiguous": 2 + len(expected.marked)}
        async with asyncio.timeout(DEADLINE_SECONDS):  # that version did not count them, so this one does at its start
            while daemon.app.buffer.dead_letters.by_reason != by_reason:
                await asyncio.sleep(0.005)
        await daemon.until_delivered()
        ids = json.dumps({"ids": [letter.id for letter in letters]}).encode()
        status, text = await daemon.ask("POST", "/v1/dead-letters/replay", data=ids)
        assert (status, len(json.loads(text)["replayed"])) == (200, len(letters)), text
        await daemon.until_delivered()
        came = [body for bodies in daemon.came.values() for body in bodies]
        assert sorted(came) == sorted(
            [body for bodies in expected.backlog for body in bodies] + [letter.body for letter in letters]
        )
        assert daemon.app.buffer.ledger().unaccounted == 0
        assert not any(daemon.app.buffer.dead_letters.by_reason.values())


@HOW
async def test_the_types_of_attributes_that_it_learned_are_known(tmp_path: Path, how: str) -> None:
    async with running(copy_to(tmp_path / "buffer", how)) as daemon:
        _, text = await daemon.ask("GET", "/v1/attribute-types")
        types = [[each["name"], each["attribute"], each["type"]] for each in json.loads(text)["types"]]
        assert sorted(types) == sorted(map(list, contents(how).types))


@HOW
async def test_a_key_that_it_remembered_makes_the_event_a_duplicate_whatever_its_body(tmp_path: Path, how: str) -> None:
    """It kept no digest of the body, so that one may differ."""
    expected = contents(how)
    async with running(copy_with_new_keys_to(tmp_path / "buffer", how, accepted_at=time.time() - 1)) as daemon:
        await daemon.until_delivered()
        for key, (event_id, body) in expected.keys.items():
            for again in (body, body.replace(b"Exact", b"Other")):
                answer = await daemon.post(again, key=key)
                assert (answer["duplicates"], answer["ids"], answer["rejected"]) == (1, [event_id], [])
        await daemon.until_delivered()
        assert daemon.came == by_customer(expected.backlog), "none came again"
        ledger = daemon.app.buffer.ledger()
        assert ledger.duplicates == expected.ledger["duplicates"] + 2 * len(expected.keys)
        assert ledger.unaccounted == 0


@HOW
async def test_it_is_opened_again_after_it_was_opened_once(tmp_path: Path, how: str) -> None:
    expected = contents(how)
    directory = copy_to(tmp_path / "buffer", how)
    async with running(directory) as daemon:
        await daemon.until_delivered()
    async with running(directory) as daemon:
        assert await daemon.letters() == [*expected.letters, *expected.marked]
        ledger = daemon.app.buffer.ledger()
        assert ledger.delivered == expected.ledger["delivered"] + sum(map(len, expected.backlog))
        assert (daemon.came, ledger.buffered, ledger.unaccounted) == ({}, 0, 0)
