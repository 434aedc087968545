"""The endpoints of attribute types, over HTTP: what they answer, what they change, and who may."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

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
        "types": [
            {"name": "Buy", "attribute": "Total", "type": "number", "fixed": True, "first_seen": None, "conflicts": 1},
            {"name": "Buy", "attribute": "Price", "type": "number", "fixed": False, "first_seen": NOW, "conflicts": 1},
        ],
    }
    await get(daemon, "/x", status=404)


async def test_a_long_list_is_whole_and_lets_others_have_their_turn() -> None:
    async with attribute_type_daemon(max_types=20_000) as daemon:
        daemon.types.imported({("Buy", f"a{number}"): "number" for number in range(10_500)})
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        listed = (await get(daemon))["types"]
        counting.cancel()
        assert [each["attribute"] for each in listed] == [f"a{number}" for number in range(10_500)]
        assert turns > 10


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
    for path, body in (("forget", {"name": "Buy"}), ("import", {"types": {}}), ("other", {})):
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
