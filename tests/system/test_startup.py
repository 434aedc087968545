"""Commands start fast: they find a running daemon, ask it and show the answer in little more time than Python takes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.processes import COMMAND, clean_environment, run_command, running_daemon, running_sandbox

MAX_RATIO = 4
"""The CPU of a command, as a multiple of what `import asyncio` takes in the same Python."""
MIN_ROUNDS = 3
MAX_ROUNDS = 20
BASE = (sys.executable, "-c", "import asyncio")

FAST: list[tuple[str, ...]] = [
    ("dead-letters", "list"),
    ("attribute-types", "list"),
    ("send", "--customer=c", "--name=n"),
    ("status",),
    ("status", "--json"),
]
"""Commands that are used while something is wrong, with the machine perhaps busy, each against a running daemon."""
THOROUGH: list[tuple[str, ...]] = [("diagnose", "--json"), ("bundle", "bundle.tar.gz", "--force")]
"""The same, but they need all settings, and try the whole way to where events go, which answers."""
DRAWING: list[tuple[str, ...]] = [("top", "--once")]
"""The same, but they draw with a library that takes as long to import as all else."""
NEVER_IMPORTED = {"aiohttp", "asyncio", "attr", "prometheus_client", "tenacity"}


def cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """Run a command, and return the time that it spent in user and kernel mode."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in {0, 1}, command
    return usage.ru_utime + usage.ru_stime


def ratio(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return how much more CPU a command takes than `BASE`, each in the best of several runs that alternate.

    Another process may slow a run down, but nothing makes one faster. So a few runs may show that a command is fast enough,
    and only many that it is not.
    """
    base = ours = float("inf")
    for number in range(MAX_ROUNDS):
        base = min(base, cpu_seconds(BASE, environment))
        ours = min(ours, cpu_seconds([*COMMAND, *command], environment))
        if number >= MIN_ROUNDS and ours < MAX_RATIO * base:
            break
    return ours / base


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings that name a daemon by its control socket."""
    file = tmp_path / "config.toml"
    file.write_text(f'[buffer]\ndirectory = "{tmp_path}/buffer"\n')
    return file


@pytest.mark.parametrize("command", [*FAST, *THOROUGH], ids=lambda command: command[0])
async def test_a_command_takes_at_most_four_times_the_cpu_of_importing_asyncio(
    command: tuple[str, ...], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = clean_environment(FORWARDER_CONFIG=str(config))
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url):
        code, out, err = await run_command(*command, environment=environment)
        assert code == 0, err
        if command[0] == "diagnose":
            found = {each["check"]: each["result"] for each in json.loads(out)["checks"]}
            assert (found["answer"], found["clock"]) == ("ok", "ok"), "nothing is left out"
        assert await asyncio.to_thread(ratio, command, environment) <= MAX_RATIO


@pytest.mark.parametrize("command", [*FAST, *THOROUGH, *DRAWING], ids=lambda command: command[0])
async def test_a_command_imports_nothing_that_only_the_daemon_needs(
    command: tuple[str, ...], config: Path, tmp_path: Path
) -> None:
    never = NEVER_IMPORTED - {"attr"} | {"msgspec"} if command in THOROUGH else NEVER_IMPORTED
    program = (
        "import sys; from forwarder.cli import main; main(sys.argv[1:]); sys.stdout.flush(); "
        f"print(sorted(sys.modules.keys() & {sorted(never)}), file=sys.stderr)"
    )
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, *command),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(FORWARDER_CONFIG=str(config)),
            cwd=tmp_path,
        )
        async with asyncio.timeout(60):
            _, err = await process.communicate()
        assert process.returncode == 0
    assert err.decode().splitlines()[-1] == "[]"
