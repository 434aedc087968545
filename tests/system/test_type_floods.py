"""Apps that put ids into names, on the real command: the guard goes on for all others, also after a restart, and says so."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.system.processes import Daemon, running_daemon

NOWHERE = "http://127.0.0.1:1/track/event"
CONFLICTS = 'growlytics_forwarder_attribute_type_conflicts_total{action="observe",kind="hard"}'
STRANGE = "Bad\n\x1b[31mEvent"
"""A name that must not be written to a log as it is."""


def event(name: str, **attributes: object) -> dict[str, object]:
    return {"name": name, "customerId": "c", "time": 1_700_000_000_000, "attributes": attributes}


def flood(name: str, *values: object) -> list[dict[str, object]]:
    """Return events with 10,000 attribute names, which come with each of the values."""
    return [
        event(name, **{f"user {number} clicked": value for number in range(start, start + 50)})
        for start in range(0, 10_000, 50)
        for value in values
    ]


async def post(daemon: Daemon, events: Sequence[dict[str, object]]) -> None:
    data = json.dumps(events, separators=(",", ":"))
    headers = {"Content-Type": "application/json"}
    async with daemon.http.post(f"{daemon.base}/v1/events", data=data, headers=headers) as response:
        assert response.status == 202, await response.text()
        assert (await response.json())["accepted"] == len(events)


async def types(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = (await daemon.status())["attribute_types"]
    return found


async def is_guarded(daemon: Daemon, name: str, attribute: str) -> bool:
    """Whether a new attribute that changes its type from one request to the next is noticed."""
    before = (await daemon.metrics())[CONFLICTS]
    await post(daemon, [event(name, **{attribute: 1})])
    await post(daemon, [event(name, **{attribute: "x"})])
    return (await daemon.metrics())[CONFLICTS] == before + 1


async def test_ten_thousand_attribute_names_in_one_request_take_a_share_and_one_line(tmp_path: Path) -> None:
    settings = {"intake__max_body_bytes": "4 MiB", "shutdown__drain_seconds": 0}
    async with running_daemon(tmp_path, NOWHERE, **settings) as daemon:
        await post(daemon, [event("Good", Price=1)] * 2)
        before = len(daemon.lines)
        await post(daemon, flood(STRANGE, 1, "x"))
        assert await is_guarded(daemon, "Good", "Discount")
        assert await is_guarded(daemon, STRANGE, "Price")
        await post(daemon, [event("Good", Price="x")])
        assert (await types(daemon))["learned"] == 1002
        assert (await types(daemon))["full"] is False
        assert (await types(daemon))["not_remembered"] >= 9000
        lines = [line for line in daemon.lines[before:] if line["level"] == "warning" and "name" in line]
        (crowded,) = [line for line in lines if "too many attributes" in line["message"]]
        assert crowded["name"] == "Bad\\n\\x1b[31mEvent"
        conflicts = [(line["name"], line["attribute"]) for line in lines if line is not crowded]
        assert conflicts == [("Good", "Discount"), ("Good", "Price")], "not those of each name that is an id"
        assert await daemon.stop() == 0
    async with running_daemon(tmp_path, NOWHERE, **settings) as daemon:
        assert (await types(daemon))["learned"] <= 1002
        assert await is_guarded(daemon, "Good", "New")
        assert await is_guarded(daemon, STRANGE, "New")
        before_conflict = (await daemon.metrics())[CONFLICTS]
        await post(daemon, [event("Good", Price="x")])
        assert (await daemon.metrics())[CONFLICTS] == before_conflict + 1, "what it learned at first is still known"


async def test_ten_thousand_event_names_are_remembered_in_turn_and_leave_what_comes_again(tmp_path: Path) -> None:
    settings = {"intake__max_body_bytes": "4 MiB", "shutdown__drain_seconds": 0, "contract__max_attribute_types": 1000}
    async with running_daemon(tmp_path, NOWHERE, **settings) as daemon:
        await post(daemon, [event("Good", Price=1)])
        await post(daemon, [event("Good", Price=2)])
        for start in (0, 5000):
            for value in (1, "x"):
                await post(daemon, [event(f"Order {number}", x=value) for number in range(start, start + 5000)])
        assert (await types(daemon))["learned"] == 1000
        assert await is_guarded(daemon, "New", "Price")
        before = (await daemon.metrics())[CONFLICTS]
        await post(daemon, [event("Good", Price="x")])
        assert (await daemon.metrics())[CONFLICTS] == before + 1
        written = [line for line in daemon.lines if line["level"] == "warning"]
        assert len(written) < 30
