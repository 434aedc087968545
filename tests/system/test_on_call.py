"""Somebody is on call: the status names the cause in words, its commands work as typed, and the fix ends the state."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import Daemon, until
from tests.system.states import OTHERS, STATES, Situation, typed


async def status_of(daemon: Daemon, *, cwd: Path) -> tuple[int, dict[str, Any]]:
    """Ask for the status with the command, as from another directory; return its exit code too."""
    code, out, err = await typed(f"growlytics-forwarder status --json --unix-socket '{daemon.unix_socket}'", cwd=cwd)
    assert err == ""
    content: dict[str, Any] = json.loads(out)
    return code, content


async def until_seen(situation: Situation, *, cwd: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Wait until the status shows the problem; return the exit code, the status and the problem."""

    async def seen() -> Any:
        code, content = await status_of(situation.daemon, cwd=cwd)
        problem = next((each for each in content["problems"] if each["kind"] == situation.kind), None)
        return problem and (code, content, problem)

    found: tuple[int, dict[str, Any], dict[str, Any]] = await until(seen, f"the status shows {situation.kind}")
    return found


RECOMMENDED = {
    "unknown_host": "growlytics-forwarder diagnose ",
    "expired_certificate": "growlytics-forwarder diagnose ",
    "refused_connection": "growlytics-forwarder diagnose ",
    "captive_portal": "growlytics-forwarder diagnose ",
    "refusing_proxy": "growlytics-forwarder diagnose ",
    "systemic_rejection": "growlytics-forwarder dead-letters list ",
    "poison_event": "growlytics-forwarder dead-letters bury ",
    "type_drift": "growlytics-forwarder attribute-types list ",
    "full_disk": "df -h ",
}
"""What the command is that a state needs. For the others it is a file to write, to put back, or somebody to ask."""


async def do_what_it_recommends(problem: dict[str, Any], *, cwd: Path) -> None:
    """Type every command of a problem. Each does what it says, but `diagnose` has to find the cause."""
    for command in problem["commands"]:
        code, out, err = await typed(command, cwd=cwd)
        if command.startswith("growlytics-forwarder diagnose"):
            assert code == 1, command
            assert problem["cause"].partition(" (")[0] in out
        else:
            assert code == 0, (command, err)


async def until_over(situation: Situation, *, cwd: Path) -> dict[str, Any]:
    """Do what is recommended until the status shows neither the problem nor what it left behind, and return the status."""

    async def over() -> Any:
        code, content = await status_of(situation.daemon, cwd=cwd)
        for problem in content["problems"]:
            if problem["kind"] == "dead_letters":
                await do_what_it_recommends(problem, cwd=cwd)
        is_well = content["headline"]["state"] == "delivering" and not content["problems"]
        return code == 0 and is_well and content["ledger"]["for_ever"]["buffered"] == 0 and content

    found: dict[str, Any] = await until(over, f"{situation.kind} is over", seconds=60)
    return found


@pytest.mark.parametrize("name", [*STATES, *OTHERS])
async def test_the_status_names_the_cause_its_commands_work_as_typed_and_the_fix_ends_it(
    tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    async with (STATES | OTHERS)[name](tmp_path) as situation:
        code, content, problem = await until_seen(situation, cwd=elsewhere)
        assert content["headline"]["state"] == situation.headline
        assert content["problems"][0]["mood"] == problem["mood"], "nothing worse hides it"
        assert code == (1 if content["headline"]["mood"] == "bad" else 0)
        for words in situation.words:
            assert words in problem["cause"]
        assert problem["fix"]
        assert bool(problem["commands"]) == (name in RECOMMENDED)
        assert all(command.startswith(RECOMMENDED[name]) for command in problem["commands"])
        await do_what_it_recommends(problem, cwd=elsewhere)
        await situation.end()
        content = await until_over(situation, cwd=elsewhere)
        ledger = content["ledger"]["for_ever"]
        assert (ledger["unaccounted"], sum(ledger["dropped"].values())) == (0, 0)
        assert content["headline"]["text"].startswith("All accepted events are safe. Delivering: no event waits")
