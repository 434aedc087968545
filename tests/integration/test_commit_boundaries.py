"""The daemon dies just before or just after each of its commits, in turn: nothing acknowledged is lost by any of them.

A daemon that will die at a certain commit plays a short story: a single event, a batch with an event that the far side
refuses, the replay of that one when it is refused no more, and a few at a time. Then the whole app, in this process, opens
the same directory and delivers what is there. What had been committed is known from the statements themselves.
"""

import asyncio
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from forwarder.app import App
from forwarder.buffer.base import Ledger
from forwarder.settings import (
    AdminSettings,
    BufferSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
)
from tests.fakes import dying_daemon
from tests.system.processes import KEY, Daemon, example_event, starting_daemon, until

MOST_COMMITS = 80
SINGLE, BEFORE, REFUSED, AFTER, *TOGETHER = (json.dumps(example_event(number)).encode() for number in range(8))
BATCH = [BEFORE, REFUSED, AFTER]
ALL = [SINGLE, *BATCH, *TOGETHER]


@dataclass
class FarSide:
    """Stands in for Growlytics: stores everything but, as long as it does not relent, one event."""

    relents: bool = False
    stored: Counter[bytes] = field(default_factory=Counter)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if body == REFUSED and not self.relents:
            return web.json_response({"success": False}, status=422)
        self.stored[body] += 1
        return web.json_response({"success": True})


@asynccontextmanager
async def serving(far_side: FarSide) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(far_side.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/track/event"
    finally:
        await runner.cleanup()


@dataclass
class Story:
    """What its teller knows for certain, at the moment when the daemon dies."""

    acknowledged: list[bytes] = field(default_factory=list)
    replayed: bool = False

    async def play(self, daemon: Daemon, far_side: FarSide) -> None:
        connector = aiohttp.UnixConnector(str(daemon.unix_socket))
        async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
            await self.post(http, SINGLE)
            await until(daemon.drained, "the first is delivered")

            async with http.post("/v1/events", data=b"[" + b",".join([*BATCH, b"{}"]) + b"]") as response:
                assert (response.status, (await response.json())["accepted"]) == (202, 3)
            self.acknowledged += BATCH
            await until(daemon.drained, "the batch is delivered, and one of it is a dead letter")

            far_side.relents = True
            async with http.get("/v1/dead-letters") as response:
                ids = [letter["id"] for letter in (await response.json())["dead_letters"]]
            assert len(ids) == 1
            async with http.post("/v1/dead-letters/replay", json={"ids": ids}) as response:
                assert [each["id"] for each in (await response.json())["replayed"]] == ids
            self.replayed = True

            # While these are delivered: puts and acks of different events in the same commits, as chance has it.
            await asyncio.gather(*(self.post(http, body) for body in TOGETHER))
            await until(daemon.drained, "everything is delivered")
        await daemon.stop()

    async def post(self, http: aiohttp.ClientSession, body: bytes) -> None:
        async with http.post("/track/event", data=body) as response:
            assert response.status == 200
        self.acknowledged.append(body)


@dataclass(frozen=True)
class After:
    """What the next daemon left, having delivered all that it found."""

    ledger: Ledger
    dead: list[bytes]


async def deliver_what_is_there(directory: Path, url: str) -> After:
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=None),
            admin=AdminSettings(http=None),
            buffer=BufferSettings(directory=str(directory)),
            # Where only the refused one is left, no delivery makes its rejection final, but its age does.
            delivery=DeliverySettings(max_concurrency=2, retry_initial_seconds=0.01, max_age_seconds=0.01),
        )
    )
    try:
        await app.open()
        delivering = asyncio.create_task(app.serve())
        await until(lambda: not app.buffer.occupancy().events, "what was found is delivered")
        page = await app.buffer.dead_letters.page(after_place=0, max_letters=10)
        app.stop.set()
        await delivering
    finally:
        await app.close()
    return After(app.buffer.ledger(), [letter.event.body for letter in page.letters])


def rows(directory: Path) -> tuple[int, int]:
    """Return how many events and dead letters there are, whatever the ledger says."""
    with closing(sqlite3.connect(directory / "buffer.db")) as database:
        (events,) = database.execute("SELECT count(*) FROM events").fetchone()
        (letters,) = database.execute("SELECT count(*) FROM dead_letters").fetchone()
    return events, letters


async def die_and_come_back(directory: Path, when: str, commits: int) -> bool:
    """Play the story with a daemon that dies, check what the next one finds, and return whether the first did die."""
    report = directory / "report.json"
    command = [sys.executable, dying_daemon.__file__, str(report), when, str(commits)]
    far_side, story = FarSide(), Story()
    async with serving(far_side) as url:
        async with starting_daemon(directory, url, command, delivery__max_concurrency=2) as daemon:
            try:
                if await daemon.until_ready():
                    await story.play(daemon, far_side)
            except aiohttp.ClientError:
                pass  # it died while it was asked
            async with asyncio.timeout(20):
                code = await daemon.process.wait()
        assert code in (0, dying_daemon.EXIT_CODE), daemon.lines
        if code == 0:
            assert sorted(story.acknowledged) == sorted(ALL)
            assert far_side.stored == Counter(ALL)
            return False
        after = await deliver_what_is_there(directory / "buffer", url)
    check(story, far_side, after, json.loads(report.read_text()))
    assert rows(directory / "buffer") == (0, len(after.dead))
    return True


def check(story: Story, far_side: FarSide, after: After, committed: list[str]) -> None:
    """Compare what became of each event with what was committed."""
    puts = "".join(statement for statement in committed if statement.startswith("INSERT INTO events")).lower()
    inserted = Counter({body: puts.count(body.hex()) for body in ALL})
    for body in story.acknowledged:
        assert inserted[body], "acknowledged, and not committed"
    assert inserted[REFUSED] == 2 or not story.replayed, "replayed, and not committed"
    for body in set(ALL) - {REFUSED}:
        assert bool(far_side.stored[body]) == bool(inserted[body]), "stored, if and only if it was committed"
        assert far_side.stored[body] <= 2, "one death, at most one duplicate of each"
    assert after.dead + list(far_side.stored.keys() & {REFUSED}) == [REFUSED] * bool(inserted[REFUSED]), (
        "either it is a dead letter, or it was replayed and stored"
    )
    assert bool(after.dead) == (inserted[REFUSED] == 1)
    ledger = after.ledger
    assert ledger.unaccounted == ledger.buffered == ledger.duplicates == sum(ledger.dropped.values()) == 0
    assert ledger.received == ledger.accepted + ledger.rejected
    assert ledger.accepted == inserted.total() == ledger.delivered + sum(ledger.dead_lettered.values())
    assert sum(ledger.dead_lettered.values()) == bool(inserted[REFUSED])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.soak)])
async def test_nothing_is_lost_nor_done_twice_whichever_commit_the_daemon_dies_before_or_after(
    tmp_path: Path, *, both: bool
) -> None:
    """Not both, in the short form: before one commit and after the next, as little happens between two."""
    for commits in range(1, MOST_COMMITS, 1 if both else 2):
        deaths = {"before": commits, "after": commits if both else commits + 1}
        directories = {when: tmp_path / f"{number}-{when}" for when, number in deaths.items()}
        for directory in directories.values():
            directory.mkdir()
        died = await asyncio.gather(
            *(die_and_come_back(directory, when, deaths[when]) for when, directory in directories.items())
        )
        if not any(died):
            print(f"at most {commits - 1} commits, and deaths before and after")
            break
    else:
        pytest.fail("the story does not come to its end")
