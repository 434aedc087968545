"""What an operator sees of the inside of a running daemon, and who is an operator."""

import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.system.processes import KEY, example_event, running_daemon, running_sandbox

PARTS = {"process", "versions", "settings", "metrics", "tasks", "threads", "log"}
TOKEN = "s3cret-token-of-operators"


def over(path: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path)))


async def test_an_operator_sees_every_part_and_no_secret(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, f"{sandbox.url}?CANARY=1", intake__token=TOKEN) as daemon,
    ):
        async with daemon.http.post(
            f"{daemon.base}/track/event", json=example_event(1), headers={"x-growlytics-key": TOKEN}
        ) as answer:
            assert answer.status == 200
        async with over(tmp_path / "buffer" / "control.sock") as control, control.get("/v1/debug") as answer:
            assert answer.status == 200
            text = await answer.text()
    content: dict[str, Any] = json.loads(text)
    assert content.keys() == PARTS
    for secret in (KEY, TOKEN, "CANARY"):
        assert secret not in text
    assert content["process"]["pid"] == daemon.process.pid
    assert 0 < content["process"]["descriptors"]["open"] < content["process"]["descriptors"]["soft_limit"]
    assert content["versions"]["loop"] in {"uvloop", "asyncio"}
    assert content["settings"]["growlytics"]["api_key"] == "********"
    assert "growlytics_forwarder_events_accepted_total" in content["metrics"]
    assert {"delivery", "buffer", "forecast"} <= {task["name"] for task in content["tasks"]}
    assert {"MainThread", "database", "log writer"} <= {thread["name"] for thread in content["threads"]}
    messages = [json.loads(line)["message"] for line in content["log"]]
    assert messages[0] == "starting"
    assert "ready" in messages


async def test_parts_can_be_asked_for_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:1/") as daemon,
        over(tmp_path / "buffer" / "control.sock") as control,
    ):
        async with control.get("/v1/debug?parts=process,log") as answer:
            assert (await answer.json()).keys() == {"process", "log"}
        async with control.get("/v1/debug?parts=process,CANARY") as answer:
            assert answer.status == 422
            assert "versions, settings, metrics" in (await answer.json())["message"]
        async with daemon.http.get(f"{daemon.base}/v1/debug") as answer:
            assert answer.status == 401, "over TCP without a token"
