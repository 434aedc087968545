"""Dead letters and receipts from end to end: the app in this process, on disk and in memory, against the sandbox."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.app import App
from forwarder.database import dead_letters
from forwarder.database.connection import Database
from forwarder.event import DeadLetter
from forwarder.sandbox.faults import Faults
from forwarder.sandbox.server import Sandbox
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    DeadLettersSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    ReceiptsSettings,
    Secret,
    Settings,
    ShutdownSettings,
)

KEY = "integration-test-key"
REJECTING = Faults(fail_rate=1, fail_status=422)


@dataclass
class System:
    """A running app, the sandbox behind it, and clients on both of its sockets."""

    app: App
    sandbox: Sandbox
    unix: aiohttp.ClientSession
    tcp: aiohttp.ClientSession
    tcp_base: str
    ids: list[str] = field(default_factory=list)

    async def get(self, path: str, *, status: int = 200, tcp: bool = False) -> Any:
        client, base = (self.tcp, self.tcp_base) if tcp else (self.unix, "http://localhost")
        async with client.get(base + path) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def post(self, path: str, body: object, *, status: int = 200, tcp: bool = False) -> Any:
        client, base = (self.tcp, self.tcp_base) if tcp else (self.unix, "http://localhost")
        async with client.post(
            base + path, data=(body if isinstance(body, str) else json.dumps(body)).encode()
        ) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def accept(self, *texts: str) -> list[str]:
        """Post events; return their ids."""
        return [(await self.post("/track/event", text))["id"] for text in texts]

    async def deliver_one(self) -> None:
        """Have Growlytics take an event: a rejection is its last word only if it took others lately."""
        await self.accept(event(99))
        await self.until_settled()
        assert [each.raw.decode() for each in self.sandbox.stored()] == [event(99)]

    async def until_settled(self) -> None:
        async with asyncio.timeout(30):
            while self.app.buffer.occupancy().events:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    directory: Path,
    *,
    kind: str = "disk",
    faults: Faults = REJECTING,
    bounds: DeadLettersSettings | None = None,
    receipts: int = 100,
    max_events: int = 1000,
) -> AsyncIterator[System]:
    """Run both. Where everything is to be rejected, one event was delivered before: event 99."""
    sandbox = Sandbox(key=KEY)
    await sandbox.open()
    unix_socket = directory / "intake.sock"
    memory = kind == "memory"
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0), unix_socket=str(unix_socket)),
            buffer=BufferSettings(
                kind="memory" if memory else "disk", directory=str(directory / "buffer"), max_events=max_events
            ),
            admin=AdminSettings(http=None),
            delivery=DeliverySettings(retry_initial_seconds=0.01, retry_max_seconds=0.05),
            dead_letters=bounds or DeadLettersSettings(),
            receipts=ReceiptsSettings(max_events=receipts),
            shutdown=ShutdownSettings(drain_seconds=0),
        )
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(unix_socket))) as unix,
            aiohttp.ClientSession() as tcp,
        ):
            system = System(app, sandbox, unix, tcp, f"http://{app.addresses['http']}")
            if faults is REJECTING:
                await system.deliver_one()
            sandbox.faults = faults
            yield system
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await app.close()
        await sandbox.close()


@pytest.fixture(params=["disk", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def event(number: int, *, attributes: str = "{}") -> str:
    return f'{{"name":"Event {number}","customerId":"c-{number}","time":1700000000000, "attributes":{attributes}}}'


async def test_a_rejected_event_can_be_listed_and_shown_with_its_bytes_and_growlytics_answer(
    tmp_path: Path, kind: str
) -> None:
    text = event(1, attributes='{"Id": 123456789012345678901234567890, "x": "\\ud800"}')
    async with running(tmp_path, kind=kind) as system:
        (event_id,) = await system.accept(text)
        await system.until_settled()
        listed = await system.get("/v1/dead-letters")
        shown = await system.get(f"/v1/dead-letters/{event_id}")
        async with system.unix.get("http://localhost/v1/dead-letters?payload=true") as response:
            assert text in await response.text(), "byte for byte"
    (letter,) = listed["dead_letters"]
    assert (letter["id"], letter["name"], letter["reason"], letter["status"]) == (event_id, "Event 1", "rejected", 422)
    assert (letter["attempts"], letter["size_bytes"], listed["events"], listed["next"]) == (1, len(text), 1, None)
    assert letter["accepted_at"] <= letter["first_attempt_at"] <= letter["last_attempt_at"]
    assert not {"customer", "answer", "event"} & letter.keys()
    assert letter.items() <= shown.items()
    assert shown["customer"] == "c-1"
    assert "success" in shown["answer"]


async def test_over_tcp_nothing_that_bears_payloads_or_changes_something_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        (event_id,) = await system.accept(event(1))
        await system.until_settled()
        assert (await system.get("/v1/dead-letters", tcp=True))["events"] == 1
        for path in (f"/v1/dead-letters/{event_id}", "/v1/dead-letters?payload=true"):
            refused = await system.get(path, tcp=True, status=401)
            assert refused["errors"][0]["code"] == "unauthorized"
            assert "c-1" not in json.dumps(refused)
        for path in ("/v1/dead-letters/replay", "/v1/dead-letters/purge"):
            await system.post(path, {"ids": [event_id]}, tcp=True, status=401)
        assert system.app.buffer.dead_letters.events == 1


async def test_a_replayed_event_is_accepted_anew_and_delivered_and_a_repetition_sends_nothing(
    tmp_path: Path, kind: str
) -> None:
    async with running(tmp_path, kind=kind) as system:
        ids = await system.accept(*(event(number) for number in range(3)))
        await system.until_settled()
        tried = await system.post("/v1/dead-letters/replay", {"ids": ids, "dry_run": True})
        assert tried["replayed"] == [{"id": each, "new_id": None} for each in ids]
        assert system.app.buffer.dead_letters.events == 3
        system.sandbox.faults = Faults()
        answer = await system.post("/v1/dead-letters/replay", {"ids": [*ids[:2], "77"]})
        assert [each["id"] for each in answer["replayed"]] == ids[:2]
        assert (answer["refused"], answer["missing"]) == ([], ["77"])
        again = await system.post("/v1/dead-letters/replay", {"ids": ids[:2]})
        assert again == {"replayed": [], "refused": [], "missing": ids[:2]}
        await system.until_settled()
        stored = sorted(each.raw.decode() for each in system.sandbox.stored())
        assert stored == [event(0), event(1), event(99)]
        ledger = system.app.buffer.ledger()
        assert (ledger.accepted, ledger.delivered, ledger.dead_lettered["rejected"]) == (6, 3, 3)
        assert (system.app.buffer.dead_letters.events, ledger.unaccounted) == (1, 0)
        receipt = await system.get(f"/v1/events/{ids[0]}", tcp=True)
        assert receipt["state"] == "replaced"
        assert receipt["new_id"] == answer["replayed"][0]["new_id"]
        assert (await system.get(f"/v1/events/{receipt['new_id']}"))["state"] == "delivered"
        assert system.app.telemetry.registry.get_sample_value(
            "growlytics_forwarder_events_accepted_total", {"intake": "replay"}
        ) == 2  # fmt: skip


async def test_a_replay_that_only_nearly_says_that_it_is_a_dry_run_moves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        near: list[object] = [1, "true", None, []]
        for nearly in near:
            await system.post("/v1/dead-letters/replay", {"ids": ["1"], "dry_run": nearly}, status=422)


async def test_a_replay_that_does_not_fit_moves_nothing(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind=kind, max_events=3) as system:
        ids = await system.accept(*(event(number) for number in range(3)))
        await system.until_settled()
        system.sandbox.faults = Faults(down=True)
        await system.accept(event(7))
        refused = await system.post("/v1/dead-letters/replay", {"ids": ids}, status=429)
        assert refused["errors"][0]["code"] == "buffer_full"
        assert system.app.buffer.dead_letters.events == 3
        assert len((await system.post("/v1/dead-letters/replay", {"ids": ids[:2]}))["replayed"]) == 2
        assert system.app.buffer.dead_letters.events == 1


async def test_purging_removes_for_good_and_counts(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind=kind) as system:
        ids = await system.accept(event(1), event(2))
        await system.until_settled()
        assert await system.post("/v1/dead-letters/purge", {"ids": [ids[0], "5"]}) == {"purged": 1, "missing": ["5"]}
        assert [each["id"] for each in (await system.get("/v1/dead-letters"))["dead_letters"]] == ids[1:]
        await system.get(f"/v1/dead-letters/{ids[0]}", status=404)
        value = system.app.telemetry.registry.get_sample_value(
            "growlytics_forwarder_dead_letters_evicted_total", {"reason": "purged"}
        )
        assert value == 1
        assert system.app.buffer.ledger().dead_lettered["rejected"] == 2, "what became of events is not changed"


@pytest.mark.parametrize(
    "bounds", [DeadLettersSettings(max_events=2), DeadLettersSettings(max_bytes=2 * (len(event(1)) + 60))]
)
async def test_the_oldest_dead_letters_make_room_and_are_counted(
    tmp_path: Path, kind: str, bounds: DeadLettersSettings
) -> None:
    async with running(tmp_path, kind=kind, bounds=bounds) as system:
        ids = []
        for number in range(4):
            ids += await system.accept(event(number))
            await system.until_settled()
        kept = [each["id"] for each in (await system.get("/v1/dead-letters"))["dead_letters"]]
        evicted = system.app.telemetry.registry.get_sample_value(
            "growlytics_forwarder_dead_letters_evicted_total", {"reason": "full"}
        )
    assert kept == ids[-len(kept) :]
    assert 1 <= len(kept) <= 2
    assert evicted == 4 - len(kept)


async def test_the_list_comes_in_pages_and_can_be_narrowed_to_a_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        ids = await system.accept(*(event(number) for number in range(5)))
        await system.until_settled()
        seen: list[str] = []
        page: dict[str, Any] = {"next": "0"}
        while page["next"] is not None:
            page = await system.get(f"/v1/dead-letters?limit=2&after={page['next']}&reason=rejected")
            seen += [each["id"] for each in page["dead_letters"]]
        assert sorted(seen) == sorted(ids)
        assert (await system.get("/v1/dead-letters?reason=expired"))["dead_letters"] == []


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "limit=1e3", "limit=1.0", "limit=", "limit=true", "limit=%D9%A1"),
        *("after=-1", "after=" + "9" * 19, "after=" + "9" * 5000, "reason=", "reason=full", "reason=true", "reason=1"),
        *("payload=1", "payload=True", "payload="),
    ],
)
async def test_a_list_that_is_asked_for_wrongly_is_refused_with_what_is_allowed(tmp_path: Path, query: str) -> None:
    async with running(tmp_path) as system:
        refused = await system.get(f"/v1/dead-letters?{query}", status=422)
        assert refused["errors"][0]["message"].startswith(query.partition("=")[0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        *((body, "send a JSON object like") for body in ("", "[]", "null", "{")),
        *((body, "ids must be") for body in ("{}", '{"ids": []}', '{"ids": [1]}', '{"ids": ["-1"]}', '{"ids": "1"}')),
        *((f'{{"ids": ["1", "{text}"]}}', "ids must be") for text in ("1e3", "1\\n", "", " 1", "\u0661", "1" * 19)),
        ('{"ids": ["1"], "dry_run": 0}', "dry_run must be"),
        (f'{{"ids": {["1"] * 1001}}}'.replace("'", '"'), "ids must be"),
    ],
)
async def test_a_change_that_is_asked_for_wrongly_is_refused(tmp_path: Path, body: str, message: str) -> None:
    async with running(tmp_path) as system:
        for path in ("/v1/dead-letters/replay", "/v1/dead-letters/purge"):
            refused = await system.post(path, body, status=422)
            assert refused["errors"][0]["message"].startswith(message)


async def test_what_is_no_id_is_no_path(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        for path in ("/v1/dead-letters/", "/v1/events/", "/v1/attribute-types/"):
            for last in ("ID", "", "x", "1x", "%D9%A1", "1" * 19, "1/ID", "1/1"):
                await system.get(path + last, status=404)
        await system.get("/v1/attribute-types/1", status=404)
        await system.get("/v1/dead-letters/1", status=404)


async def test_dead_letters_and_ledger_are_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        ids = await system.accept(event(1), event(2))
        await system.until_settled()
        await system.post("/v1/events", ["no event"], status=422)
    async with running(tmp_path, faults=Faults()) as system:
        status = await system.get("/v1/status")
        assert status["dead_letters"]["events"] == 2
        for_ever, since_start = status["ledger"]["for_ever"], status["ledger"]["since_start"]
        assert (for_ever["received"], for_ever["accepted"], for_ever["rejected"]) == (4, 3, 1)
        assert for_ever["dead_lettered"] == {"rejected": 2, "expired": 0, "ambiguous": 0}
        assert (since_start["received"], since_start["accepted"], since_start["dead_lettered"]["rejected"]) == (0, 0, 0)
        assert (await system.get(f"/v1/events/{ids[0]}"))["state"] == "dead_letter"
        (new_id,) = await system.accept(event(3))
        assert int(new_id) > int(ids[1])


async def test_dead_letters_in_memory_count_as_lost_when_the_app_closes(tmp_path: Path) -> None:
    async with running(tmp_path, kind="memory") as system:
        await system.accept(event(1), event(2))
        await system.until_settled()
    assert await system.app.close() == (0, 2)
    assert system.app.telemetry.registry.get_sample_value(
        "growlytics_forwarder_dead_letters_evicted_total", {"reason": "shutdown"}
    ) == 2  # fmt: skip


async def test_a_receipt_says_where_an_event_is_until_it_is_forgotten(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind=kind, faults=Faults(down=True), receipts=2) as system:
        (first,) = await system.accept(event(1))
        async with asyncio.timeout(30):
            while (receipt := await system.get(f"/v1/events/{first}", tcp=True))["state"] != "parked":
                assert receipt["state"] == "buffered"
        assert receipt["until"] > 1.7e9
        system.sandbox.faults = Faults()
        await system.until_settled()
        assert (await system.get(f"/v1/events/{first}"))["state"] == "delivered"
        await system.accept(event(2), event(3))
        await system.until_settled()
        await system.get(f"/v1/events/{first}", status=404)
        await system.get("/v1/events/1", status=404)
        await system.get("/v1/events/x", status=404)


async def test_an_event_that_the_contract_of_today_refuses_stays_a_dead_letter(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        (event_id,) = await system.accept(event(1))
        await system.until_settled()

    def break_it(transaction: Any) -> None:
        (letter,) = dead_letters.find(transaction, [int(event_id)], max_bytes=1000)
        dead_letters.remove(transaction, [int(event_id)])
        spoilt = type(letter.event)(letter.event.id, "c", "n", b'{"name": 5}', letter.event.accepted_at)
        again = DeadLetter(spoilt, "rejected", 422, b"", 1, 1.0, 2.0)
        dead_letters.insert(transaction, [again], max_events=10, max_bytes=1000)

    database = Database(tmp_path / "buffer")
    await database.open()
    await database.run(break_it)
    await database.close()
    async with running(tmp_path, faults=Faults()) as system:
        answer = await system.post("/v1/dead-letters/replay", {"ids": [event_id]})
        assert answer["replayed"] == []
        assert answer["refused"][0]["id"] == event_id
        assert {error["field"] for error in answer["refused"][0]["errors"]} >= {"name", "customerId"}
        assert system.app.buffer.dead_letters.events == 1
