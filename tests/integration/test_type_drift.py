"""Rule 5 from end to end: an app whose attributes change their types, against the sandbox, which drops them in silence."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.app import App
from forwarder.attribute_types import types_file
from forwarder.sandbox.faults import Faults
from forwarder.sandbox.server import Sandbox
from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    ContractSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    Secret,
    Settings,
    ShutdownSettings,
)
from tests.fakes.events import counted

KEY = "integration-test-key"
TYPES = {("Buy", "Price"): "number", ("Buy", "Id"): "string", ("Buy", "Gift"): "boolean", ("Buy", "At"): "date"}
TYPES_TOML = '[Buy]\nAt = "date"\nGift = "boolean"\nId = "string"\nPrice = "number"\n'
VALUES: dict[str, list[object]] = {
    # What drifting apps send: all of it says the same in the type of TYPES.
    "Price": [3, "3", 4.5, "4.5", 0, "0"],
    "Id": ["7", 7, "x", 1.25, True, "true"],
    "Gift": [True, "true", False, "false"],
    "At": ["2020-01-20", "2020-01-20T19:14:15.000Z", "2020-01-20 19:14:15"],
}


@dataclass
class System:
    """A running app and the sandbox behind it."""

    app: App
    sandbox: Sandbox
    unix: aiohttp.ClientSession

    async def post(self, path: str, body: object, *, status: int) -> Any:
        async with self.unix.post(f"http://localhost{path}", data=json.dumps(body)) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def get(self, path: str) -> Any:
        async with self.unix.get(f"http://localhost{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def deliver(self, *attributes: object) -> None:
        """Have events accepted, in this order, and wait until they have arrived; that of one customer is the same."""
        before = self.app.buffer.ledger().delivered
        answer = await self.post("/v1/events", [event(each) for each in attributes], status=202)
        assert answer["accepted"] == len(attributes)
        async with asyncio.timeout(20):
            while self.app.buffer.ledger().delivered < before + len(attributes):
                await asyncio.sleep(0.005)

    def dropped(self) -> int:
        """Return how many attributes the sandbox has ignored."""
        return self.sandbox.counters()["attributes_dropped"]

    def conflicts(self, action: str, kind: str = "hard") -> int:
        return int(counted(self.app.telemetry, "attribute_type_conflicts_total", action=action, kind=kind))

    def arrived(self) -> list[dict[str, Any]]:
        """Return the attributes of what the sandbox has, as Growlytics would keep them."""
        return [stored.attributes for stored in self.sandbox.stored()]


def event(attributes: object) -> dict[str, object]:
    return {"name": "Buy", "customerId": "c", "time": 1700000000000, "attributes": attributes}


def drifting(count: int) -> list[dict[str, object]]:
    """Return the attributes of events that send what says the same in one type after the other."""
    source = random.Random(7)
    return [
        {name: source.choice(values) for name, values in VALUES.items() if source.random() < 0.8} for _ in range(count)
    ]


@asynccontextmanager
async def running(
    directory: Path,
    contract: ContractSettings,
    *,
    kind: str = "memory",
    faults: Faults | None = None,
    events: int = 10_000,
) -> AsyncIterator[System]:
    sandbox = Sandbox(key=KEY, faults=faults or Faults())
    await sandbox.open()
    socket = directory / "intake.sock"
    buffer = BufferSettings(kind="disk" if kind == "disk" else "memory", directory=str(directory), max_events=events)
    app = App(
        Settings(
            growlytics=GrowlyticsSettings(url=sandbox.url, api_key=Secret(KEY)),
            intake=IntakeSettings(http=Address("127.0.0.1", 0), unix_socket=str(socket)),
            contract=contract,
            buffer=buffer,
            admin=AdminSettings(http=Address("127.0.0.1", 0)),
            delivery=DeliverySettings(
                retry_initial_seconds=0.01, retry_max_seconds=0.05, probe_initial_seconds=0.01, probe_max_seconds=0.05
            ),
            shutdown=ShutdownSettings(drain_seconds=5),
        )
    )
    await app.open()
    serving = asyncio.create_task(app.serve())
    unix = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))
    try:
        yield System(app, sandbox, unix)
        if sandbox.faults.down:
            app.force.set()
        app.stop.set()
        await serving
    finally:
        serving.cancel()
        await unix.close()
        await app.close()
        await sandbox.close()


@pytest.fixture
def types(tmp_path: Path) -> str:
    file = tmp_path / "types.toml"
    file.write_text(TYPES_TOML)
    assert types_file.read(file) == TYPES
    return str(file)


async def test_with_observe_every_attribute_that_is_lost_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="observe")) as system:
        attributes = drifting(300)
        await system.deliver(*attributes[:100])
        for each in attributes[100:110]:
            await system.deliver(each)
        await system.deliver(*attributes[110:])
        assert system.dropped() > 100
        assert system.conflicts("observe") == system.dropped()
        assert [json.loads(stored.raw)["attributes"] for stored in system.sandbox.stored()] == attributes


async def test_with_coerce_and_a_types_file_nothing_is_lost(tmp_path: Path, types: str) -> None:
    contract = ContractSettings(attribute_types="coerce", types_file=types)
    async with running(tmp_path, contract) as system:
        attributes = drifting(300)
        await system.deliver(*attributes)
        assert system.dropped() == 0
        assert system.conflicts("coerce") > 100
        assert system.conflicts("observe") == 0
        arrived = system.arrived()
        assert [list(each) for each in arrived] == [list(each) for each in attributes], "every attribute is there"
        for before, after in zip(attributes, arrived, strict=True):
            assert {name: json.dumps(value).strip('"') for name, value in after.items()} == {
                name: json.dumps(value).strip('"') for name, value in before.items()
            }
        assert {type(each["Price"]) for each in arrived if "Price" in each} == {int, float}
        assert {type(each["Id"]) for each in arrived if "Id" in each} == {str}
        assert {type(each["Gift"]) for each in arrived if "Gift" in each} == {bool}


async def test_without_the_guard_of_a_types_file_the_first_event_decides_and_coerce_follows_it(tmp_path: Path) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="coerce")) as system:
        await system.deliver({"Price": "3"}, {"Price": 4}, {"Price": 5.5})
        assert system.arrived() == [{"Price": "3"}, {"Price": "4"}, {"Price": "5.5"}]
        assert system.dropped() == 0


async def test_what_cannot_be_coerced_is_lost_and_counted(tmp_path: Path, types: str) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="coerce", types_file=types)) as system:
        await system.deliver({"Price": 1}, {"Price": "cheap"}, {"Price": "007"}, {"Price": True})
        assert system.dropped() == system.conflicts("observe") == 3


async def test_with_strip_growlytics_has_nothing_left_to_drop(tmp_path: Path, types: str) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="strip", types_file=types)) as system:
        await system.deliver({"Price": "3", "Id": "a"}, {"Price": 3, "Id": 4})
        assert system.arrived() == [{"Id": "a"}, {"Price": 3}]
        assert (system.dropped(), system.conflicts("strip")) == (0, 2)


async def test_with_reject_the_app_is_told_and_the_others_of_its_batch_arrive(tmp_path: Path, types: str) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="reject", types_file=types)) as system:
        await system.deliver({"Price": 1, "New": 1})
        answer = await system.post(
            "/v1/events", [event({"Price": 2}), event({"Price": "3", "New": "x"}), event({"New": 4})], status=202
        )
        ((index, errors),) = [(each["index"], each["errors"]) for each in answer["rejected"]]
        assert index == 1
        assert [(each["code"], each["field"]) for each in errors] == [
            ("attribute_type_conflict", "attributes.Price"),
            ("attribute_type_conflict", "attributes.New"),
        ]
        assert "fixed as a number in contract.types_file" in errors[0]["message"]
        assert "when it was first seen, at 20" in errors[1]["message"]
        answer = await system.post("/track/event", event({"Price": "3"}), status=422)
        assert answer["errors"][0]["code"] == "attribute_type_conflict"
        assert system.conflicts("reject") == 3
        rejected = counted(system.app.telemetry, "events_rejected_total", reason="attribute_type_conflict")
        assert rejected == 2
    assert system.dropped() == 0
    assert system.app.buffer.ledger().delivered == 3


async def test_a_date_for_another_string_is_counted_apart_and_arrives(tmp_path: Path, types: str) -> None:
    async with running(tmp_path, ContractSettings(attribute_types="reject", types_file=types)) as system:
        await system.deliver({"At": "soon", "Id": "2020-01-20"}, {"At": "2020-01-20"})
        assert system.conflicts("observe", "date") == 2
        assert system.arrived()[0] == {"At": "soon", "Id": "2020-01-20"}


async def test_what_was_learned_outlives_the_process_with_the_buffer_on_disk(tmp_path: Path) -> None:
    contract = ContractSettings(attribute_types="observe")
    async with running(tmp_path, contract, kind="disk") as system:
        await system.deliver({"Price": 1, "price": "x"})
        (first_seen,) = {each["first_seen"] for each in (await system.get("/v1/attribute-types"))["types"]}
    async with running(tmp_path, contract, kind="disk") as system:
        await system.deliver({"Price": "1", "price": "y"})
        assert system.conflicts("observe") == 1
        listed = (await system.get("/v1/attribute-types"))["types"]
        assert [(each["attribute"], each["type"], each["first_seen"]) for each in listed] == [
            ("Price", "number", first_seen),
            ("price", "string", first_seen),
        ]
        answer = await system.post("/v1/attribute-types/forget", {"name": "Buy", "attribute": "Price"}, status=200)
        assert answer == {"forgotten": 1, "fixed": False}
        await system.post("/v1/attribute-types/import", {"types": {"Buy": {"price": "boolean"}}}, status=200)
    async with running(tmp_path, contract, kind="disk") as system:
        listed = (await system.get("/v1/attribute-types"))["types"]
        assert [(each["attribute"], each["type"]) for each in listed] == [("price", "boolean")]


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_nothing_is_learned_for_good_from_events_that_the_buffer_has_no_room_for(
    tmp_path: Path, kind: str
) -> None:
    contract = ContractSettings(attribute_types="reject")
    async with running(tmp_path, contract, kind=kind, faults=Faults(down=True), events=1) as system:
        await system.post("/track/event", event({}), status=200)
        await system.post("/track/event", event({"Price": "x"}), status=429)
        assert (await system.get("/v1/attribute-types"))["types"] == []
        system.sandbox.faults = Faults()
        async with asyncio.timeout(10):
            while system.app.buffer.occupancy().events:
                await asyncio.sleep(0.005)
        await system.deliver({"Price": 1})
        assert [each["type"] for each in (await system.get("/v1/attribute-types"))["types"]] == ["number"]
    if kind == "disk":
        async with running(tmp_path, contract, kind=kind) as system:
            assert [each["type"] for each in (await system.get("/v1/attribute-types"))["types"]] == ["number"]


async def test_a_conflict_is_shown_in_the_status_and_logged_once_without_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with running(tmp_path, ContractSettings()) as system:
            await system.deliver({"Card": 1}, {"Card": "4111-card"}, {"Card": "4112-card"})
            status = (await system.get("/v1/status"))["attribute_types"]
    (conflict,) = status["conflicts"]
    assert conflict | {"last_at": 0} == {
        "name": "Buy",
        "attribute": "Card",
        "expected": "number",
        "found": "string",
        "action": "observe",
        "conflicts": 2,
        "last_at": 0,
        "learned": True,
    }
    assert (status["policy"], status["learned"], status["fixed"], status["full"]) == ("observe", 1, 0, False)
    told = [record for record in caplog.records if "changed its type" in record.message]
    assert len(told) == 1
    assert "-card" not in str([record.__dict__ for record in caplog.records]) + json.dumps(status)
