"""Every command that the status, a log line or a runbook recommends works as typed, wherever the daemon has its files."""

import asyncio
import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.quoted_commands import is_whole, quoted_in
from tests.system.processes import COMMAND, KEY, Daemon, running_daemon, starting_daemon, until
from tests.system.scripted_far_side import running_far_side
from tests.system.states import QUICK, post, typed

RUNBOOKS = Path(__file__).parents[2] / "deploy/prometheus/README.md"
ODD = 'it\'s "my" $HOME `dir`; & grün'
TOKEN = "recommended-token"
KINDS = {"suspect", "dead_letters", "type_conflict", "reload_failed"}


def odd_place(home: Path) -> dict[str, object]:
    """Everything is in a directory whose name a shell would misread."""
    return {"buffer__directory": home / ODD / "buffer", "intake__unix_socket": home / ODD / "intake.sock"}


def long_place(home: Path) -> dict[str, object]:
    """The path of the control socket is too long for one, so that there is only the app's."""
    return {"buffer__directory": home / ("long name " * 12) / "buffer", "intake__unix_socket": home / ODD / "i.sock"}


def tcp_place(home: Path) -> dict[str, object]:
    """There is no Unix socket at all, but a token."""
    token_file = home / ODD / "token"
    token_file.write_text(TOKEN)
    return {"control__socket": "", "intake__unix_socket": "", "intake__token_file": token_file}


async def status_of(daemon: Daemon) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with daemon.http.get(f"{daemon.base}/v1/status", headers=headers) as response:
        status: dict[str, Any] = await response.json()
        return status


def in_log(daemon: Daemon) -> list[str]:
    """Return the commands that its log recommends."""
    found = (re.search(r"see (\S*growlytics-forwarder .*)", line["message"]) for line in daemon.lines)
    return [each[1] for each in found if each]


async def with_all_kinds(daemon: Daemon, config: Path) -> list[dict[str, Any]]:
    """Make every kind of trouble whose commands can be typed, and return the problems."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    await post(daemon, 1, headers=headers, Price=1)
    await until(lambda: is_delivered(daemon), "the key has delivered something")
    await post(daemon, 2, headers=headers, Price="1")
    await post(daemon, 3, headers=headers)
    await post(daemon, 0, headers=headers)
    reload_with_a_mistake(daemon, config)

    async def shown() -> Any:
        problems = (await status_of(daemon))["problems"]
        return {each["kind"] for each in problems} >= KINDS and len(set(in_log(daemon))) >= 2 and problems

    found: list[dict[str, Any]] = await until(shown, f"the status shows {KINDS}")
    return found


def reload_with_a_mistake(daemon: Daemon, config: Path) -> None:
    config.write_text("[no such section]\n")
    daemon.process.send_signal(signal.SIGHUP)


async def is_delivered(daemon: Daemon) -> bool:
    delivered: int = (await status_of(daemon))["ledger"]["since_start"]["delivered"]
    return delivered > 0


def script(number: int, _: int) -> int:
    """Reject number 3, and let something on the way refuse number 0."""
    return {0: 403, 3: 422}.get(number, 200)


@pytest.mark.parametrize("place", [odd_place, long_place, tcp_place], ids=lambda place: place.__name__)
async def test_what_the_status_and_the_log_recommend_works_as_typed(tmp_path: Path, place: Any) -> None:
    (tmp_path / ODD).mkdir()
    config, elsewhere = tmp_path / "config.toml", tmp_path / "elsewhere"
    config.write_text("")
    elsewhere.mkdir()
    settings: Mapping[str, object] = {**QUICK, **place(tmp_path), "config": config}
    async with running_far_side(script) as far, running_daemon(tmp_path, far.url, **settings) as daemon:
        problems = await with_all_kinds(daemon, config)
        commands = [command for problem in problems for command in problem["commands"]]
        assert len(commands) >= 6
        commands += [command for problem in problems for command in quoted_in(problem["fix"])]
        for command in dict.fromkeys((*commands, *in_log(daemon))):
            code, _, err = await typed(command, cwd=elsewhere)
            assert code == 0, (command, err)
        assert daemon.process.returncode is None


async def test_where_the_path_has_no_such_command_it_is_recommended_with_its_own_path(tmp_path: Path) -> None:
    without = ["env", f"PATH={os.defpath}", *COMMAND]
    async with (
        running_far_side(script) as far,
        starting_daemon(tmp_path, far.url, without, **QUICK) as daemon,
    ):
        assert await daemon.until_ready(), daemon.lines
        await post(daemon, 1)
        await until(lambda: is_delivered(daemon), "the key has delivered something")
        await post(daemon, 3)

        async def recommended() -> Any:
            return [command for problem in (await status_of(daemon))["problems"] for command in problem["commands"]]

        commands = await until(recommended, "there is a dead letter")
        for command in (*commands, *await until(lambda: in_log(daemon), "the log says so")):
            code, _, err = await typed(command, cwd=tmp_path, PATH=os.defpath)
            assert code == 0, (command, err)


def in_runbooks() -> list[str]:
    """Return the commands that the runbooks recommend, as they stand there."""
    return quoted_in(RUNBOOKS.read_text(encoding="utf-8").partition("## Every metric")[0])


def test_what_looks_like_a_command_in_the_runbooks_is_whole() -> None:
    assert [each for each in in_runbooks() if not is_whole(each)] == []
    assert len(in_runbooks()) >= 12


NEEDS_A_SUBJECT = ("show", "bury", "purge")
"""Actions with the id of a dead letter, or of an event that waits."""


@pytest.mark.parametrize("command", in_runbooks())
async def test_what_the_runbooks_recommend_works_as_typed_where_the_settings_are_named(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / ODD).mkdir()
    config, events = tmp_path / ODD / "config.toml", tmp_path / "events.ndjson"
    events.write_text('{"name": "Buy", "customerId": "c", "time": 1700000000000, "attributes": {}}\n')
    settings: Mapping[str, object] = {**QUICK, "buffer__directory": tmp_path / "b c"}
    async with running_far_side(script) as far, running_daemon(tmp_path, far.url, **settings) as daemon:
        await asyncio.to_thread(config.write_text, settings_of(daemon, far.url, tmp_path / "b c"))
        await post(daemon, 1, Price=1)
        await until(daemon.drained, "the key has delivered something")
        await post(daemon, 3)
        await post(daemon, 0)
        command = command.replace("NAME ATTRIBUTE", "'Add To Cart' Price")
        subjects: dict[str, str] = await until(lambda: ids_of(daemon), "there is a dead letter and a suspect")
        words = command.split()
        for action in NEEDS_A_SUBJECT:
            if action in words:
                command = command.replace("ID", subjects[action])
        files = {"lint": events, "check-config": config, "bundle": tmp_path / "bundle.tar.gz"}
        file = shlex.quote(str(files.get(words[1])))
        command = (
            command.replace("FILE", file) if "FILE" in words else f"{command} {file}" if words[1] == "lint" else command
        )
        if words[1] == "tap":
            command += " | head -n 1"  # it goes on until its reader has seen enough
        code, _, err = await typed(command, cwd=tmp_path, FORWARDER_CONFIG=str(config), GROWLYTICS_API_KEY=KEY)
        assert code == 0, err


def settings_of(daemon: Daemon, url: str, buffer: Path) -> str:
    """Return the settings of a daemon, as far as commands read them."""
    return (
        f'growlytics.url = "{url}"\nintake.http = ""\nintake.unix_socket = "{daemon.unix_socket}"\nadmin.http = ""\n'
        f'buffer.directory = "{buffer}"\n'
    )


async def ids_of(daemon: Daemon) -> dict[str, str] | None:
    """Return the ids of a dead letter and of a suspect, by the actions for them."""
    status = await daemon.status()
    dead, suspect = status["recent"]["dead_letters"], status["delivery"]["suspects"]["first"]
    return {"show": dead[0]["id"], "purge": dead[0]["id"], "bury": suspect["id"]} if dead and suspect else None
