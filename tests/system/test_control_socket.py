"""The control socket of the real command: there by default, for operators alone, and never in the way of a start."""

import json
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.docs import ROOT
from tests.fakes.other_users import NEEDS_ROOT, User, open_directory
from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

NOWHERE = "http://127.0.0.1:1/track/event"
GROUP = 54400
TOKEN = "s3cret-token-of-operators"
OPEN_TO_ALL = {
    "GET /",
    "GET /openapi.yaml",
    "GET /v1/status",
    "GET /v1/events/{id}",
    "GET /v1/dead-letters",
    "GET /v1/attribute-types",
    "POST /track/event",
    "POST /v1/events",
}
"""What needs no operator. Whatever else there is shows payloads or changes something."""


def routes() -> set[str]:
    """Return the methods and paths of every documented route; a unit test compares them with those that are served."""
    document = yaml.safe_load((ROOT / "forwarder/intake/openapi.yaml").read_text(encoding="utf-8"))
    return {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods.keys() - {"x-control-only"}
    }


def control_only() -> set[str]:
    """Return the paths that there are on the control socket alone."""
    document = yaml.safe_load((ROOT / "forwarder/intake/openapi.yaml").read_text(encoding="utf-8"))
    return {path for path, methods in document["paths"].items() if "x-control-only" in methods}


def requests(of: set[str]) -> list[tuple[str, str, str]]:
    """Return a request for each route, of a dead letter that does not exist where it is about one."""
    found = []
    for each in sorted(of):
        method, _, path = each.partition(" ")
        found.append((method, re.sub(r"\{\w+\}", "1", path), '{"ids":["1"]}' if method == "POST" else ""))
    return found


@asynccontextmanager
async def over(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        "http://localhost", connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(total=30)
    ) as session:
        yield session


def warnings(daemon: Daemon) -> list[str]:
    return [line["message"] for line in daemon.lines if line["level"] == "warning" and "control" in line["message"]]


async def test_it_is_there_by_default_for_its_owner_alone_and_needs_no_token(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, intake__token=TOKEN) as daemon:
        path = tmp_path / "buffer" / "control.sock"
        assert daemon.ready["control"] == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with over(path) as control:
            async with control.post("/track/event", json=example_event(1)) as answer:
                assert answer.status == 200
            async with control.get("/v1/dead-letters?payload=true") as answer:
                assert answer.status == 200
        metrics = await daemon.metrics()
        assert metrics['growlytics_forwarder_events_accepted_total{intake="unix"}'] == 1
        assert await daemon.stop() == 0
        assert not path.exists()
        assert warnings(daemon) == []


async def test_it_shows_the_status_while_the_daemon_drains_and_accepts_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=60) as daemon:
        async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as answer:
            assert answer.status == 200
        daemon.process.send_signal(signal.SIGTERM)
        async with over(tmp_path / "buffer" / "control.sock") as control:

            async def state() -> str:
                async with control.get("/v1/status") as answer:
                    return str((await answer.json())["state"])

            async def drains() -> bool:
                return await state() == "draining"

            await until(drains, "it drains")
            async with control.post("/track/event", json=example_event(2)) as answer:
                assert answer.status == 503
                assert (await answer.json())["code"] == "shutting_down"
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.process.wait() == 0


@pytest.mark.parametrize(
    "trouble", ["too long", "no directory", "memory", "a file", "in use", "stale", "off", "shared", "the app's"]
)
async def test_whatever_is_wrong_with_its_place_the_daemon_starts_with_one_warning(
    tmp_path: Path, trouble: str
) -> None:
    more: dict[str, object] = {}
    place = tmp_path / "c.sock"
    holder = socket.socket(socket.AF_UNIX)
    match trouble:
        case "too long":
            more["control__socket"] = tmp_path / ("x" * 120)
        case "no directory":
            more["control__socket"] = tmp_path / "nowhere" / "c.sock"
        case "memory":
            more |= {"buffer__kind": "memory", "buffer__directory": tmp_path / "nowhere"}
        case "a file":
            place.write_text("precious")
            more["control__socket"] = place
        case "in use" | "stale":
            holder.bind(str(place))
            holder.listen()
            more["control__socket"] = place
            if trouble == "stale":
                holder.close()
        case "shared":
            more["buffer__directory"] = tmp_path
        case "the app's":
            more |= {"intake__unix_socket": place, "control__socket": place}
        case _:
            more["control__socket"] = ""
    with holder:
        async with running_daemon(tmp_path, NOWHERE, **more) as daemon:
            is_there = "control" in daemon.ready
            assert await daemon.stop() == 0
    assert is_there is (trouble == "stale")
    assert len(warnings(daemon)) == (0 if trouble in {"stale", "off"} else 1)
    assert trouble != "a file" or place.read_text() == "precious"
    assert trouble != "in use" or place.exists()


async def test_it_is_in_the_units_directory_that_the_app_does_not_share(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    os.environ["RUNTIME_DIRECTORY"] = f"{tmp_path}:{tmp_path / 'unit'}"
    try:
        async with running_daemon(tmp_path, NOWHERE) as daemon:
            assert daemon.ready["control"] == str(tmp_path / "unit" / "control.sock")
    finally:
        del os.environ["RUNTIME_DIRECTORY"]


@NEEDS_ROOT
async def test_it_is_open_to_the_group_of_the_settings_and_closed_again_without_a_restart() -> None:
    with open_directory() as directory:
        config = directory / "config.toml"
        config.write_text(f"[control]\nsocket = '{directory / 'c.sock'}'\ngroup = {GROUP}\n")
        async with running_daemon(directory, NOWHERE, config=config) as daemon:
            show = ("GET", "/v1/dead-letters?payload=true", "")
            member = User(groups=(GROUP,))
            assert await member.ask(directory / "c.sock", show) == [(200, "")]
            assert stat.S_IMODE((directory / "c.sock").stat().st_mode) == 0o660
            await reloaded(daemon, config, f"[control]\nsocket = '{directory / 'c.sock'}'\n")
            assert stat.S_IMODE((directory / "c.sock").stat().st_mode) == 0o600
            with pytest.raises(AssertionError):
                await member.ask(directory / "c.sock", show)


async def reloaded(daemon: Daemon, config: Path, content: str) -> None:
    """Give a daemon other settings, which must be so, and wait until it has them."""
    before = len(daemon.lines)
    config.write_text(content)  # noqa: ASYNC240 - at once
    daemon.process.send_signal(signal.SIGHUP)
    await until(lambda: any("read again" in line["message"] for line in daemon.lines[before:]), "it says so")


@NEEDS_ROOT
async def test_a_reload_gives_nothing_but_the_control_socket_to_the_group(tmp_path: Path) -> None:
    config, place, precious = tmp_path / "config.toml", tmp_path / "c.sock", tmp_path / "precious"
    config.write_text("")
    precious.write_text("precious")
    precious.chmod(0o600)
    async with running_daemon(tmp_path, NOWHERE, config=config, control__socket=place) as daemon:
        place.unlink()
        place.symlink_to(precious)
        await reloaded(daemon, config, f"[control]\ngroup = {GROUP}\n")
        found = precious.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o600, 0)
        assert len(warnings(daemon)) == 1
    assert precious.exists()


async def test_a_reload_leaves_the_apps_socket_open_if_the_control_socket_had_its_path(tmp_path: Path) -> None:
    config, place = tmp_path / "config.toml", tmp_path / "app.sock"
    config.write_text(f"[control]\ngroup = {os.getgid()}\n")
    both = {"intake__unix_socket": place, "control__socket": place}
    async with running_daemon(tmp_path, NOWHERE, config=config, **both) as daemon:
        (warning,) = [line for line in daemon.lines if "no control socket" in line["message"]]
        assert "a socket for apps" in warning["error"]
        await reloaded(daemon, config, "")
        assert stat.S_IMODE(place.stat().st_mode) == 0o660


async def test_whatever_became_of_its_directory_the_daemon_ends_well(tmp_path: Path) -> None:
    place = tmp_path / "own" / "c.sock"
    place.parent.mkdir()
    async with running_daemon(tmp_path, NOWHERE, control__socket=place) as daemon:
        place.unlink()
        place.parent.rmdir()
        place.parent.write_text("a file now")
        assert await daemon.stop() == 0


@NEEDS_ROOT
async def test_no_route_of_operators_answers_to_others() -> None:
    guarded = requests(routes() - OPEN_TO_ALL)
    alone = {re.sub(r"\{\w+\}", "1", path) for path in control_only()}
    assert len(guarded) >= 5
    assert routes() > OPEN_TO_ALL
    with open_directory() as directory:
        config = directory / "config.toml"
        config.write_text(f"[intake]\nunix_socket_mode = '0666'\n[control]\ngroup = {GROUP}\n")
        async with running_daemon(directory, NOWHERE, config=config) as daemon:
            for method, path, body in guarded:
                async with daemon.http.request(method, daemon.base + path, data=body, headers=JSON) as answer:
                    assert answer.status == (404 if path in alone else 401), (method, path)
                    assert "dead_letters" not in await answer.text()
                async with daemon.http.request(method, daemon.admin + path, data=body, headers=JSON) as answer:
                    assert answer.status in {404, 405, 413}, (method, path)
            stranger = await User().ask_closely(daemon.unix_socket, *guarded)
            member = await User(groups=(GROUP,)).ask_closely(daemon.unix_socket, *guarded)
            for (method, path, _), (status, code, _), (status_of_member, code_of_member, _) in zip(
                guarded, stranger, member, strict=True
            ):
                assert (status, code) in {(403, "forbidden_user"), (404, "not_found")}, (method, path)
                assert status == 404 or code_of_member != "forbidden_user", (method, path, status_of_member)
            assert [status for status, *_ in stranger].count(404) == len(control_only())


JSON = {"Content-Type": "application/json"}


async def test_with_a_token_they_answer_over_tcp_to_those_who_send_it(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, intake__token=TOKEN) as daemon:
        for method, path, body in requests(routes() - OPEN_TO_ALL):
            for token, statuses in (("wrong", {401}), (TOKEN, {200, 202, 400, 404, 409, 422})):
                headers = {**JSON, "x-growlytics-key": token}
                async with daemon.http.request(method, daemon.base + path, data=body, headers=headers) as answer:
                    assert answer.status in statuses, (method, path)
                    assert json.loads(await answer.text())


async def test_a_group_that_cannot_enter_the_directory_is_told_at_the_start(tmp_path: Path) -> None:
    said = "the members of control.group cannot enter the control socket's directory: set control.socket to a path in a"
    group = os.getegid()
    with open_directory() as directory:
        alone: dict[str, object] = {"control__group": group, "intake__unix_socket": ""}
        async with running_daemon(directory, NOWHERE, **alone) as daemon:
            await until(lambda: bool(warnings(daemon)), "it says so")
            assert warnings(daemon)[0].startswith(said)
        for other in ({"control__socket": directory / "c"}, {"intake__unix_socket": directory / "intake.sock"}):
            async with running_daemon(directory, NOWHERE, **{**alone, **other}) as daemon:
                assert warnings(daemon) == []
