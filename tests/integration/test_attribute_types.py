"""The endpoints of attribute types, over HTTP: what they answer, what they change, and who may."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from forwarder.observing.telemetry import Telemetry
from forwarder.words import AttributeType, ConflictAction
from tests.fakes.attribute_type_daemon import NOW, AttributeTypeDaemon, attribute_type_daemon

FIXED = ("Buy", "Total")


@pytest.fixture
async def daemon() -> AsyncIterator[AttributeTypeDaemon]:
    async with attribute_type_daemon(fixed={FIXED: "number"}, max_types=5) as running:
        yield running


async def get(daemon: AttributeTypeDaemon, path: str = "", *, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{daemon.url}/v1/attribute-types{path}") as response:
        assert response.status == status, await response.text()
        assert response.content_type == "application/json"
        return json.loads(await response.text())


async def post(daemon: AttributeTypeDaemon, path: str, body: object, *, status: int = 200) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{daemon.url}/v1/attribute-types/{path}"
    async with aiohttp.ClientSession() as http, http.post(url, data=data) as response:
        assert response.status == status, await response.text()
        return json.loads(await response.text())


async def test_the_list_has_every_type_and_how_many_there_may_be(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"Price": 1})
    daemon.accept({"Price": "x", "Total": "x"})
    daemon.allowed = False
    assert await get(daemon) == {
        "policy": "observe",
        "learned": 1,
        "fixed": 1,
        "max": 5,
        "full": False,
        "next": None,
        "types": [
            {"name": "Buy", "attribute": "Total", "type": "number", "fixed": True, "first_seen": None, "conflicts": 1},
            {"name": "Buy", "attribute": "Price", "type": "number", "fixed": False, "first_seen": NOW, "conflicts": 1},
        ],
    }
    await get(daemon, "/x", status=404)


async def pages(daemon: AttributeTypeDaemon, query: str = "") -> list[list[str]]:
    """Return the attributes of each page."""
    found, after = [], ""
    while True:
        answer = await get(daemon, f"?{query}{after}")
        found.append([each["attribute"] for each in answer["types"]])
        if answer["next"] is None:
            return found
        after = f"&after={answer['next']}"


async def test_a_long_list_comes_whole_in_pages() -> None:
    async with attribute_type_daemon(fixed={FIXED: "number"}, max_types=20_000) as daemon:
        daemon.types.imported({("Buy", f"a{number}"): "number" for number in range(1999)})
        everything = ["Total", *(f"a{number}" for number in range(1999))]
        assert await pages(daemon) == [everything[first : first + 500] for first in range(0, 2000, 500)]
        assert await pages(daemon, "limit=499") == [everything[first : first + 499] for first in range(0, 2000, 499)]


async def test_a_page_is_bounded_in_bytes_too() -> None:
    async with attribute_type_daemon() as daemon:
        names = [f"{number:04}" + "\x01" * 252 for number in range(500)]
        daemon.types.imported(dict.fromkeys((("Buy", each) for each in names), "number"))
        answer = await get(daemon)
        assert 100 < len(answer["types"]) < 250
        assert [each for page in await pages(daemon) for each in page] == names


@pytest.mark.parametrize(
    "place", [("Buy", "a"), ("Buy", ""), ("\ud800" * 49, "\ud800" * 85), ("é😀", "\udc00\ud800"), ("Buy", "a" * 256)]
)
async def test_every_name_can_be_the_last_of_a_page(place: tuple[str, str]) -> None:
    async with attribute_type_daemon() as daemon:
        daemon.types.imported({place: "number", ("z", "last"): "date"})
        assert await pages(daemon, "limit=1") == [[place[1]], ["last"]]


async def test_pages_leave_nothing_out_whatever_is_forgotten_and_learned_between_them() -> None:
    async with attribute_type_daemon() as daemon:
        daemon.accept({f"a{number}": 1 for number in range(6)})
        first = await get(daemon, "?limit=3")
        daemon.types.forget("Buy", "a0")
        daemon.accept({"a0": 1, "a6": 1})
        second = await get(daemon, f"?limit=3&after={first['next']}")
        assert [each["attribute"] for each in second["types"]] == ["a3", "a4", "a5"]
        daemon.types.forget("Buy", "a5")
        again = await get(daemon, f"?after={second['next']}")
        assert [each["attribute"] for each in again["types"]] == ["a1", "a2", "a3", "a4", "a0", "a6"], "better twice"
        daemon.types.forget("Buy", None)
        assert await get(daemon, f"?after={second['next']}") == (await get(daemon)) | {"types": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=501", "limit=", "limit=-1", "limit=1.0", "limit=%C2%B2", f"limit={'9' * 5000}"),
        *("after=", "after=0", "after=00420075", "after=-", "after=0042-6", "after=004G-0061", "after=0042-0061-"),
        *(f"after={'0042' * 50}-", f"after=0042-{'0061' * 257}", "after=0042-0061%0A"),
    ],
)
async def test_a_page_that_is_asked_for_wrongly_is_refused(daemon: AttributeTypeDaemon, query: str) -> None:
    answer = await get(daemon, f"?{query}", status=422)
    (error,) = answer["errors"]
    assert error["code"] == "wrong_type"
    assert error["message"].startswith(query.partition("=")[0])


async def test_a_name_with_lone_surrogates_comes_whole_and_can_be_forgotten(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"a\ud800": 1}, name="Buy\udc00")
    listed = (await get(daemon))["types"]
    assert (listed[1]["name"], listed[1]["attribute"]) == ("Buy\udc00", "a\ud800")
    answer = await post(daemon, "forget", {"name": "Buy\udc00", "attribute": "a\ud800"})
    assert answer == {"forgotten": 1, "fixed": False}
    assert daemon.learned() == {}


async def test_forget_takes_effect_at_once_and_is_noted(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"a": 1, "b": 1})
    assert await post(daemon, "forget", {"name": "Buy", "attribute": "a"}) == {"forgotten": 1, "fixed": False}
    assert daemon.learned() == {("Buy", "b"): "number"}
    assert daemon.noted == [{("Buy", "a"): None}]
    assert await post(daemon, "forget", {"name": "Buy"}) == {"forgotten": 1, "fixed": True}
    assert await post(daemon, "forget", {"name": "Buy", "attribute": "Total"}) == {"forgotten": 0, "fixed": True}
    assert await post(daemon, "forget", {"name": "buy", "attribute": None}) == {"forgotten": 0, "fixed": False}
    assert daemon.noted == [{("Buy", "a"): None}, {("Buy", "b"): None}]


async def test_import_replaces_what_was_learned_and_is_noted(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"a": 1, "b": 1})
    types = {"Buy": {"a": "string", "Total": "string", "": "date"}, "View": {"b": "boolean"}, "Nothing": {}}
    assert await post(daemon, "import", {"types": types}) == {"imported": 3, "fixed": 1}
    assert daemon.learned() == {("Buy", "a"): "string", ("Buy", ""): "date", ("View", "b"): "boolean"}
    (noted,) = daemon.noted
    assert noted["Buy", "b"] is None
    assert len(noted) == 4
    assert await post(daemon, "import", {"types": types}) == {"imported": 3, "fixed": 1}
    assert len(daemon.noted) == 1, "nothing changed"
    assert await post(daemon, "import", {"types": {}}) == {"imported": 0, "fixed": 0}
    assert daemon.learned() == {}


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("forget", b"{", "send a JSON object like"),
        ("forget", [], "send a JSON object like"),
        ("forget", {}, "name must be"),
        ("forget", {"name": 7}, "name must be"),
        ("forget", {"name": "Buy", "attribute": 7}, "attribute must be"),
        ("import", b"[" * 100_000, "send a JSON object like"),
        ("import", {}, "types must be an object like"),
        ("import", {"types": []}, "types must be an object like"),
        ("import", {"types": {"Buy": "number"}}, "types must be an object like"),
        ("import", {"types": {"Buy": {"a": "Number"}}}, "types must be an object like"),
        ("import", {"types": {"Buy": {"a": ["number"]}}}, "types must be an object like"),
        ("import", {"types": {"": {"a": "number"}}}, "an event's name has 1 to 49"),
        ("import", {"types": {"😀" * 25: {"a": "number"}}}, "an event's name has 1 to 49"),
        ("import", {"types": {"Buy": {"é" * 129: "number"}}}, "at most 256 bytes"),
        ("import", {"types": {"Buy": {str(n): "number" for n in range(6)}}}, "contract.max_attribute_types"),
    ],
)
async def test_what_cannot_be_understood_is_refused_and_changes_nothing(
    daemon: AttributeTypeDaemon, path: str, body: object, part: str
) -> None:
    daemon.accept({"a": 1})
    answer = await post(daemon, path, body, status=422)
    (error,) = answer["errors"]
    assert answer["success"] is False
    assert error["code"] == "wrong_type"
    assert part in error["message"]
    assert daemon.learned() == {("Buy", "a"): "number"}
    assert daemon.noted == []


async def test_who_may_not_change_anything_changes_nothing(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"a": 1})
    daemon.allowed = False
    for path, body in (("forget", {"name": "Buy"}), ("import", {"types": {}})):
        answer = await post(daemon, path, body, status=401)
        assert answer["errors"][0]["code"] == "unauthorized"
    assert daemon.learned() == {("Buy", "a"): "number"}


async def test_other_paths_are_not_there(daemon: AttributeTypeDaemon) -> None:
    for path in ("forgets", "forget/x", "list"):
        await post(daemon, path, {"name": "Buy"}, status=404)


async def test_a_disk_that_fails_is_told_and_the_types_are_forgotten_until_a_restart(
    daemon: AttributeTypeDaemon,
) -> None:
    daemon.accept({"a": 1})
    daemon.disk_fails = True
    answer = await post(daemon, "forget", {"name": "Buy"}, status=503)
    assert answer["errors"][0]["code"] == "buffer_unavailable"
    assert daemon.learned() == {}


async def test_a_disk_that_has_no_room_for_long_is_told_and_the_change_is_kept_as_soon_as_there_is(
    daemon: AttributeTypeDaemon,
) -> None:
    daemon.accept({"a": 1, "b": 1})
    daemon.room, daemon.note_seconds = asyncio.Event(), 0.1
    async with asyncio.timeout(30):
        answer = await post(daemon, "forget", {"name": "Buy", "attribute": "a"}, status=503)
        assert answer["errors"][0]["code"] == "buffer_unavailable"
        await post(daemon, "import", {"types": {"Buy": {"b": "number", "c": "date"}}}, status=503)
    assert daemon.learned() == {("Buy", "b"): "number", ("Buy", "c"): "date"}, "it is in force"
    assert daemon.noted == []
    daemon.room.set()
    await asyncio.sleep(0.05)
    assert [list(each) for each in daemon.noted] == [[("Buy", "a")], [("Buy", "b"), ("Buy", "c")]]


async def test_a_disk_that_fails_when_nobody_waits_any_more_is_no_error_of_the_event_loop(
    daemon: AttributeTypeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.accept({"a": 1})
    daemon.room, daemon.note_seconds, daemon.disk_fails = asyncio.Event(), 0.05, True
    await post(daemon, "forget", {"name": "Buy"}, status=503)
    daemon.room.set()
    await asyncio.sleep(0.05)
    gc.collect()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("expected", "found", "action", "is_ignored"),
    [
        ("number", "string", "observe", True),
        ("number", "date", "observe", True),
        ("string", "date", "observe", False),
        ("date", "string", "observe", False),
        ("number", "string", "coerce", False),
        ("number", "string", "strip", False),
        ("number", "string", "reject", False),
    ],
)
def test_the_log_says_that_growlytics_ignores_only_what_it_gets_and_surely_ignores(
    caplog: pytest.LogCaptureFixture,
    expected: AttributeType,
    found: AttributeType,
    action: ConflictAction,
    is_ignored: bool,
) -> None:
    Telemetry().attribute_conflicts_first(name="Buy", attribute="a", expected=expected, found=found, action=action)
    (record,) = caplog.records
    assert record.getMessage().startswith("an attribute changed its type")
    assert ("Growlytics ignores it" in record.getMessage()) == is_ignored
