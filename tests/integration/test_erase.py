"""Erasing a customer from end to end, with the app in this process: then no file in its directory shows anything of her."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.app import App
from forwarder.intake import erase_routes
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
VICTIM = "Zerafina-O'Quill\u2603\"; DROP TABLE events;--"
MARK = "xyzzy-payload-of-zerafina"
"""In each event of hers, so that what is left of one shows."""
AT_ONCE = 100
REJECTING = Faults(fail_rate=1, fail_status=422)
DOWN = Faults(down=True)


@dataclass
class System:
    """A running app, the sandbox behind it, and a client on its control socket."""

    app: App
    sandbox: Sandbox
    http: aiohttp.ClientSession
    directory: Path

    async def post(self, path: str, body: object, *, status: int = 200) -> Any:
        async with self.http.post(f"http://localhost{path}", data=json.dumps(body).encode()) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def get(self, path: str, *, status: int = 200) -> Any:
        async with self.http.get(f"http://localhost{path}") as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def accept(self, events: Iterable[dict[str, object]]) -> list[str]:
        waiting, ids = list(events), list[str]()
        for first in range(0, len(waiting), AT_ONCE):
            answer = await self._accepted(waiting[first : first + AT_ONCE])
            assert answer["rejected"] == []
            ids += answer["ids"]
        return ids

    async def _accepted(self, events: list[dict[str, object]]) -> Any:
        """Post events, again while the disk takes too long, as a busy machine's may."""
        async with asyncio.timeout(60):
            while True:
                body = json.dumps(events).encode()
                async with self.http.post("http://localhost/v1/events?ids=true", data=body) as response:
                    if response.status != 503:
                        assert response.status == 202, await response.text()
                        return await response.json()
                await asyncio.sleep(0.1)

    async def erase(self, customer: str = VICTIM, **more: object) -> Any:
        """Erase a customer, asking again until that is complete."""
        while True:
            async with self.http.post("http://localhost/v1/erase", json={"customer": customer, **more}) as response:
                answer = await response.json()
                assert response.status in (200, 202), answer
                if answer["complete"]:
                    return answer

    async def until(self, is_so: Any) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.005)

    async def until_settled(self) -> None:
        await self.until(lambda: not self.app.buffer.occupancy().events)

    def counted(self, name: str, **labels: str) -> float | None:
        return self.app.telemetry.registry.get_sample_value(f"growlytics_forwarder_{name}", labels)


@asynccontextmanager
async def running(directory: Path, *, kind: str = "disk", sandbox: Sandbox | None = None) -> AsyncIterator[System]:
    own = sandbox or Sandbox(key=KEY)
    if sandbox is None:
        await own.open()
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=own.url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0), unix_socket=str(directory / "intake.sock")),
            buffer=BufferSettings(kind="memory" if kind == "memory" else "disk", directory=str(directory / "buffer")),
            admin=AdminSettings(http=None),
            delivery=DeliverySettings(
                retry_initial_seconds=0.01, retry_max_seconds=0.05, probe_initial_seconds=0.01, probe_max_seconds=0.05
            ),
            shutdown=ShutdownSettings(drain_seconds=0),
        )
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(directory / "intake.sock"))) as http:
            yield System(app, own, http, directory / "buffer")
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await app.close()
        if sandbox is None:
            await own.close()


def event(customer: str, number: int, *, size: int = 0) -> dict[str, object]:
    mark = MARK if customer.startswith(VICTIM) else "nothing"
    attributes: dict[str, object] = {"number": number, "mark": f"{mark}-{number}", "more": mark * (size // len(mark))}
    return {"name": "Add To Cart", "customerId": customer, "time": 1_700_000_000_000, "attributes": attributes}


def traces(directory: Path) -> dict[str, int]:
    """Return which files show anything of the customer, and how often."""
    found: dict[str, int] = {}
    needles = [VICTIM.encode(), VICTIM[:12].encode(), MARK.encode(), json.dumps(VICTIM)[1:-1].encode()]
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if number := sum(content.count(needle) for needle in needles):
                found[path.name] = number
    return found


def sizes(number: int) -> int:
    """Return sizes of events that need a part of a page, several of them, or more than one."""
    return (0, 100, 700, 3000, 9000)[number % 5]


async def test_after_an_erasure_no_file_shows_anything_of_the_customer(tmp_path: Path) -> None:
    """Some of hers were delivered long ago, some are dead letters, and some wait."""
    async with running(tmp_path) as system:
        await system.accept([event("other", 0)])
        await system.until_settled()
        for first in range(0, 200, 50):
            numbers = range(first, first + 50)
            await system.accept(event(VICTIM if n % 3 else f"other {n % 7}", n, size=sizes(n)) for n in numbers)
        await system.until_settled()
        system.sandbox.faults = REJECTING
        await system.accept(event(VICTIM if n % 2 else "other", n, size=sizes(n)) for n in range(8))
        await system.until_settled()
        system.sandbox.faults = DOWN
        await system.accept(event(VICTIM if n % 2 else f"other {n % 11}", n, size=sizes(n)) for n in range(400))
        assert traces(system.directory)
        before = system.app.buffer.ledger()
        answer = await system.erase()
        assert traces(system.directory) == {}
        assert answer["buffered"] + answer["in_flight"] == 200
        assert answer["dead_letters"] == 4
        assert answer["receipts"] >= 4
        ledger = system.app.buffer.ledger()
        assert (ledger.unaccounted, ledger.buffered) == (0, before.buffered - 200)
        assert ledger.dropped["erased"] + ledger.delivered - before.delivered == 200
        assert system.counted("events_dropped_total", reason="erased") == ledger.dropped["erased"]
        assert system.counted("dead_letters_evicted_total", reason="erased") == 4
        assert (await system.get("/v1/dead-letters"))["events"] == 4
        system.sandbox.faults = Faults()
        await system.until_settled()
        assert traces(system.directory) == {}
    assert traces(tmp_path / "buffer") == {}
    async with running(tmp_path) as system:
        assert (await system.erase()) == {
            "complete": True, "dry_run": False, "buffered": 0, "in_flight": 0, "dead_letters": 0, "receipts": 0,
            "quarantined_files": 0,
        }  # fmt: skip
        assert system.app.buffer.ledger().unaccounted == 0


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_what_the_customer_posts_after_the_erasure_is_delivered(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind=kind) as system:
        system.sandbox.faults = DOWN
        old = await system.accept([event(VICTIM, 1), event("other", 2)])
        assert (await system.erase(dry_run=True))["complete"]
        assert system.app.buffer.occupancy().events == 2
        answer = await system.erase()
        assert answer["buffered"] + answer["in_flight"] == 1
        await system.get(f"/v1/events/{old[0]}", status=404)
        new = await system.accept([event(VICTIM, 3)])
        system.sandbox.faults = Faults()
        await system.until_settled()
        raws = [json.loads(stored.raw)["attributes"]["number"] for stored in system.sandbox.stored()]
        assert sorted(raws) == [2, 3]
        assert (await system.get(f"/v1/events/{new[0]}"))["state"] == "delivered"
        assert (await system.erase())["receipts"] == 1
        await system.get(f"/v1/events/{new[0]}", status=404)


async def test_an_event_in_flight_is_delivered_or_dropped_but_not_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = Faults(latency_ms=1500)
        await system.accept([event(VICTIM, n) for n in range(5)])
        await system.until(lambda: system.app.delivery.progress().attempting == 1)
        assert (await system.erase(dry_run=True))["in_flight"] == 1
        answer = await system.erase()
        assert (answer["buffered"], answer["in_flight"]) == (4, 1)
        ledger = system.app.buffer.ledger()
        assert (ledger.delivered, ledger.dropped["erased"], ledger.buffered) == (1, 4, 0)
        assert len(system.sandbox.stored()) == 1
        assert traces(system.directory) == {}


async def test_an_event_in_flight_that_fails_is_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = Faults(latency_ms=700, fail_rate=1, fail_status=503)
        await system.accept([event(VICTIM, 1)])
        await system.until(lambda: system.app.delivery.progress().attempting == 1)
        assert (await system.erase())["in_flight"] == 1
        ledger = system.app.buffer.ledger()
        assert (ledger.delivered, ledger.dropped["erased"], ledger.buffered, ledger.unaccounted) == (0, 1, 0, 0)
        assert traces(system.directory) == {}
        assert system.app.delivery.progress().in_flight == 0


@pytest.mark.parametrize(
    "customer",
    ["a", "A", " ", "0", "%", "'; DROP TABLE events;--", "a\u0000b", "\ud800", "\U0001f600", "x" * 10_240, "blake2b:"],
)
async def test_a_customer_of_any_kind_is_erased_and_no_other(tmp_path: Path, customer: str) -> None:
    others = [customer + "x", customer[:-1] or "b", customer * 2, "other"]
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        await system.accept([event(each, n) for n, each in enumerate([customer, *others, customer])])
        answer = await system.erase(customer)
        assert answer["buffered"] + answer["in_flight"] == 2
        system.sandbox.faults = Faults()
        await system.until_settled()
        assert sorted(json.loads(stored.raw)["customerId"] for stored in system.sandbox.stored()) == sorted(others)


@pytest.mark.parametrize(
    "body", [{}, {"customer": ""}, {"customer": 1}, {"customer": None}, {"customer": "x", "dry_run": 1}, []]
)
async def test_a_request_without_a_customer_is_refused_and_erases_nothing(tmp_path: Path, body: object) -> None:
    async with running(tmp_path) as system:
        await system.post("/v1/erase", body, status=422)


async def test_quarantined_files_are_removed_and_what_is_salvaged_is_without_the_customer(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        await system.accept(event(VICTIM if n % 2 else "other", n) for n in range(100))
    buffer = tmp_path / "buffer"
    shutil.copy(buffer / "buffer.db", buffer / "buffer.db.salvaged-20260101T000000.000000Z")
    with (buffer / "buffer.db").open("r+b") as file:  # the ledger's page, so that the file is quarantined at the start
        content = file.read()
        at = content.index(b'{"')
        file.seek(at)
        file.write(b"XX")
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        assert len(list(buffer.glob("*.damaged-*"))) + len(list(buffer.glob("*.salvaged-*"))) >= 1
        answer = await system.erase()
        assert answer["quarantined_files"] >= 1
        await system.until(lambda: not list(buffer.glob("*.damaged-*")))
        await system.erase()
        assert traces(buffer) == {}
        system.sandbox.faults = Faults()
        await system.until_settled()
        assert {json.loads(stored.raw)["customerId"] for stored in system.sandbox.stored()} == {"other"}
        assert len(system.sandbox.stored()) == 50
        assert system.app.buffer.ledger().unaccounted == 0
    assert traces(buffer) == {}


async def test_a_large_customer_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    """Others post and get their answers while she is erased, and the event loop turns."""
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        for first in range(0, 30_000, 1000):
            await system.accept(event(VICTIM, n) for n in range(first, first + 1000))
        erasing = asyncio.create_task(system.erase())
        posted = 0
        while not erasing.done():
            await system.accept([event("other", posted)])
            posted += 1
        answer = await erasing
        assert answer["buffered"] + answer["in_flight"] == 30_000
        assert posted > 10
        assert system.app.buffer.occupancy().events == posted
        assert traces(system.directory) == {}


async def test_too_many_erasures_at_a_time_are_refused_until_some_have_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        answers = await asyncio.gather(
            *(
                system.http.post("http://localhost/v1/erase", json={"customer": f"c{n}"})
                for n in range(2 * erase_routes.MAX_ERASURES)
            )
        )
        assert {answer.status for answer in answers} <= {200, 429}
        assert (await system.erase())["complete"]


async def test_an_event_that_waits_is_buried_with_what_is_known_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        await system.accept([event("first", 0)])
        await system.until_settled()
        system.sandbox.faults = Faults(fail_rate=1, fail_status=403)
        (suspect,) = await system.accept([event("c", 1)])
        await system.until(system.app.delivery.suspects)
        assert (await system.post("/v1/dead-letters/bury", {"id": suspect, "dry_run": True}))["id"] == suspect
        assert system.app.buffer.dead_letters.events == 0
        answer = await system.post("/v1/dead-letters/bury", {"id": suspect})
        assert answer["state"] in ("buried", "after_attempt")
        await system.until(lambda: system.app.buffer.dead_letters.events)
        letter = await system.get(f"/v1/dead-letters/{suspect}")
        assert (letter["reason"], letter["status"]) == ("rejected", 403)
        assert letter["attempts"] >= 1
        ledger = system.app.buffer.ledger()
        assert (ledger.buffered, ledger.dead_lettered["rejected"], ledger.unaccounted) == (0, 1, 0)
        assert system.app.delivery.progress().in_flight == 0
        refused = await system.post("/v1/dead-letters/bury", {"id": suspect}, status=404)
        assert "dead_letter" in refused["message"]


async def test_an_event_in_the_buffer_behind_others_is_buried_and_the_others_are_delivered(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        ids = await system.accept(event("c", n) for n in range(3000))
        for event_id in (ids[1], ids[1500], ids[-1]):
            assert (await system.post("/v1/dead-letters/bury", {"id": event_id}))["state"] == "buried"
        assert (await system.post("/v1/dead-letters/bury", {"id": ids[0]}))["state"] in ("buried", "after_attempt")
        system.sandbox.faults = Faults()
        await system.until_settled()
        stored = [json.loads(each.raw)["attributes"]["number"] for each in system.sandbox.stored()]
        assert [n for n in stored if n] == [n for n in range(3000) if n not in (0, 1, 1500, 2999)]
        assert system.app.buffer.dead_letters.events + stored.count(0) == 4
        assert system.app.buffer.ledger().unaccounted == 0


async def test_an_event_that_nobody_knows_cannot_be_buried(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        for body in ({"id": "1"}, {"id": "1", "dry_run": True}):
            refused = await system.post("/v1/dead-letters/bury", body, status=404)
            assert "no event with the id 1 waits" in refused["message"]
        for wrong in ({}, {"id": 1}, {"id": "x"}, {"id": "1", "dry_run": "no"}):
            await system.post("/v1/dead-letters/bury", wrong, status=422)
